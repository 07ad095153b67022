"""``deeplabv3 evaluate``: a checkpoint on whole pictures."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeplabv3.commands.common import data_options, profile_of, profile_verb
from deeplabv3.errors import UserError


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "evaluate", main, "evaluate a checkpoint on whole pictures")
    data_options(verb)
    verb.add_argument("checkpoint", type=Path)
    verb.add_argument("--output-stride", type=int, help="by default the one that the model was trained at")
    verb.add_argument("--scales", type=float, nargs="+", default=[1.0], help="for instance 0.5 0.75 1 1.25 1.5 1.75")
    verb.add_argument("--flip", action="store_true", help="average with the mirrored picture")


def main(options: argparse.Namespace) -> int:
    from deeplabv3.paper.records import Run
    from deeplabv3.training.checkpoint import load_model

    profile = profile_of(options)
    model, checkpoint = load_model(options.checkpoint)
    run = Run(profile, checkpoint.settings)
    classes = list(profile.data.class_map().values())
    if list(run.identity["data"]["classes"].values()) != classes:
        raise UserError(
            f"checkpoint {options.checkpoint} was trained for other classes than profile {profile.name!r} has "
            f"({', '.join(classes)}); choose the profile that trained it."
        )
    settings = replace(
        profile.evaluation,
        output_stride=model.output_stride if options.output_stride is None else options.output_stride,
        scales=tuple(options.scales),
        flip=options.flip,
    )
    show_evaluation(run, settings, options.checkpoint, again=True)
    return 0


def show_evaluation(run: Any, settings: Any, checkpoint: Path, again: bool) -> None:
    """Print the evaluation's record, measuring first where there is none or where ``again`` asks for it."""
    from tqdm import tqdm

    from deeplabv3.paper.experiments import evaluate_run

    record = None if again else run.evaluation_record(settings)
    if record is None:
        with tqdm(total=len(run.profile.open_data()), desc="evaluating", unit="picture") as bar:
            record = evaluate_run(run, settings, lambda done: bar.update(done - bar.n), checkpoint)
    for name, value in record["class_iou"].items():
        print(f"{name:>14}  {'never seen' if value is None else f'{value:6.2f}'}")
    print(
        f"mIoU {record['miou']:.2f} over {len(record['class_iou'])} classes, {record['pictures']} pictures, output "
        f"stride {settings.output_stride} ({record['seconds']:.0f} s)"
    )
    if run.evaluation_record(settings) is None:
        print("not recorded: the checkpoint is one on the way; train the run to its end first")
    else:
        print(f"record {run.record_folder()}")
