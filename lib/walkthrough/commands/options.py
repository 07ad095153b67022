"""Options that several commands share, and what they stand for: a profile, a network, an inference strategy."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deeplabv3.config import MULTI_SCALE, VOC_CLASSES, EvaluationConfig, ModelConfig
from deeplabv3.errors import UserError, attempt
from walkthrough import paths
from walkthrough.profiles import Profile, load_profile, profile_names, with_data
from walkthrough.yaml_settings import parse_value

if TYPE_CHECKING:
    from deeplabv3.model.deeplab import DeepLabV3


SETTINGS = {
    "seeds": "seeds",
    "seed": "seed",
    "data": "data.root",
    "backbone_weights": "model.backbone_weights",
    "init_from": "model.init_from",
}
"""Options that stand for a setting of the profile."""


def add_command(subparsers: Any, name: str, main: Callable, text: str) -> argparse.ArgumentParser:
    """A command whose help is ``text``; ``main`` takes its parsed options and returns the exit code."""
    parser = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=main)
    return parser


def add_profile_command(subparsers: Any, name: str, main: Callable, text: str) -> argparse.ArgumentParser:
    """A command that works under a profile."""
    parser = add_command(subparsers, name, main, text)
    names = ", ".join(profile_names())
    profile = parser.add_argument(
        "--profile", help=f"{names}, or a YAML file (default: $DEEPLABV3_PROFILE, else offline)"
    )
    profile.completer = _complete_profile  # type: ignore[attr-defined]  # argcomplete looks for it
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="change a setting, e.g. training.lr=0.01"
    )
    return parser


def _complete_profile(prefix: str, **_: Any) -> list[str]:
    """Names of profiles and YAML files, for the shell."""
    from argcomplete.completers import FilesCompleter

    return [*profile_names(), *FilesCompleter(("yaml", "yml"))(prefix)]


def seeds_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--seeds``: how many seeds a table's cell has."""
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="seeds of a table's cell, from the first on (default: the profile's)"
    )


def data_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``: where the images are."""
    parser.add_argument("--data", type=Path, metavar="ROOT", help="data set in VOC's layout, such as VOCdevkit")


def pairs(items: list[str], option: str) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` items, whose values are YAML."""
    values = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{option} {item!r} should read NAME=VALUE.")
        if name in values:
            raise UserError(f"{option} names {name!r} twice; give one value.")
        try:
            values[name] = parse_value(value)
        except yaml.YAMLError as error:
            raise UserError(f"{option} {item!r}: the value is not valid YAML.") from error
    return values


def profile_of(options: argparse.Namespace) -> Profile:
    """Load the profile that the options name, with their changes."""
    changes = pairs(options.set, "--set")
    for option, setting in SETTINGS.items():
        if getattr(options, option, None) is not None and setting in changes:
            raise UserError(f"--{option.replace('_', '-')} and --set {setting}=… are one setting; give one of them.")
    if getattr(options, "seeds", None) is not None:
        changes["seeds"] = options.seeds
    profile = load_profile(options.profile, changes)
    return with_data(profile, getattr(options, "data", None), getattr(options, "backbone_weights", None))


def weights_option(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """Add ``--weights``: the trained network."""
    default = "" if required else " (default: the network that comes with the library)"
    parser.add_argument(
        "--weights", required=required, metavar="FILE",
        help="a run's checkpoint, folder or name; or torchvision, torchvision:resnet50 (downloaded), torchvision:FILE"
        + default,
    )  # fmt: skip
    foreign_options(parser)


def foreign_options(parser: argparse.ArgumentParser) -> None:
    """Add what a network in torchvision:FILE does not say of itself."""
    foreign = "of a network in torchvision:FILE"
    parser.add_argument("--classes", metavar="NAMES", help=f"{foreign}, such as background,crack")
    parser.add_argument("--mean", metavar="R,G,B", help=f"{foreign}: removed from images from 0 to 1 (ImageNet's)")
    parser.add_argument("--std", metavar="R,G,B", help=f"{foreign}: that images are divided by then (ImageNet's)")


def strategy_options(parser: argparse.ArgumentParser, output_stride: int | None = 8) -> None:
    """Add the options of an inference strategy, as in Tables 4 and 6."""
    finer = "8 by default, finer than networks are trained at"
    own = "by default the one that the network was trained at"
    parser.add_argument("--output-stride", type=int, default=output_stride, help=finer if output_stride else own)
    scales = parser.add_mutually_exclusive_group()
    # One value, not several: those would swallow the images behind them.
    scales.add_argument("--scales", metavar="LIST", help="average over the image in these sizes, such as 0.5,1,1.5")
    scales.add_argument("--multi-scale", action="store_true", help="the paper's: 0.5,0.75,1,1.25,1.5,1.75")
    parser.add_argument("--flip", action="store_true", help="average with the mirrored image")
    parser.add_argument(
        "--tile", type=int, metavar="PIXELS",
        help="cut larger images into overlapping tiles of this many pixels a side, in the memory of one (such as 1025)",
    )  # fmt: skip


def scales_of(options: argparse.Namespace, default: tuple[float, ...] = (1.0,)) -> tuple[float, ...]:
    """The scales that the options name."""
    if options.multi_scale:
        return MULTI_SCALE
    if options.scales is None:
        return default
    return numbers(options.scales, "--scales")


def strategy_of(options: argparse.Namespace, padding: str) -> EvaluationConfig:
    """The inference strategy that the options name."""
    scales, tile_size = scales_of(options), tile_of(options, options.output_stride)
    return EvaluationConfig(options.output_stride, scales, options.flip, padding=padding, tile_size=tile_size)


def tile_of(options: argparse.Namespace, output_stride: int, default: int = 0) -> int:
    """The tile size that ``--tile`` names; one that is too small for the output stride is a :class:`UserError`."""
    if options.tile is None:
        return default
    _, problem = attempt(partial(EvaluationConfig, output_stride, tile_size=options.tile))
    if problem:
        raise UserError(problem.replace("setting 'tile_size'", "--tile"))
    return options.tile


def note_tiles(config: ModelConfig, strategy: EvaluationConfig) -> None:
    """Print that image-level features are those of tiles, where there are tiles."""
    if strategy.tile_size and config.head == "aspp" and config.image_pooling:
        print(
            f"note: tiles of {strategy.tile_size} pixels: this network's image-level features are those of a tile, not "
            "of the whole image, and so are results of images that are larger"
        )


def numbers(text: str, option: str) -> tuple[float, ...]:
    """Return numbers with commas between."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise UserError(f"{option} {text!r} should be numbers with commas between, such as 0.5,1,1.5.") from error


def load_network(weights: str | None, options: argparse.Namespace) -> "tuple[DeepLabV3, dict[int, str]]":
    """Load a network for inference, and its classes: label value to name. Without ``weights`` it is the library's.

    ``options`` are those of :func:`foreign_options`; they are refused for a network that says such things of itself.
    """
    from deeplabv3.evaluation.predict import TORCHVISION, load_weights
    from deeplabv3.model.pretrained import load_pretrained

    kind, _, file = (weights or "").partition(":")
    foreign = kind == "torchvision" and file not in ("", *TORCHVISION)
    given = {name: text for name in ("classes", "mean", "std") if (text := getattr(options, name)) is not None}
    if given and not foreign:
        raise UserError(f"--{min(given)} is for a network in torchvision:FILE; name one, or leave the option out.")
    if weights is None:
        model, known = load_pretrained()
        print(f"no --weights given: the network that comes with the library ({', '.join(known.values())})")
        return model, known
    if weights == "pretrained":
        return load_pretrained()
    names = [name.strip() for name in given.pop("classes").split(",")] if "classes" in given else []
    source = weights if weights.startswith("torchvision") else str(paths.find_checkpoint(weights))
    model, known = load_weights(source, names)
    own: dict[str, Any] = {name: numbers(text, f"--{name}") for name, text in given.items()}
    model.config = replace(model.config, **own)
    if foreign and not names:
        guess = "are taken for VOC's" if model.config.num_classes == len(VOC_CLASSES) else "have numbers for names"
        print(f"note: {weights} does not say what its {len(known)} classes are, and they {guess}; --classes names them")
    return model, known


def prepare(model: "DeepLabV3", strategy: EvaluationConfig) -> "DeepLabV3":
    """A fast copy of the network at the strategy's output stride, on the GPU where there is one."""
    from deeplabv3.model.deploy import optimize_for_inference
    from walkthrough.experiments.task import device, limit_threads

    limit_threads()
    copy = optimize_for_inference(model).to(device())
    return copy.set_output_stride(strategy.output_stride)
