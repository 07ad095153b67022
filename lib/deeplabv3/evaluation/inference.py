"""Whole-image inference with the strategies of Tables 4 and 6: output stride, scales and flip (Section 4.1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deeplabv3.data.augment import MEAN_PIXEL, normalise
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError, require, require_scales
from deeplabv3.evaluation.metrics import confusion_matrix
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import resize

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The paper's scales for "MS"."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How a trained model is evaluated.

    ``padding="crop"`` pads every picture bottom and right with the mean pixel to ``crop`` x ``crop`` as the paper does
    (a larger picture is padded to its own size in whole strides); ``"tight"`` only to the next size that the output
    stride divides, plus one.
    """

    output_stride: int = 16
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    crop: int = 513
    padding: str = "crop"

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        require_scales(self.scales)
        require(self.crop >= 1, "crop", self.crop, "a whole number of at least 1")
        if self.padding not in ("crop", "tight"):
            raise UserError(f"padding {self.padding!r} is unknown; choose 'crop' or 'tight'.")


def padded_size(height: int, width: int, settings: EvaluationSettings) -> tuple[int, int]:
    """The size that a picture is padded to before it enters the network."""

    def one(length: int) -> int:
        if settings.padding == "crop" and length <= settings.crop:
            return settings.crop
        stride = settings.output_stride
        return -(-(length - 1) // stride) * stride + 1

    return one(height), one(width)


def pad(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``picture (H, W, 3)`` in the top left corner of a mean-coloured picture of ``size``."""
    padded = np.empty((*size, 3), dtype=np.uint8)
    padded[:] = MEAN_PIXEL
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return padded


@torch.inference_mode()
def probabilities(model: DeepLabV3, pictures: Tensor, settings: EvaluationSettings) -> Tensor:
    """Class probabilities ``(N, K, H, W)`` of padded pictures ``(N, H, W, 3)`` uint8, averaged over scales and flip.

    The model must be at ``settings.output_stride`` and in evaluation mode; :func:`predict_batches` sees to both.
    """
    images = normalise(pictures.to(next(model.parameters()).device))
    height, width = images.shape[2:]
    total, count = None, 0
    for scale in settings.scales:
        # k * s + 1 pixels stay k' * s + 1 pixels, so that corners stay aligned with the features
        size = (round((height - 1) * scale) + 1, round((width - 1) * scale) + 1)
        scaled = resize(images, size, align_corners=True)
        for view in (scaled, scaled.flip(3)) if settings.flip else (scaled,):
            logits = resize(model.features_to_logits(view), (height, width), model.config.align_corners)
            if view is not scaled:
                logits = logits.flip(3)
            shares = logits.softmax(dim=1)
            total = shares if total is None else total + shares
            count += 1
    return total / count


def predict_batches(
    model: DeepLabV3, pictures: Iterator[np.ndarray], settings: EvaluationSettings, batch: int = 1
) -> Iterator[np.ndarray]:
    """Predicted class of every pixel of every picture ``(H, W, 3)``, as ``(H, W)`` uint8 at the picture's own size.

    Neighbours of one padded size share a batch. The model's output stride and mode are restored afterwards.
    """
    output_stride, training = model.output_stride, model.training
    try:
        model.eval().set_output_stride(settings.output_stride)
        waiting: list[np.ndarray] = []
        for picture in pictures:
            size = padded_size(*picture.shape[:2], settings)
            if waiting and (len(waiting) == batch or padded_size(*waiting[0].shape[:2], settings) != size):
                yield from _predict(model, waiting, settings)
                waiting = []
            waiting.append(picture)
        if waiting:
            yield from _predict(model, waiting, settings)
    finally:
        model.set_output_stride(output_stride).train(training)


def predict(model: DeepLabV3, picture: np.ndarray, settings: EvaluationSettings) -> np.ndarray:
    """Predicted classes ``(H, W)`` uint8 of one picture ``(H, W, 3)`` uint8."""
    (prediction,) = predict_batches(model, iter([picture]), settings)
    return prediction


def _predict(model: DeepLabV3, pictures: list[np.ndarray], settings: EvaluationSettings) -> list[np.ndarray]:
    size = padded_size(*pictures[0].shape[:2], settings)
    padded = torch.from_numpy(np.stack([pad(picture, size) for picture in pictures]))
    classes = probabilities(model, padded, settings).argmax(dim=1).to(torch.uint8).cpu().numpy()
    return [found[: p.shape[0], : p.shape[1]] for found, p in zip(classes, pictures, strict=True)]


def evaluate(
    model: DeepLabV3,
    data: VOCData,
    settings: EvaluationSettings,
    batch: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Confusion matrices ``(pictures, K, K)`` int64 of every whole picture of ``data``, at its original size."""
    classes = model.config.num_classes
    predictions = predict_batches(model, (data[i][0] for i in range(len(data))), settings, batch)
    matrices = np.zeros((len(data), classes, classes), dtype=np.int64)
    for index, prediction in enumerate(predictions):
        matrices[index] = confusion_matrix(data[index][1], prediction, classes)
        report(index + 1)
    return matrices
