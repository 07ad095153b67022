"""Prediction on images from anywhere: a network and its classes, and classes at a photograph's own size."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deeplabv3.config import MAX_SIZE, VOC_CLASSES, EvaluationConfig
from deeplabv3.data.transforms import pad, padded_size, require_image
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import eval_mode, predict, probabilities
from deeplabv3.files import CHECKPOINT
from deeplabv3.model.checkpoint import load_model
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.weights import download, from_torchvision, read_weights, torchvision_weights

TORCHVISION = {
    "resnet50": "DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1",
    "resnet101": "DeepLabV3_ResNet101_Weights.COCO_WITH_VOC_LABELS_V1",
}
"""torchvision's names of its DeepLabV3's weights, by backbone."""


def load_weights(source: str, names: Sequence[str] = ()) -> tuple[DeepLabV3, dict[int, str]]:
    """A network for inference and its classes, label value to name in the order of its outputs.

    ``source`` is a checkpoint of ours or the folder of a run, ``torchvision`` for torchvision's DeepLabV3
    with ResNet-101 (downloaded, trained on the images of COCO that show VOC's classes), ``torchvision:resnet50``, or
    ``torchvision:FILE`` for a file of either's weights, whose classes, in the order of the outputs, have ``names`` (by
    default VOC's where there are 21 of them, and else numbers).
    """
    kind, _, backbone_or_file = source.partition(":")
    if kind == "torchvision":
        backbone_or_file = backbone_or_file or "resnet101"
        if backbone_or_file in TORCHVISION:
            weights = torchvision_weights(TORCHVISION[backbone_or_file])
            state = download(weights, "torchvision's weights", "give --weights torchvision:FILE")
        else:
            state = read_weights(backbone_or_file)
        model = from_torchvision(state, f"weights {backbone_or_file}")
        count = model.config.num_classes
        names = names or (VOC_CLASSES if count == len(VOC_CLASSES) else list(_numbered(count).values()))
        if len(names) != count or not all(names) or len(set(names)) != count:
            raise UserError(f"weights {backbone_or_file} have {count} classes, which {', '.join(names)!r} do not name.")
        return model, dict(enumerate(names))
    if names:
        raise UserError(f"weights {source} have classes of their own; names are for those of torchvision:FILE.")
    file = Path(source) / CHECKPOINT if Path(source).is_dir() else Path(source)
    if file.suffix in (".pth", ".pt"):
        raise UserError(f"weights {file} are none of this project's; name torchvision's as torchvision:{file}.")
    if not file.is_file():
        raise UserError(f"weights {file} do not exist; name a checkpoint.safetensors of a run, or 'torchvision'.")
    model, checkpoint = load_model(file)
    classes = checkpoint.settings.get("data", {}).get("classes") or _numbered(model.config.num_classes)
    return model, {int(value): name for value, name in classes.items()}


def _numbered(count: int) -> dict[int, str]:
    """Classes without names: each is called by its number."""
    return {number: str(number) for number in range(count)}


def predict_photo(
    model: DeepLabV3, photo: np.ndarray, config: EvaluationConfig | None = None, max_size: int = MAX_SIZE
) -> np.ndarray:
    """Predicted class indices ``(H, W)`` uint8 of a photograph ``(H, W, 3)`` uint8 of any size, at that size.

    An image whose longer side exceeds ``max_size`` pixels is reduced to it, since the network knows objects of the size
    that VOC's images show; the class *probabilities* are then enlarged, which leaves smooth borders. Any other
    image is predicted as in evaluation, and so is every image where ``config`` has a ``tile_size``. Without ``config``
    the output stride is the model's. Anything but uint8 of three channels is a :class:`UserError`.
    """
    config = config or EvaluationConfig(output_stride=model.output_stride, padding="tight")
    require_image(photo)
    height, width, _ = photo.shape
    scale = max_size / max(height, width)
    if scale >= 1 or config.tile_size:
        return predict(model, photo, config)
    small_width, small_height = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(Image.fromarray(photo).resize((small_width, small_height), Image.Resampling.BILINEAR))
    size = padded_size(small_height, small_width, config)
    padded = torch.from_numpy(pad(small, size, color=model.config.mean_pixel))
    with eval_mode(model, config):
        scores = probabilities(model, padded[None], config)[0]
    return _enlarged(scores[:, :small_height, :small_width].float().cpu().numpy(), height, width)


def _enlarged(probabilities: np.ndarray, height: int, width: int) -> np.ndarray:
    """The most probable class of every pixel when ``probabilities (K, h, w)`` are enlarged, one class at a time.

    All classes of 20 megapixels at once would be 1.7 GB.
    """
    best = np.zeros((height, width), dtype=np.float32)
    classes = np.zeros((height, width), dtype=np.uint8)
    for index, small in enumerate(probabilities):
        if small.max() < 1 / len(probabilities):  # the most probable class has at least that everywhere
            continue
        large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))
        classes[large > best] = index
        np.maximum(best, large, out=best)
    return classes


def class_shares(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Percentage of the pixels that each class has, ``(num_classes,)``."""
    return 100 * np.array(Image.fromarray(classes).histogram()[:num_classes]) / classes.size
