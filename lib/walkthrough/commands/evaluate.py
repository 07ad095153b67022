"""``deeplabv3 evaluate``: trained networks on whole images."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplabv3.config import PRECISIONS
from deeplabv3.errors import UserError
from walkthrough import paths
from walkthrough.commands.options import data_options, profile_of, profile_verb, scales_of, strategy_options

if TYPE_CHECKING:
    from deeplabv3.config import EvaluationConfig
    from walkthrough.profiles import Profile
    from walkthrough.records.run import Run


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "evaluate", main, "evaluate trained networks on whole images")
    data_options(verb)
    verb.add_argument("runs", nargs="+", metavar="RUN", help="checkpoint files, or runs by their folder or name")
    strategy_options(verb, output_stride=None)
    verb.add_argument("--padding", choices=("crop", "tight"), help="to the crop, as the paper, or to the next stride")
    verb.add_argument("--precision", choices=PRECISIONS, help="bfloat16 is faster, and has moved mIoU by 0.2")


def main(options: argparse.Namespace) -> int:
    profile = profile_of(options)
    scales = scales_of(options, profile.evaluation.scales)
    for file in [paths.find_checkpoint(named) for named in options.runs]:
        run, step = _run_of(profile, file)
        settings = replace(
            profile.evaluation,
            output_stride=run.config.output_stride if options.output_stride is None else options.output_stride,
            scales=scales,
            flip=options.flip or profile.evaluation.flip,
            padding=options.padding or profile.evaluation.padding,
            precision=options.precision or profile.evaluation.precision,
        )
        print(f"run {run.name}")
        if step < run.training.iterations:
            print(f"on the way, at step {step} of {run.training.iterations}: not the run's result, and not recorded")
            _print(_measured(run, settings, file))
        else:
            _print(_measured(run, settings, file))
            print(f"record {run.record_folder()}")
    return 0


def _run_of(profile: "Profile", file: Path) -> tuple["Run", int]:
    """The run that a checkpoint belongs to, and its step."""
    from deeplabv3.model.checkpoint import load_checkpoint
    from walkthrough.records.run import Run

    checkpoint = load_checkpoint(file)
    lacking = [part for part in ("model", "training", "data", "seed") if part not in checkpoint.settings]
    if lacking:
        raise UserError(
            f"checkpoint {file} does not say with which {' and '.join(lacking)} it was trained; evaluate one that "
            "'deeplabv3 train' has written."
        )
    classes = list(profile.data.class_map().values())
    if list(checkpoint.settings["data"].get("classes", {}).values()) != classes:
        raise UserError(
            f"checkpoint {file} was trained for other classes than profile {profile.name!r} has "
            f"({', '.join(classes)}); choose the profile that trained it."
        )
    return Run(profile, checkpoint.settings), checkpoint.step


def show_evaluation(run: "Run", settings: "EvaluationConfig") -> None:
    """Print the record of a finished run's evaluation, measuring first where there is none."""
    _print(run.evaluation_record(settings) or _measured(run, settings, run.checkpoint))
    print(f"record {run.record_folder()}")


def _measured(run: "Run", settings: "EvaluationConfig", checkpoint: Path) -> dict:
    """Evaluate; the record's values. Where images cannot be read, those of the others are printed all the same."""
    from walkthrough.experiments.run import Incomplete, evaluate_run

    try:
        with _Progress(len(run.profile.open_data())) as progress:
            return evaluate_run(run, settings, progress, checkpoint)
    except Incomplete as incomplete:
        if incomplete.values:
            _print(incomplete.values)
        raise


def _print(record: dict) -> None:
    iou = record["class_iou"]
    present = sum(value is not None for value in iou.values())
    # records of before do not hold the mean over all classes; an absent one adds nothing to its sum
    over_all = record.get("miou_all_classes", record["miou"] * present / len(iou))
    for name, value in iou.items():
        print(f"{name:>14}  {'never seen' if value is None else f'{value:6.2f}'}")
    print(
        f"mIoU {record['miou']:.2f} over the {present} classes present, {over_all:.2f} over all {len(iou)} classes, "
        f"{record['images']} images, output stride {record['settings']['output_stride']} "
        f"({record['seconds']:.0f} s)"
    )
    print(f"pixel accuracy {record['pixel_accuracy']:.2f}")


class _Progress:
    """A bar with the time left; what an interrupted evaluation has done already does not count for its speed."""

    def __init__(self, images: int):
        from tqdm import tqdm

        self.bar = tqdm(total=images, desc="evaluating", unit="image")
        self.fresh = True

    def __enter__(self) -> "_Progress":
        return self

    def __call__(self, done: int) -> None:
        if self.fresh and done:
            self.bar.initial = self.bar.n = self.bar.last_print_n = done
            self.bar.set_postfix(resumed=done)
        self.fresh = False
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_: object) -> None:
        self.bar.close()
