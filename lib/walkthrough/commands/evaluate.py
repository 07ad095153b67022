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
    foreign_options,
    load_network,
    note_tiles,
    pairs,
    profile_of,
    scales_of,
    strategy_options,
    tile_of,
)

if TYPE_CHECKING:
    from deeplabv3.config import EvaluationConfig
    from walkthrough.profiles import Profile
    from walkthrough.records.run import Run


RUN_HELP = (
    "runs by their folder or name, or checkpoint files; or a network from elsewhere that knows the profile's classes: "
    "'pretrained' (it comes with the library), a file of 'export weights', torchvision, torchvision:FILE"
)


def add(subparsers: Any) -> None:
    parser = add_profile_command(subparsers, "evaluate", main, "evaluate trained networks on whole images")
    data_options(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help=RUN_HELP)
    strategy_options(parser, output_stride=None)
    parser.add_argument("--padding", choices=("crop", "tight"), help="to the crop, as the paper, or to the next stride")
    foreign_options(parser)
    parser.add_argument("--precision", choices=PRECISIONS, help="bfloat16 is faster, and has moved mIoU by 0.2")


def main(options: argparse.Namespace) -> int:
    profile = profile_of(options)
    for setting in pairs(options.set, "--set"):
        if setting.partition(".")[0] in ("model", "training", "seed", "seeds"):
            raise UserError(f"--set {setting}=… has no effect on a network that is trained; leave it out.")
    foreign = all(named.startswith("torchvision:") for named in options.runs)
    if not foreign and any((options.classes, options.mean, options.std)):
        raise UserError(
            "--classes, --mean and --std are for a network in torchvision:FILE; leave them out, or evaluate it alone."
        )
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

    if named == "pretrained" or named.partition(":")[0] == "torchvision":
        return _evaluate_foreign(named, profile, options)
    file = paths.find_checkpoint(named)
    if file.suffix in (".pth", ".pt"):
        return _evaluate_foreign(named, profile, options)  # which says how to name it
    if ARCHIVE.search(file.resolve().parent.name):
        print(f"skipped {file.parent}: --no-resume has put it aside; its records are in it")
        return False
    found = _run_of(profile, file)
    if found is None:
        return _evaluate_foreign(str(file), profile, options)
    run, step = found
    settings = _settings(run, options)
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


def _settings(run: "Run", options: argparse.Namespace) -> "EvaluationConfig":
    """Return the strategy of the options, and else of the profile."""
    stride = run.config.output_stride if options.output_stride is None else options.output_stride
    default = run.profile.evaluation
    return replace(
        default,
        output_stride=stride,
        scales=scales_of(options, default.scales),
        flip=options.flip or default.flip,
        padding=options.padding or default.padding,
        precision=options.precision or default.precision,
        tile_size=tile_of(options, stride, default.tile_size),
    )


def _evaluate_foreign(named: str, profile: "Profile", options: argparse.Namespace) -> bool:
    """Evaluate a network that no run of this profile's classes has trained, and record it as such."""
    from walkthrough.experiments.run import evaluate_foreign
    from walkthrough.experiments.submission import weights_hash
    from walkthrough.records import start
    from walkthrough.records.run import Run

    model, known = load_network(named, options)
    classes = tuple(profile.data.class_map().values())
    dropped = [name for name in known.values() if name not in classes]
    model = start.with_classes(model, tuple(known.values()), classes, named)
    run = Run.foreign(profile, model.config, weights_hash(model))
    settings, name = _settings(run, options), start.origin(named)
    print(f"network {name}, which no run of profile {profile.name!r} has trained: recorded as {run.name}")
    if dropped:
        print(f"note: its outputs for {', '.join(dropped)} are left out; the profile does not have these classes")
    note_tiles(run.config, settings)
    if record := run.evaluation_record(settings):
        print("recorded before:")
        _print(record)
    else:
        with _bar(profile) as bar:
            _print(evaluate_foreign(run, settings, model, name, _Progress(bar)))
    print(f"record {run.record_folder()}")
    return True


def _run_of(profile: "Profile", file: Path) -> tuple["Run", int] | None:
    """Return the run that a checkpoint belongs to, and the checkpoint's step; None if it is no run's of the classes."""
    from deeplabv3.model.checkpoint import load_checkpoint
    from walkthrough.records.run import Run

    checkpoint = load_checkpoint(file)
    classes = list(profile.data.class_map().values())
    whole = all(part in checkpoint.settings for part in ("model", "training", "data", "seed"))
    if not whole or list(checkpoint.settings["data"].get("classes", {}).values()) != classes:
        return None
    return Run(profile, checkpoint.settings), checkpoint.step


def show_evaluation(run: "Run", settings: "EvaluationConfig") -> None:
    """Print the record of a finished run's evaluation; evaluate first if there is none."""
    _print(run.evaluation_record(settings) or _evaluate(run, settings, run.checkpoint))
    print(f"record {run.record_folder()}")


def _evaluate(run: "Run", settings: "EvaluationConfig", checkpoint: Path) -> dict:
    """Evaluate and return the record's values; if some images cannot be read, print those of the others first."""
    from walkthrough.experiments.run import Incomplete, evaluate_run

    _note_changed_images(run, settings)
    try:
        with _bar(run.profile) as bar:
            return evaluate_run(run, settings, _Progress(bar), checkpoint)
    except Incomplete as incomplete:
        if incomplete.values:
            _print(incomplete.values)
        raise


def _bar(profile: "Profile") -> Any:
    from tqdm import tqdm

    return tqdm(total=len(profile.open_data()), desc="evaluating", unit="image")


def _note_changed_images(run: "Run", settings: "EvaluationConfig") -> None:
    """Print that a record of this strategy is of other images or labels than the list has now."""
    from walkthrough.records.catalogue import evaluations_of

    name, list_name = run.evaluation_name(settings), run.profile.data.val_list
    for old in evaluations_of(run.profile.name, run.name):
        if old.settings == settings and old.values["list"] == list_name and old.path.stem != name:
            print(
                f"note: images or labels of list {list_name!r} have changed since {old.path.name} was written (mIoU "
                f"{old.values['miou']:.2f}); that record stays, and this result has one of its own"
            )


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
