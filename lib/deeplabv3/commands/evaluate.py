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
    scales = verb.add_mutually_exclusive_group()
    scales.add_argument("--scales", type=float, nargs="+", help="average over the picture in these sizes")
    scales.add_argument("--multi-scale", action="store_true", help="the paper's: 0.5 0.75 1 1.25 1.5 1.75")
    verb.add_argument("--flip", action="store_true", help="average with the mirrored picture")
    verb.add_argument("--padding", choices=("crop", "tight"), help="to the crop, as the paper, or to the next stride")
    verb.add_argument("--bf16", action="store_true", help="in bfloat16: faster, and a few pixels come out otherwise")


def main(options: argparse.Namespace) -> int:
    from deeplabv3.evaluation.inference import MULTI_SCALE
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
        scales=MULTI_SCALE if options.multi_scale else tuple(options.scales or profile.evaluation.scales),
        flip=options.flip or profile.evaluation.flip,
        padding=options.padding or profile.evaluation.padding,
        bf16=options.bf16 or profile.evaluation.bf16,
    )
    show_evaluation(run, settings, options.checkpoint, again=True)
    return 0


def show_evaluation(run: Any, settings: Any, checkpoint: Path, again: bool) -> None:
    """Print the evaluation's record, measuring first where there is none or where ``again`` asks for it."""
    from deeplabv3.paper.experiments import Incomplete, evaluate_run

    record = None if again else run.evaluation_record(settings)
    if record is None:
        try:
            with _Progress(len(run.profile.open_data())) as progress:
                record = evaluate_run(run, settings, progress, checkpoint)
        except Incomplete as incomplete:
            if incomplete.values:
                _print(incomplete.values)
            raise
    _print(record)
    if run.evaluation_record(settings) is None:
        print("not recorded: the checkpoint is one on the way; train the run to its end first")
    else:
        print(f"record {run.record_folder()}")


def _print(record: dict) -> None:
    iou = record["class_iou"]
    present = sum(value is not None for value in iou.values())
    # records of before do not hold the mean over all classes; an absent one adds nothing to its sum
    over_all = record.get("miou_all_classes", record["miou"] * present / len(iou))
    for name, value in iou.items():
        print(f"{name:>14}  {'never seen' if value is None else f'{value:6.2f}'}")
    print(
        f"mIoU {record['miou']:.2f} over the {present} classes present, {over_all:.2f} over all {len(iou)} classes, "
        f"{record['pictures']} pictures, output stride {record['settings']['output_stride']} "
        f"({record['seconds']:.0f} s)"
    )
    print(f"pixel accuracy {record['pixel_accuracy']:.2f}")


class _Progress:
    """A bar with the time left; what an interrupted evaluation has done already does not count for its speed."""

    def __init__(self, pictures: int):
        from tqdm import tqdm

        self.bar = tqdm(total=pictures, desc="evaluating", unit="picture")
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
