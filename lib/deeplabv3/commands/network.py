"""What ``predict``, ``submit`` and ``export`` share: which trained network, and how it is used."""

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
        help="a run's checkpoint.safetensors; or torchvision, torchvision:resnet50 (both downloaded), torchvision:FILE",
    )  # fmt: skip


def strategy_options(verb: argparse.ArgumentParser) -> None:
    """How it is used, as in Tables 4 and 6."""
    verb.add_argument("--output-stride", type=int, default=8, help="8 by default, finer than networks are trained at")
    verb.add_argument("--scales", type=float, nargs="+", default=[1.0], help="for instance 0.5 0.75 1 1.25 1.5 1.75")
    verb.add_argument("--flip", action="store_true", help="average with the mirrored picture")


def strategy_of(options: argparse.Namespace, padding: str) -> "EvaluationSettings":
    """The strategy that the options name."""
    from deeplabv3.evaluation.inference import EvaluationSettings

    return EvaluationSettings(options.output_stride, tuple(options.scales), options.flip, padding=padding)


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
