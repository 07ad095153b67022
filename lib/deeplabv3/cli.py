"""The command ``deeplabv3``: a thin face over the library's functions."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from deeplabv3 import paths
from deeplabv3.errors import UserError
from deeplabv3.profiles import Profile, load_profile, profile_names, with_data


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's error is one sentence on stderr and exit code 1."""
    options = _parser().parse_args(arguments)
    try:
        return options.verb(options) or 0
    except UserError as error:
        print(f"deeplabv3: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("deeplabv3: interrupted; the same command goes on.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deeplabv3", description="The DeepLabv3 walkthrough (arXiv 1706.05587).")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = _verb(verbs, "walkthrough", _walkthrough, "execute the notebooks in order and build their pages")
    verb.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="notebooks such as 03 or 03_cascade")
    verb.add_argument("--fresh", action="store_true", help="execute notebooks again that are done already")
    verb.add_argument("--update", action="store_true", help="put the executed notebooks in the place of their sources")
    verb.add_argument("--output", type=Path, help="folder for notebooks, pages and tables")
    verb.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="a notebook parameter, as YAML"
    )

    verb = _verb(verbs, "train", _train, "train one network and evaluate it on whole pictures")
    _data_options(verb)
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

    verb = _verb(verbs, "evaluate", _evaluate, "evaluate a checkpoint on whole pictures")
    _data_options(verb)
    verb.add_argument("checkpoint", type=Path)
    verb.add_argument("--output-stride", type=int, help="by default the one that the model was trained at")
    verb.add_argument("--scales", type=float, nargs="+", default=[1.0], help="for instance 0.5 0.75 1 1.25 1.5 1.75")
    verb.add_argument("--flip", action="store_true", help="average with the mirrored picture")

    verb = _verb(verbs, "table", _table, "print a table of the paper beside what was measured")
    verb.add_argument("number", type=int, nargs="?", help="by default every table")
    verb.add_argument("--run", action="store_true", help="make the runs that are missing first")
    verb.add_argument("--format", choices=("text", "markdown", "csv", "html"), default="text")

    _verb(verbs, "records", _records, "list the measured runs")

    bench = verbs.add_parser("bench", help="compare speeds side by side", description="Compare speeds side by side.")
    kinds = bench.add_subparsers(required=True, metavar="WHAT")
    kind = kinds.add_parser("model", help="the network alone: ours, torchvision's, segmentation_models_pytorch's")
    kind.set_defaults(verb=_bench_model)
    kind.add_argument("--backbone", choices=("resnet50", "resnet101"), default="resnet50")
    kind.add_argument("--size", type=int, default=513, help="side of the square pictures, in pixels (513)")
    kind.add_argument("--batch", type=int, default=1, help="pictures at once (1; training takes at least 2)")
    kind.add_argument("--rounds", type=int, default=9, help="turns of every contender; the median counts (9)")
    kind.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    kind.add_argument("--threads", type=int, default=0, help="threads on the CPU (0: PyTorch's own choice)")
    kind.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it compiles for a minute)")
    kind.add_argument("--bf16", action="store_true", help="bfloat16 too, whose logits are no longer the same")
    kind.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there as well")
    return parser


def _verb(verbs: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(verb=function)
    names = ", ".join(profile_names())
    verb.add_argument("--profile", help=f"{names}, or a YAML file (default: $DEEPLABV3_PROFILE, else offline)")
    verb.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="change a setting, e.g. training.lr=0.01"
    )
    return verb


def _data_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--data", type=Path, metavar="ROOT", help="data set in VOC's layout, such as VOCdevkit")


def _pairs(items: list[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` items with YAML values."""
    pairs = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{option} {item!r} should read NAME=VALUE.")
        try:
            pairs[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"{option} {item!r}: the value is not valid YAML.") from error
    return pairs


def _profile(options: argparse.Namespace) -> Profile:
    profile = load_profile(options.profile, _pairs(options.set, "--set"))
    return with_data(profile, getattr(options, "data", None), getattr(options, "backbone_weights", None))


def _walkthrough(options: argparse.Namespace) -> int:
    from deeplabv3.walkthrough import output_folder, refresh, walkthrough

    if options.set:
        raise UserError("walkthrough takes no --set; write a profile of your own and name its file with --profile.")
    parameters = _pairs(options.parameter, "--parameter")
    code = walkthrough(options.profile, options.only, options.output, options.fresh, parameters)
    if options.update and code == 0:
        refresh(options.output or output_folder(options.profile), paths.home() / "notebooks")
    return code


def _train(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from deeplabv3.paper.experiments import train_run
    from deeplabv3.paper.records import Run

    profile = _profile(options)
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
    _show_evaluation(run, settings, run.checkpoint, again=False)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from deeplabv3.paper.records import Run
    from deeplabv3.training.checkpoint import load_model

    profile = _profile(options)
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
    _show_evaluation(run, settings, options.checkpoint, again=True)
    return 0


def _show_evaluation(run: Any, settings: Any, checkpoint: Path, again: bool) -> None:
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


def _table(options: argparse.Namespace) -> int:
    from deeplabv3.paper import report, tables
    from deeplabv3.paper.experiments import run_table

    profile = _profile(options)
    for number in [options.number] if options.number else tables.NUMBERS:
        if options.run:
            run_table(number, profile)
        print(report.render(number, profile, options.format))
    return 0


def _records(options: argparse.Namespace) -> int:
    from deeplabv3.paper.records import all_records

    profile = _profile(options)
    found = all_records(profile.name)
    for training, evaluations in found:
        print(
            f"{training['run']}  seed {training['settings']['seed']}  {training['seconds']:.0f} s  {training['device']}"
        )
        for record in evaluations:
            settings = record["settings"]
            print(
                f"    output stride {settings['output_stride']}, scales {', '.join(map(str, settings['scales']))}"
                f"{', flip' if settings['flip'] else ''}: mIoU {record['miou']:.2f} on {record['pictures']} pictures"
            )
    if not found:
        print(f"profile {profile.name!r} has no records yet.")
    return 0


def _bench_model(options: argparse.Namespace) -> int:
    from deeplabv3.bench.model import ModelBench, render
    from deeplabv3.training.checkpoint import write_atomically

    if options.json and not options.json.parent.is_dir():
        raise UserError(f"folder {options.json.parent} for --json does not exist; make it first.")
    names = ("backbone", "size", "batch", "rounds", "device", "threads", "bf16")
    values = {name: getattr(options, name) for name in names}
    result = ModelBench(**values, compiled=not options.no_compile).run()
    print(render(result))
    if options.json:
        write_atomically(options.json, json.dumps(result, indent=1) + "\n")
        print(f"written to {options.json}")
    return 0


def script() -> None:
    """The console script."""
    sys.exit(main())
