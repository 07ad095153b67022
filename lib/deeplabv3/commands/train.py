"""``deeplabv3 train``: one network, trained and evaluated on whole pictures."""

import argparse
from dataclasses import replace
from typing import Any

from deeplabv3.commands.common import data_options, profile_of, profile_verb
from deeplabv3.commands.evaluate import show_evaluation


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "train", main, "train one network and evaluate it on whole pictures")
    data_options(verb)
    verb.add_argument("--backbone-weights", metavar="FILE", help="ImageNet weights: a file, or 'imagenet' to download")
    verb.add_argument(
        "--backbone", choices=("resnet50", "resnet101"), default="resnet101", help="as the paper names it"
    )
    verb.add_argument("--head", choices=("aspp", "cascade", "v2"), default="aspp")
    verb.add_argument("--output-stride", type=int, default=16)
    verb.add_argument("--multi-grid", type=int, nargs=3, metavar="RATE", help="unit rates (aspp: 1 2 4, else 1 1 1)")
    verb.add_argument("--last-block", type=int, default=4, help="4, or 5 to 7 for the cascade")
    verb.add_argument("--rates", type=int, nargs="*", default=[6, 12, 18], help="ASPP rates as the paper has them")
    verb.add_argument("--no-image-pooling", action="store_true")
    verb.add_argument("--seed", type=int)


def main(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.paper.experiments import train_run
    from deeplabv3.paper.records import Run

    profile = profile_of(options)
    if options.seed is not None:
        profile = replace(profile, seed=options.seed)
    grid = options.multi_grid or ((1, 2, 4) if options.head == "aspp" else (1, 1, 1))
    config = profile.model_config(
        options.backbone,
        head=options.head,
        output_stride=options.output_stride,
        multi_grid=tuple(grid),
        last_block=options.last_block,
        atrous_rates=tuple(options.rates),
        image_pooling=not options.no_image_pooling,
    )
    run = Run.of(profile, config)
    print(f"run {run.name}\nfolder {run.folder}")
    with tqdm(total=run.training.iterations, desc="training", unit="step") as bar:

        def report(step: int, loss: float, lr: float) -> None:
            bar.update(step + 1 - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.4f}", refresh=False)

        train_run(run, report)
    settings = replace(profile.evaluation, output_stride=config.output_stride)
    show_evaluation(run, settings, run.checkpoint, again=False)
    return 0
