"""What verbs share: profiles, settings given as ``NAME=VALUE``, and where the images are."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deeplabv3.errors import UserError
from walkthrough import paths
from walkthrough.profiles import Profile, load_profile, parse_value, profile_names, with_data

if TYPE_CHECKING:
    from deeplabv3.config import EvaluationConfig
    from deeplabv3.model.deeplab import DeepLabV3


def profile_verb(verbs: Any, name: str, main: Callable, text: str) -> argparse.ArgumentParser:
    """A verb that works under a profile."""
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(verb=main)
    names = ", ".join(profile_names())
    verb.add_argument("--profile", help=f"{names}, or a YAML file (default: $DEEPLABV3_PROFILE, else offline)")
    verb.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="change a setting, e.g. training.lr=0.01"
    )
    return verb


def seeds_option(verb: argparse.ArgumentParser) -> None:
    """How many seeds a table's cell has."""
    verb.add_argument("--seeds", type=int, metavar="N", help="so many seeds a cell, from the profile's on (default: 1)")


def data_options(verb: argparse.ArgumentParser) -> None:
    """Where the images are."""
    verb.add_argument("--data", type=Path, metavar="ROOT", help="data set in VOC's layout, such as VOCdevkit")


def pairs(items: list[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` items with YAML values."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{option} {item!r} should read NAME=VALUE.")
        try:
            found[name] = parse_value(value)
        except yaml.YAMLError as error:
            raise UserError(f"{option} {item!r}: the value is not valid YAML.") from error
    return found


def profile_of(options: argparse.Namespace) -> Profile:
    """The profile that the options name, with their changes."""
    changes = pairs(options.set, "--set")
    if getattr(options, "seeds", None) is not None:
        changes["seeds"] = options.seeds
    profile = load_profile(options.profile, changes)
    return with_data(profile, getattr(options, "data", None), getattr(options, "backbone_weights", None))


def weights_option(verb: argparse.ArgumentParser) -> None:
    """Which network."""
    verb.add_argument(
        "--weights", required=True, metavar="FILE",
        help="a run's checkpoint, folder or name; or torchvision, torchvision:resnet50 (downloaded), torchvision:FILE",
    )  # fmt: skip


def strategy_options(verb: argparse.ArgumentParser, output_stride: int | None = 8) -> None:
    """How it is used, as in Tables 4 and 6."""
    finer = "8 by default, finer than networks are trained at"
    own = "by default the one that the network was trained at"
    verb.add_argument("--output-stride", type=int, default=output_stride, help=finer if output_stride else own)
    scales = verb.add_mutually_exclusive_group()
    # One value, not several: those would swallow the images behind them.
    scales.add_argument("--scales", metavar="LIST", help="average over the image in these sizes, such as 0.5,1,1.5")
    scales.add_argument("--multi-scale", action="store_true", help="the paper's: 0.5,0.75,1,1.25,1.5,1.75")
    verb.add_argument("--flip", action="store_true", help="average with the mirrored image")


def scales_of(options: argparse.Namespace, default: tuple[float, ...] = (1.0,)) -> tuple[float, ...]:
    """The scales that the options name."""
    from deeplabv3.config import MULTI_SCALE

    if options.multi_scale:
        return MULTI_SCALE
    if options.scales is None:
        return default
    try:
        return tuple(float(scale) for scale in options.scales.split(","))
    except ValueError as error:
        raise UserError(f"--scales {options.scales!r} should be numbers with commas between: 0.5,1,1.5.") from error


def strategy_of(options: argparse.Namespace, padding: str) -> "EvaluationConfig":
    """The strategy that the options name."""
    from deeplabv3.config import EvaluationConfig

    return EvaluationConfig(options.output_stride, scales_of(options), options.flip, padding=padding)


def load_network(weights: str) -> "tuple[DeepLabV3, dict[int, str]]":
    """The network that ``--weights`` names, for inference, and its classes."""
    from deeplabv3.evaluation.predict import load_weights

    return load_weights(weights if weights.startswith("torchvision") else str(paths.find_checkpoint(weights)))


def ready(model: "DeepLabV3", settings: "EvaluationConfig") -> "DeepLabV3":
    """A fast copy of the network at the strategy's output stride, on the GPU where there is one."""
    import torch

    from deeplabv3.model.deploy import optimize_for_inference

    copy = optimize_for_inference(model).to("cuda" if torch.cuda.is_available() else "cpu")
    return copy.set_output_stride(settings.output_stride)


def make_folder(folder: Path) -> None:
    """A folder for results, before any work goes into them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be made ({error}); name another with --output.") from error
