"""What ``evaluate``, ``predict``, ``submit`` and ``export`` share: which trained network, and how it is used."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from deeplabv3.errors import UserError

if TYPE_CHECKING:
    from deeplabv3.evaluation.inference import EvaluationSettings
    from deeplabv3.model.deeplab import DeepLabV3


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
    # One value, not several: those would swallow the pictures behind them.
    scales.add_argument("--scales", metavar="LIST", help="average over the picture in these sizes, such as 0.5,1,1.5")
    scales.add_argument("--multi-scale", action="store_true", help="the paper's: 0.5,0.75,1,1.25,1.5,1.75")
    verb.add_argument("--flip", action="store_true", help="average with the mirrored picture")


def scales_of(options: argparse.Namespace, default: tuple[float, ...] = (1.0,)) -> tuple[float, ...]:
    """The scales that the options name."""
    from deeplabv3.evaluation.inference import MULTI_SCALE

    if options.multi_scale:
        return MULTI_SCALE
    if options.scales is None:
        return default
    try:
        return tuple(float(scale) for scale in options.scales.split(","))
    except ValueError as error:
        raise UserError(f"--scales {options.scales!r} should be numbers with commas between: 0.5,1,1.5.") from error


def strategy_of(options: argparse.Namespace, padding: str) -> "EvaluationSettings":
    """The strategy that the options name."""
    from deeplabv3.evaluation.inference import EvaluationSettings

    return EvaluationSettings(options.output_stride, scales_of(options), options.flip, padding=padding)


def ready(model: "DeepLabV3", settings: "EvaluationSettings") -> "DeepLabV3":
    """A fast copy of the network at the strategy's output stride, on the GPU where there is one."""
    import torch

    from deeplabv3.model.fast import fast

    copy = fast(model).to("cuda" if torch.cuda.is_available() else "cpu")
    return copy.set_output_stride(settings.output_stride)


def make_folder(folder: Path) -> None:
    """A folder for results, before any work goes into them."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {folder} cannot be made ({error}); name another with --output.") from error
