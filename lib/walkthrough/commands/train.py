"""``deeplabv3 train``: one network, trained and evaluated on whole images, by one process or by torchrun's."""

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplabv3.errors import UserError
from walkthrough.commands.evaluate import show_evaluation
from walkthrough.commands.options import data_options, profile_of, profile_verb

if TYPE_CHECKING:
    from deeplabv3.distributed import ProcessGroup
    from walkthrough.profiles import Profile
    from walkthrough.records.run import Run


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "train", main, "train one network and evaluate it on whole images")
    data_options(verb)
    verb.add_argument("--backbone-weights", metavar="FILE", help="ImageNet weights: a file, or 'imagenet' to download")
    verb.add_argument("--init-from", type=Path, metavar="CHECKPOINT", help="start from its weights, as stage 2 does")
    verb.add_argument(
        "--backbone", choices=("resnet50", "resnet101"), default="resnet101", help="as the paper names it"
    )
    verb.add_argument("--head", choices=("aspp", "cascade", "v2"), default="aspp")
    verb.add_argument("--output-stride", type=int, help="by default the profile's")
    verb.add_argument("--multi-grid", type=int, nargs=3, metavar="RATE", help="unit rates (aspp: 1 2 4, else 1 1 1)")
    verb.add_argument("--last-block", type=int, default=4, help="4, or 5 to 7 for the cascade")
    verb.add_argument("--rates", type=int, nargs="*", default=[6, 12, 18], help="ASPP rates as the paper has them")
    verb.add_argument("--no-image-pooling", action="store_true")
    verb.add_argument("--seed", type=int)
    verb.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on where the run stands (default), or put its folder aside and begin again",
    )
    verb.add_argument(
        "--validate-every",
        type=int,
        default=0,
        metavar="STEPS",
        help="take the mIoU so often and keep the best network as best.safetensors",
    )


def main(options: argparse.Namespace) -> int:
    from deeplabv3.distributed import join, restarted

    if options.validate_every < 0:
        raise UserError(f"--validate-every is {options.validate_every}; it takes a whole number of at least 0.")
    with join() as processes:
        profile = _profile(options)
        if processes.is_main:
            profile.data_root()  # drawn once here rather than by every process
        processes.barrier()
        run = _run(profile, options)
        if processes.is_main:
            print(f"run {run.name}\nfolder {run.folder}")
            if not options.resume and not restarted():
                _put_aside(run)
        processes.barrier()
        _train(run, processes, options.validate_every)
    return 0


def _profile(options: argparse.Namespace) -> "Profile":
    profile = profile_of(options)
    if options.seed is not None:
        profile = replace(profile, seed=options.seed)
    if options.init_from is not None:
        profile = replace(profile, model=replace(profile.model, init_from=str(options.init_from)))
    if profile.model.init_from == "?":
        raise UserError(f"profile {profile.name!r} starts from a checkpoint; name it with --init-from.")
    return profile


def _run(profile: "Profile", options: argparse.Namespace) -> "Run":
    from walkthrough.records.run import Run

    grid = options.multi_grid or ((1, 2, 4) if options.head == "aspp" else (1, 1, 1))
    config = profile.model_config(
        options.backbone,
        head=options.head,
        output_stride=options.output_stride or profile.model.output_stride,
        multi_grid=tuple(grid),
        last_block=options.last_block,
        atrous_rates=tuple(options.rates),
        image_pooling=not options.no_image_pooling,
    )
    return Run.of(profile, config)


def _put_aside(run: "Run") -> None:
    """Give the run's folder another name, and its records with it: they say what other weights can do."""
    from walkthrough.records.lock import LOCK, is_held

    if is_held(run.folder / LOCK):
        raise UserError(f"another process is training run {run.name}; stop it first, or leave out --no-resume.")
    aside = run.folder.with_name(f"{run.name}.{time.strftime('%Y%m%d-%H%M%S')}")
    for folder, target in ((run.folder, aside), (run.record_folder(), aside / "records")):
        if folder.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, target)
    if aside.exists():
        print(f"what stood there is now {aside}")


def _train(run: "Run", processes: "ProcessGroup", validate_every: int) -> None:
    from tqdm import tqdm

    from walkthrough.experiments.run import evaluate_run, train_run

    with tqdm(total=run.training.iterations, desc="training", unit="step", disable=not processes.is_main) as bar:

        def report(step: int, loss: float, lr: float) -> None:
            if bar.n == 0 and step > 0:  # resumed: what was done before says nothing about the speed of now
                bar.initial = bar.n = bar.last_print_n = step
            bar.update(step + 1 - bar.n)
            rate = bar.format_dict["rate"] or 0.0
            images = f"{rate * run.training.batch_size:.1f}"
            bar.set_postfix({"loss": f"{loss:.3f}", "lr": f"{lr:.4f}", "images/s": images}, refresh=False)

        train_run(run, report, processes, validate_every)
    settings = replace(run.profile.evaluation, output_stride=run.config.output_stride)
    if processes.world_size > 1 and run.evaluation_record(settings) is None:
        evaluate_run(run, settings, processes=processes)
    if processes.is_main:
        show_evaluation(run, settings)
        _say_what_was_trained_on(run)


def _say_what_was_trained_on(run: "Run") -> None:
    data = run.profile.data
    trained, evaluated = (set(run.profile.open_data(name).names) for name in (data.train_list, data.val_list))
    if both := trained & evaluated:
        print(f"note: {len(both)} of these {len(evaluated)} images were trained on, so this is no validation result")
