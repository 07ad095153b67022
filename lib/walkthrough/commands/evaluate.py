"""``deeplabv3 evaluate``: evaluate trained networks on whole images."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplabv3.config import PRECISIONS
from deeplabv3.errors import UserError
from walkthrough import paths
from walkthrough.commands.options import (
    add_profile_command,
    data_options,
    note_tiles,
    pairs,
    profile_of,
    scales_of,
    strategy_options,
)

if TYPE_CHECKING:
    from deeplabv3.config import EvaluationConfig
    from walkthrough.profiles import Profile
    from walkthrough.records.run import Run


def add(subparsers: Any) -> None:
    parser = add_profile_command(subparsers, "evaluate", main, "evaluate trained networks on whole images")
    data_options(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="checkpoint files, or runs by their folder or name")
    strategy_options(parser, output_stride=None)
    parser.add_argument("--padding", choices=("crop", "tight"), help="to the crop, as the paper, or to the next stride")
    parser.add_argument("--precision", choices=PRECISIONS, help="bfloat16 is faster, and has moved mIoU by 0.2")


def main(options: argparse.Namespace) -> int:
    profile = profile_of(options)
    for setting in pairs(options.set, "--set"):
        if setting.partition(".")[0] in ("model", "training", "seed", "seeds"):
            raise UserError(f"--set {setting}=… has no effect on a network that is trained; leave it out.")
    scales_of(options)  # refuses what is not a list of numbers
    done, failed = 0, 0
    for named in options.runs:
        try:
            done += _evaluate_named(named, profile, options)
        except UserError as error:  # one run that cannot be evaluated does not hold the others up
            failed += 1
            print(f"deeplabv3: {error}", file=sys.stderr)
    if failed and len(options.runs) > 1:
        print(f"deeplabv3: {failed} of {len(options.runs)} runs could not be evaluated.", file=sys.stderr)
    return 0 if done and not failed else 1


def _evaluate_named(named: str, profile: "Profile", options: argparse.Namespace) -> bool:
    """Evaluate a run and print the result; False for one that ``--no-resume`` has put aside."""
    from walkthrough.records.naming import ARCHIVE

    file = paths.find_checkpoint(named)
    if ARCHIVE.search(file.resolve().parent.name):
        print(f"skipped {file.parent}: --no-resume has put it aside; its records are in it")
        return False
    run, step = _run_of(profile, file)
    settings = replace(
        profile.evaluation,
        output_stride=run.config.output_stride if options.output_stride is None else options.output_stride,
        scales=scales_of(options, profile.evaluation.scales),
        flip=options.flip or profile.evaluation.flip,
        padding=options.padding or profile.evaluation.padding,
        precision=options.precision or profile.evaluation.precision,
        tile_size=profile.evaluation.tile_size if options.tile is None else options.tile,
    )
    print(f"run {run.name}")
    note_tiles(run.config, settings)
    if step < run.training.iterations:
        print(f"on the way, at step {step} of {run.training.iterations}: not the run's result, and not recorded")
    elif not run.owns(file):
        print(f"{file} is not the run's own checkpoint, {run.checkpoint}: not recorded")
    _print(_evaluate(run, settings, file))
    if step == run.training.iterations and run.owns(file):
        print(f"record {run.record_folder()}")
    return True


def _run_of(profile: "Profile", file: Path) -> tuple["Run", int]:
    """Return the run that a checkpoint belongs to, and the checkpoint's step."""
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
    """Print the record of a finished run's evaluation; evaluate first if there is none."""
    _print(run.evaluation_record(settings) or _evaluate(run, settings, run.checkpoint))
    print(f"record {run.record_folder()}")


def _evaluate(run: "Run", settings: "EvaluationConfig", checkpoint: Path) -> dict:
    """Evaluate and return the record's values; if some images cannot be read, print those of the others first."""
    from tqdm import tqdm

    from walkthrough.experiments.run import Incomplete, evaluate_run

    try:
        with tqdm(total=len(run.profile.open_data()), desc="evaluating", unit="image") as bar:
            return evaluate_run(run, settings, _Progress(bar), checkpoint)
    except Incomplete as incomplete:
        if incomplete.values:
            _print(incomplete.values)
        raise


def _print(record: dict) -> None:
    iou = record["class_iou"]
    present = sum(value is not None for value in iou.values())
    # Older records lack the mean over all classes; an absent class adds nothing to its sum.
    over_all = record.get("miou_all_classes", record["miou"] * present / len(iou))
    for name, value in iou.items():
        print(f"{name:>14}  {'never seen' if value is None else f'{value:6.2f}'}")
    print(
        f"mIoU {record['miou']:.2f} over the {present} classes present, {over_all:.2f} over all {len(iou)} classes, "
        f"{record['images']} images of list {record['list']!r}, output stride {record['settings']['output_stride']} "
        f"({record['seconds']:.0f} s)"
    )
    print(f"pixel accuracy {record['pixel_accuracy']:.2f}")


class _Progress:
    """Shows the number of evaluated images in a bar; the first call tells how many were done before."""

    def __init__(self, bar: Any):
        self.bar, self.started = bar, False

    def __call__(self, done: int) -> None:
        if done and not self.started:
            start_at(self.bar, done)
            self.bar.set_postfix(resumed=done)
        self.started = True
        self.bar.update(done - self.bar.n)


def start_at(bar: Any, position: int) -> None:
    """Start the bar of resumed work at ``position``: earlier work does not count for its rate."""
    bar.initial = bar.n = bar.last_print_n = position
