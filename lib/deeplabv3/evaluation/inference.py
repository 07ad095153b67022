"""Whole-image inference with the strategies of Tables 4 and 6: output stride, scales and flip (Section 4.1)."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from deeplabv3.config import VOID, EvaluationConfig
from deeplabv3.data.transforms import normalize, pad, padded_size
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from deeplabv3.evaluation.metrics import confusion_matrices
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import resize

MAX_BATCH_LAG = 16
"""A image waits for others of its padded size until the stream is this many batches further."""


@torch.inference_mode()
def probabilities(model: DeepLabV3, images: Tensor, settings: EvaluationConfig) -> Tensor:
    """Class probabilities ``(N, K, H, W)`` of padded images ``(N, H, W, 3)`` uint8, averaged over scales and flip.

    The model must be at ``settings.output_stride`` and in evaluation mode; :func:`predict_batches` sees to both.
    """
    total, count = None, 0
    for logits in _tta_logits(model, images, settings):
        shares = logits.softmax(dim=1)
        total = shares if total is None else total.add_(shares)
        count += 1
    return total.div_(count)


@torch.inference_mode()
def predict_classes(model: DeepLabV3, images: Tensor, settings: EvaluationConfig) -> Tensor:
    """The most probable class of every pixel of padded images ``(N, H, W, 3)``, as ``(N, H, W)`` uint8."""
    if len(settings.scales) == 1 and not settings.flip:
        (scores,) = _tta_logits(model, images, settings)  # the largest logit is the largest probability
    else:
        scores = probabilities(model, images, settings)
    # argmax() finds the same classes, on a CPU up to twenty times as slowly
    return scores.max(dim=1).indices.to(torch.uint8)


def _tta_logits(model: DeepLabV3, images: Tensor, settings: EvaluationConfig) -> Iterator[Tensor]:
    """Logits ``(N, K, H, W)`` from every scale, of the images and, with flip, of their mirror normalized turned back."""
    normalized = normalize(images.to(next(model.parameters()).device))
    height, width = normalized.shape[2:]
    for scale in settings.scales:
        # k * s + 1 pixels become k' * s + 1 pixels, so that corners stay aligned with the features
        size = tuple(_in_strides(side, scale, model.output_stride) for side in (height, width))
        scaled = resize(normalized, size, align_corners=True)
        for mirrored in (False, True) if settings.flip else (False,):
            with torch.autocast(normalized.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                logits = model.features_to_logits(scaled.flip(3) if mirrored else scaled).float()
            logits = logits.flip(3) if mirrored else logits
            yield resize(logits, (height, width), model.config.align_corners)


def _in_strides(side: int, scale: float, stride: int) -> int:
    """``side`` scaled to the nearest size that whole strides and one pixel fill; 513 at the paper's scales is exact."""
    return side if scale == 1 else round((side - 1) * scale / stride) * stride + 1


class _Item(NamedTuple):
    """A image ``(H, W, 3)`` on its way through the network, with its number and, where it has one, its label."""

    index: int
    image: np.ndarray
    label: np.ndarray | None = None


def in_batches(items: Iterable[_Item], settings: EvaluationConfig, batch_size: int) -> Iterator[list[_Item]]:
    """The items in groups of at most ``batch_size`` whose images share a padded size, each soon after its turn."""
    waiting: dict[tuple[int, int], list[_Item]] = {}
    for item in items:
        size = padded_size(*item.image.shape[:2], settings)
        group = waiting.setdefault(size, [])
        group.append(item)
        if len(group) == batch_size:
            yield waiting.pop(size)
        if waiting:
            oldest = next(iter(waiting))  # a dict keeps the order in which its keys came
            if item.index - waiting[oldest][0].index >= MAX_BATCH_LAG * batch_size:
                yield waiting.pop(oldest)
    yield from waiting.values()


def _stack(group: list[_Item], settings: EvaluationConfig) -> Tensor:
    size = padded_size(*group[0].image.shape[:2], settings)
    return torch.from_numpy(np.stack([pad(item.image, size) for item in group]))


@contextmanager
def eval_mode(model: DeepLabV3, settings: EvaluationConfig) -> Iterator[None]:
    """The model in evaluation mode and at the settings' output stride; afterwards as it was."""
    output_stride, training = model.output_stride, model.training
    try:
        model.eval().set_output_stride(settings.output_stride)
        yield
    finally:
        model.set_output_stride(output_stride).train(training)


def predict_batches(
    model: DeepLabV3, images: Iterable[np.ndarray], settings: EvaluationConfig, batch_size: int = 1
) -> Iterator[np.ndarray]:
    """Predicted class of every pixel of every image ``(H, W, 3)``, as ``(H, W)`` uint8 at the image's own size.

    Images of one padded size share a batch, and come back in their own order. The model's output stride and mode are
    restored afterwards.
    """
    done: dict[int, np.ndarray] = {}
    due = 0
    with eval_mode(model, settings):
        for group in in_batches((_Item(*item) for item in enumerate(images)), settings, batch_size):
            classes = predict_classes(model, _stack(group, settings), settings).cpu().numpy()
            for (index, image, _), found in zip(group, classes, strict=True):
                done[index] = found[: image.shape[0], : image.shape[1]]
            while due in done:
                yield done.pop(due)
                due += 1


def predict(model: DeepLabV3, image: np.ndarray, settings: EvaluationConfig) -> np.ndarray:
    """Predicted classes ``(H, W)`` uint8 of one image ``(H, W, 3)`` uint8."""
    (prediction,) = predict_batches(model, [image], settings)
    return prediction


def confusion_per_image(
    model: DeepLabV3, data: VOCData, settings: EvaluationConfig, batch_size: int = 1, indices: Iterable[int] | None = None
) -> Iterator[tuple[int, np.ndarray | UserError]]:
    """Index and confusion matrix ``(K, K)`` int64 of every whole image of ``data``, or of those at ``indices``.

    They come as they are done, nearly in order; a image that cannot be read comes with its error instead. Files are
    read while the network works.
    """
    broken: list[tuple[int, UserError]] = []

    def readable() -> Iterator[_Item]:
        for index, found in _read_ahead(data, range(len(data)) if indices is None else indices, 2 * batch_size):
            if isinstance(found, UserError):
                broken.append((index, found))
            else:
                yield _Item(index, *found)

    with eval_mode(model, settings):
        for group in in_batches(readable(), settings, batch_size):
            classes = predict_classes(model, _stack(group, settings), settings)
            labels = np.full(classes.shape, VOID, dtype=np.uint8)  # padding is void
            for label, item in zip(labels, group, strict=True):
                label[: item.label.shape[0], : item.label.shape[1]] = item.label
            truth = torch.from_numpy(labels).to(classes.device)
            counts = confusion_matrices(truth, classes, model.config.num_classes).cpu().numpy()
            yield from zip((item.index for item in group), counts, strict=True)
            while broken:
                yield broken.pop(0)
        yield from broken


def _read_ahead(data: VOCData, indices: Iterable[int], ahead: int) -> Iterator[tuple[int, tuple | UserError]]:
    """Images with their labels, in order, read by threads up to ``ahead`` before they are asked for."""

    def read(index: int) -> tuple[int, tuple | UserError]:
        try:
            return index, data[index]
        except UserError as error:
            return index, error

    pool = ThreadPoolExecutor(min(8, max(1, (os.cpu_count() or 1) // 2)))
    waiting: deque[Future] = deque()
    try:
        for index in indices:
            waiting.append(pool.submit(read, index))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def evaluate(
    model: DeepLabV3,
    data: VOCData,
    settings: EvaluationConfig,
    batch_size: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Confusion matrices ``(images, K, K)`` int64 of every whole image of ``data``, at its original size.

    The first image that cannot be read ends it.
    """
    classes = model.config.num_classes
    matrices = np.zeros((len(data), classes, classes), dtype=np.int64)
    for done, (index, found) in enumerate(confusion_per_image(model, data, settings, batch_size), start=1):
        if isinstance(found, UserError):
            raise found
        matrices[index] = found
        report(done)
    return matrices
