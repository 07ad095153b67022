"""Whole-image inference with the strategies of Tables 4 and 6: output stride, scales and flip (Sections 4.1 and 4.2).

Shapes in the comments are those of images padded to the paper's 513 x 513 pixels at output stride 16, for K classes.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

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
"""An image waits for others of its padded size until the stream is this many batches further."""


@torch.inference_mode()
def probabilities(model: DeepLabV3, images: Tensor, config: EvaluationConfig) -> Tensor:
    """Class probabilities ``(N, K, H, W)`` of padded images ``(N, H, W, 3)`` uint8, averaged over scales and flip.

    The model must be at ``config.output_stride`` and in evaluation mode; :func:`predict_batches` sees to both.
    """
    views = (logits.softmax(dim=1) for logits in _tta_logits(model, images, config))  # each (N, K, 513, 513)
    total = next(views)  # (N, K, 513, 513)
    for view in views:
        total.add_(view)
    return total.div_(len(config.scales) * (1 + config.flip))  # (N, K, 513, 513)


@torch.inference_mode()
def predict_classes(model: DeepLabV3, images: Tensor, config: EvaluationConfig) -> Tensor:
    """The most probable class of every pixel of padded images ``(N, H, W, 3)``, as ``(N, H, W)`` uint8."""
    if len(config.scales) == 1 and not config.flip:
        (scores,) = _tta_logits(model, images, config)  # the largest logit is the largest probability
    else:
        scores = probabilities(model, images, config)  # (N, K, 513, 513)
    # argmax() finds the same classes, on a CPU up to twenty times as slowly
    return scores.max(dim=1).indices.to(torch.uint8)  # (N, 513, 513)


def _tta_logits(model: DeepLabV3, images: Tensor, config: EvaluationConfig) -> Iterator[Tensor]:
    """Logits ``(N, K, H, W)`` at every scale and, with flip, of the mirrored images too (test-time augmentation)."""
    normalized = normalize(images.to(next(model.parameters()).device))  # (N, 513, 513, 3) to (N, 3, 513, 513)
    height, width = normalized.shape[2:]
    for scale in config.scales:
        # k * s + 1 pixels become k' * s + 1 pixels, so that corners stay aligned with the features
        size = tuple(_in_strides(side, scale, model.output_stride) for side in (height, width))
        scaled = resize(normalized, size, align_corners=True)  # at scale 0.5 (N, 3, 257, 257)
        for mirrored in (False, True) if config.flip else (False,):
            view = scaled.flip(3) if mirrored else scaled  # (N, 3, 257, 257)
            with torch.autocast(view.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                logits = model.features_to_logits(view).float()  # (N, K, 17, 17)
            logits = logits.flip(3) if mirrored else logits  # (N, K, 17, 17)
            yield resize(logits, (height, width), model.config.align_corners)  # (N, K, 513, 513)


def _in_strides(side: int, scale: float, stride: int) -> int:
    """``side`` scaled to the nearest size that whole strides and one pixel fill; 513 at the paper's scales is exact."""
    return side if scale == 1 else round((side - 1) * scale / stride) * stride + 1


@dataclass(frozen=True)
class _Item:
    """An image ``(H, W, 3)`` uint8 with its index and, for evaluation, its label ``(H, W)`` uint8."""

    index: int
    image: np.ndarray
    label: np.ndarray | None = None


def in_batches(items: Iterable[_Item], config: EvaluationConfig, batch_size: int) -> Iterator[list[_Item]]:
    """The items in groups of at most ``batch_size`` whose images share a padded size, each soon after its turn."""
    waiting: dict[tuple[int, int], list[_Item]] = {}
    for item in items:
        size = _padded_size(item, config)
        group = waiting.setdefault(size, [])
        group.append(item)
        if len(group) == batch_size:
            yield waiting.pop(size)
        if waiting:
            oldest = next(iter(waiting))  # a dict keeps the order in which its keys came
            if item.index - waiting[oldest][0].index >= MAX_BATCH_LAG * batch_size:
                yield waiting.pop(oldest)
    yield from waiting.values()


def _padded_size(item: _Item, config: EvaluationConfig) -> tuple[int, int]:
    height, width, _ = item.image.shape
    return padded_size(height, width, config)


def _stack(group: list[_Item], config: EvaluationConfig) -> Tensor:
    """The padded images of a group, ``(N, H, W, 3)`` uint8."""
    size = _padded_size(group[0], config)
    return torch.from_numpy(np.stack([pad(item.image, size) for item in group]))


@contextmanager
def eval_mode(model: DeepLabV3, config: EvaluationConfig) -> Iterator[None]:
    """Put the model into evaluation mode and at the output stride of ``config``; afterwards restore both."""
    output_stride, training = model.output_stride, model.training
    try:
        model.eval().set_output_stride(config.output_stride)
        yield
    finally:
        model.set_output_stride(output_stride).train(training)


def predict_batches(
    model: DeepLabV3, images: Iterable[np.ndarray], config: EvaluationConfig, batch_size: int = 1
) -> Iterator[np.ndarray]:
    """Predicted class of every pixel of every image ``(H, W, 3)``, as ``(H, W)`` uint8 at the image's own size.

    Images of one padded size share a batch, and predictions come in the images' order. The model's output stride and
    mode are restored afterwards.
    """
    predictions: dict[int, np.ndarray] = {}
    next_index = 0
    with eval_mode(model, config):
        for group in in_batches((_Item(*item) for item in enumerate(images)), config, batch_size):
            classes = predict_classes(model, _stack(group, config), config).cpu().numpy()  # (N, 513, 513)
            for item, padded in zip(group, classes, strict=True):
                predictions[item.index] = padded[: item.image.shape[0], : item.image.shape[1]]  # (H, W)
            while next_index in predictions:
                yield predictions.pop(next_index)
                next_index += 1


def predict(model: DeepLabV3, image: np.ndarray, config: EvaluationConfig) -> np.ndarray:
    """Predicted classes ``(H, W)`` uint8 of one image ``(H, W, 3)`` uint8."""
    (prediction,) = predict_batches(model, [image], config)
    return prediction


def confusion_per_image(
    model: DeepLabV3, data: VOCData, config: EvaluationConfig, batch_size: int = 1, indices: Iterable[int] | None = None
) -> Generator[tuple[int, np.ndarray | UserError], None, None]:
    """Index and confusion matrix ``(K, K)`` int64 of every whole image of ``data``, or of those at ``indices``.

    They come as they are done, nearly in order; an image that cannot be read comes with its error instead. Files are
    read while the network works.
    """
    errors: list[tuple[int, UserError]] = []

    def readable() -> Iterator[_Item]:
        for index, sample in _read_ahead(data, range(len(data)) if indices is None else indices, 2 * batch_size):
            if isinstance(sample, UserError):
                errors.append((index, sample))
            else:
                yield _Item(index, *sample)

    with eval_mode(model, config):
        for group in in_batches(readable(), config, batch_size):
            classes = predict_classes(model, _stack(group, config), config)  # (N, 513, 513)
            labels = np.full(classes.shape, VOID, dtype=np.uint8)  # (N, 513, 513), where padding is void
            for label, item in zip(labels, group, strict=True):
                assert item.label is not None
                label[: item.label.shape[0], : item.label.shape[1]] = item.label
            truth = torch.from_numpy(labels).to(classes.device)  # (N, 513, 513)
            counts = confusion_matrices(truth, classes, model.config.num_classes).cpu().numpy()  # (N, K, K)
            yield from zip((item.index for item in group), counts, strict=True)
            while errors:
                yield errors.pop(0)
        yield from errors


def _read_ahead(data: VOCData, indices: Iterable[int], ahead: int) -> Iterator[tuple[int, tuple | UserError]]:
    """Images with their labels, in order, read by threads up to ``ahead`` before they are asked for."""
    waiting: deque[tuple[int, Future]] = deque()

    def oldest() -> tuple[int, tuple | UserError]:
        index, sample = waiting.popleft()
        error = sample.exception()
        return index, error if isinstance(error, UserError) else sample.result()

    with ThreadPoolExecutor(min(8, max(1, (os.cpu_count() or 1) // 2))) as pool:
        for index in indices:
            waiting.append((index, pool.submit(data.__getitem__, index)))
            if len(waiting) > ahead:
                yield oldest()
        while waiting:
            yield oldest()


def evaluate(
    model: DeepLabV3,
    data: VOCData,
    config: EvaluationConfig,
    batch_size: int = 1,
    report: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Confusion matrices ``(images, K, K)`` int64 of every whole image of ``data``, at its original size.

    ``report`` is called with the number of images done. The first image that cannot be read ends it.
    """
    classes = model.config.num_classes
    matrices = np.zeros((len(data), classes, classes), dtype=np.int64)
    for done, (index, counts) in enumerate(confusion_per_image(model, data, config, batch_size), start=1):
        if isinstance(counts, UserError):
            raise counts
        matrices[index] = counts
        report(done)
    return matrices
