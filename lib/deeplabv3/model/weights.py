"""Weights from elsewhere: ImageNet backbones by torchvision's names, and torchvision's own DeepLabV3."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deeplabv3.config import ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.mobilenet import MobileNetV2
from deeplabv3.model.resnet import ResNet

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

STATE_DICTS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network")
"""Names that training scripts give to the network's tensors, beside those of the optimizer and others."""

PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that DataParallel, DDP, torch.compile and wrapping modules give the tensors' names."""

_SCALAR = np.float64().__reduce__()[0]
PLAIN_OBJECTS: list = [
    argparse.Namespace, np.dtype, type(np.dtype("f8")),
    (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar"),
]  # fmt: skip
"""Objects that scripts save beside tensors, and that run no code: torchvision's options, VainF's best score."""


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The network's tensors in a ``.safetensors`` or ``.pth`` file, also in a training script's or a wrapped network's.

    Nothing that could run code is unpickled: a file with such objects is a :class:`UserError` that says how to save the
    tensors alone.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist; check the path.")
    try:
        if path.suffix == ".safetensors":
            return _unwrapped(load_file(path), path)
        with torch.serialization.safe_globals(PLAIN_OBJECTS):
            return _unwrapped(torch.load(path, map_location="cpu", weights_only=True), path)
    except UserError:
        raise
    except Exception as error:  # on bytes that are something else an unpickler can fail in any way
        if found := re.search(r"GLOBAL (\S+) was not|(TorchScript)", str(error)):
            target = path.with_name(f"{path.stem}_tensors.pth")
            raise UserError(
                f"weights file {path} holds more than tensors ({found[1] or found[2]}), which could run code, and is "
                f"not loaded; if you trust it, save its tensors alone: import torch; x = torch.load({str(path)!r}, "
                "map_location='cpu', weights_only=False); torch.save(x.state_dict() if hasattr(x, 'state_dict') else "
                f"x['model'], {str(target)!r})"
            ) from error
        reason = str(error).partition(".")[0] or type(error).__name__
        raise UserError(f"weights file {path} cannot be read ({reason}); fetch or save it again.") from error


def _unwrapped(state: object, path: Path) -> dict[str, Tensor]:
    while isinstance(state, dict) and (key := next((k for k in STATE_DICTS if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise UserError(f"weights file {path} holds no state dict; name a file of tensors by name.")
    while prefix := next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if broken := next((name for name, value in state.items() if not value.isfinite().all()), None):
        raise UserError(f"weights file {path} holds values that are not finite, in {broken}; fetch or save it again.")
    return state


def load_backbone_weights(model: DeepLabV3, source: Path | str, folder: Path | None = None) -> None:
    """Load ImageNet weights with torchvision's names into ``model``'s backbone (Section 4: ResNets so pretrained).

    ``source`` is a file (``.safetensors`` or ``.pth``), or ``"imagenet"`` for torchvision's download, which is
    taken from ``folder`` where :func:`download_imagenet_weights` has put it. Its classifier is ignored; any other name
    that is missing or has another shape is an error, so that no layer silently stays random.

    block5 … block7, which ImageNet weights do not have, are initialized from block4 where shapes allow; their first
    units take other channels than block4's first and keep their random weights there.
    """
    backbone = model.backbone
    if source == "imagenet":
        file = folder / Path(_imagenet(model.config.backbone).url).name if folder else None
        state = read_weights(file) if file and file.is_file() else _download_imagenet(model.config.backbone)
    else:
        state = read_weights(source)
    loaded = {}
    for name, value in backbone.state_dict().items():
        if _is_optional(name):
            continue
        key = backbone.torchvision_name(name)
        if key not in state or state[key].shape != value.shape:
            actual = f"shape {tuple(state[key].shape)}" if key in state else "nothing"
            raise UserError(
                f"weights {source} do not fit backbone {model.config.backbone!r}: {key!r} should have shape "
                f"{tuple(value.shape)} and has {actual}; choose the weights of that backbone."
            )
        loaded[name] = state[key]
    backbone.load_state_dict(loaded, strict=False)
    for number in range(5, model.config.last_block + 1):
        _copy_block4(backbone, number)


def _is_optional(name: str) -> bool:
    """True for replicas of block4, and for a counter of batch norm's that torchvision's older files do not hold."""
    return name.startswith(("block5.", "block6.", "block7.")) or name.endswith("num_batches_tracked")


def download_imagenet_weights(backbone: str, folder: Path) -> Path:
    """Download torchvision's ImageNet weights into ``folder``, unless they are in it, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    _download_imagenet(backbone, folder)
    return folder / Path(_imagenet(backbone).url).name


def _imagenet(backbone: str) -> "WeightsEnum":
    classes = {"resnet50": "ResNet50_Weights", "resnet101": "ResNet101_Weights", "mobilenet_v2": "MobileNet_V2_Weights"}
    if backbone not in classes:
        raise UserError(f"there are no ImageNet weights for backbone {backbone!r}; train it from scratch.")
    return torchvision_weights(f"{classes[backbone]}.IMAGENET1K_V1")


def torchvision_weights(name: str) -> "WeightsEnum":
    """torchvision's weights of a name such as "ResNet50_Weights.IMAGENET1K_V1"."""
    from torchvision.models import get_weight  # a second, which few commands need

    return get_weight(name)


def _download_imagenet(backbone: str, folder: Path | None = None) -> dict[str, Tensor]:
    name, remedy = f"ImageNet weights for {backbone!r}", "name the file as backbone weights"
    return download(_imagenet(backbone), name, remedy, folder)


def download(weights: "WeightsEnum", name: str, remedy: str, folder: Path | None = None) -> dict[str, Tensor]:
    """torchvision's ``weights``, from ``folder`` (default: torch's cache) or else downloaded into it.

    A failed download is a :class:`UserError`: ``name`` says what failed, ``remedy`` how to use the file otherwise.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, model_dir=folder)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{name} could not be downloaded ({error}); fetch {weights.url} by other means and {remedy}."
        ) from error


def _copy_block4(backbone: MobileNetV2 | ResNet, number: int) -> None:
    """Copy every tensor of block4 whose shape fits into block ``number``, unit by unit."""
    for unit in range(1, 4):
        values, target = backbone.unit(4, unit).state_dict(), backbone.unit(number, unit)
        fitting = {
            name: values[name]
            for name, value in target.state_dict().items()
            if name in values and values[name].shape == value.shape
        }
        target.load_state_dict(fitting, strict=False)


def from_torchvision(source: nn.Module | dict[str, Tensor], name: str = "these weights") -> DeepLabV3:
    """Our network with the weights of torchvision's ``deeplabv3_resnet50`` or ``deeplabv3_resnet101``.

    torchvision trains and runs at output stride 8 with ASPP rates (12, 24, 36), that is (6, 12, 18) at 16, without a
    multi-grid, with strides in the first units, one more 3x3 convolution in the head, and corners not aligned. The
    auxiliary classifier, which only training uses, is left out. Weights of another network, or incomplete ones, are a
    :class:`UserError` that calls them ``name``, and so are strides and rates of a module's own, which a state dict does
    not tell. The backbone may be torchvision's MobileNetV2 as well.
    """
    state = source.state_dict() if isinstance(source, nn.Module) else source
    units = {
        "resnet101": "backbone.layer3.22.conv1.weight",
        "resnet50": "backbone.layer1.0.conv1.weight",
        "mobilenet_v2": "backbone.features.1.conv.0.0.weight",
    }
    backbone = next((one for one, unit in units.items() if unit in state), "")
    # FCN's weights have the first and the last of these names too, MobileNetV3's the first two.
    if not ({"classifier.4.weight", "classifier.0.convs.0.0.weight"} <= state.keys() and backbone):
        raise UserError(
            f"{name} are not those of torchvision's deeplabv3_resnet50 or deeplabv3_resnet101; fetch one of those."
        )
    num_classes = state["classifier.4.weight"].shape[0]
    if num_classes == 1:
        raise UserError(f"{name} have one output, a sigmoid's; name a network with an output for every class.")
    model = DeepLabV3(
        ModelConfig(
            num_classes=num_classes,
            backbone=backbone,
            output_stride=8,
            multi_grid=(1, 1, 1),
            dropout=0.5,
            stride_unit="first",
            align_corners=False,
            extra_convolution=True,
        )
    )
    expected = model.state_dict()
    keys = {ours: _torchvision_segmentation_name(model.backbone, ours) for ours in expected}
    if any(key not in state or state[key].shape != expected[ours].shape for ours, key in keys.items()):
        raise UserError(f"{name} lack layers of torchvision's DeepLabV3; fetch them again.")
    if isinstance(source, nn.Module):
        for ours, conv in model.named_modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                other = source.get_submodule(keys[f"{ours}.weight"].removesuffix(".weight"))
                if (conv.stride, conv.dilation) != (other.stride, other.dilation):
                    raise UserError(f"{name} have strides or rates of their own, which are not taken over ({ours}).")
    model.load_state_dict({ours: state[key] for ours, key in keys.items()})
    return model.eval()


def _torchvision_segmentation_name(backbone: MobileNetV2 | ResNet, name: str) -> str:
    if name.startswith("backbone."):
        return "backbone." + backbone.torchvision_name(name.removeprefix("backbone."))
    part, rest = name.removeprefix("head.").split(".", 1)
    if part == "branches":
        return f"classifier.0.convs.{rest}"
    if part == "image_pooling":  # torchvision counts the pooling layer itself as 0
        index, parameter = rest.removeprefix("project.").split(".", 1)
        return f"classifier.0.convs.4.{int(index) + 1}.{parameter}"
    if part == "project":
        return f"classifier.0.project.{rest}"
    if part == "extra":
        index, parameter = rest.split(".", 1)
        return f"classifier.{int(index) + 1}.{parameter}"
    return f"classifier.4.{rest}"
