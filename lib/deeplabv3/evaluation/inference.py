"""Whole-image inference with the strategies of Tables 4 and 6: output stride, scales and flip (Sections 4.1 and 4.2).

Shapes in the comments are those of images padded to the paper's 513 x 513 pixels at output stride 16, for K classes.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial, reduce
from itertools import islice, pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from deeplabv3.config import VOID, EvaluationConfig
from deeplabv3.data.transforms import normalize, pad, padded_size, require_image
from deeplabv3.data.voc import VOCData
from deeplabv3.device import autocast, compute_settings
from deeplabv3.errors import UserError
from deeplabv3.evaluation.metrics import confusion_matrices
from deeplabv3.machine import available_cpus
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import resize

READ_AHEAD = 2
"""Batches that are read while the network works on the one before them."""

Size = tuple[int, int]
"""Height and width in pixels."""

T = TypeVar("T")


@torch.inference_mode()
def probabilities(model: DeepLabV3, images: Tensor, config: EvaluationConfig) -> Tensor:
    """Class probabilities ``(N, K, H, W)`` of padded images ``(N, H, W, 3)`` uint8, averaged over scales and flip.

    With ``fusion`` max they are those of the largest logits of any view, as in DeepLabv2. The model must be at
    ``config.output_stride`` and in evaluation mode; :func:`predict_batches` sees to both.
    """
    if config.fusion == "max":
        return reduce(torch.maximum, _tta_logits(model, images, config)).softmax(dim=1)  # (N, K, 513, 513)
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
    images = images.to(next(model.parameters()).device, non_blocking=True)  # (N, 513, 513, 3)
    normalized = normalize(images, model.config.mean, model.config.std)  # (N, 3, 513, 513)
    height, width = normalized.shape[2:]
    for scale in config.scales:
        # k * s + 1 pixels become k' * s + 1 pixels, so that corners stay aligned with the features
        size = tuple(_in_strides(side, scale, model.output_stride) for side in (height, width))
        scaled = resize(normalized, size, align_corners=True)  # at scale 0.5 (N, 3, 257, 257)
        for mirrored in (False, True) if config.flip else (False,):
            view = scaled.flip(3) if mirrored else scaled  # (N, 3, 257, 257)
            tuned = compute_settings(config.precision, one_size=_is_crop((height, width), config))
            with tuned, autocast(view.device, config.precision):
                logits = model.features_to_logits(view).float()  # (N, K, 17, 17)
            logits = logits.flip(3) if mirrored else logits  # (N, K, 17, 17)
            yield resize(logits, (height, width), model.config.align_corners)  # (N, K, 513, 513)


def predict_parts(model: DeepLabV3, images: Tensor, config: EvaluationConfig) -> Iterator[tuple[slice, slice, Tensor]]:
    """The classes of padded images ``(N, H, W, 3)`` part by part: rows, columns, and ``(N, h, w)`` uint8.

    One part is all of images that are no larger than ``config.tile_size``; others are cut into tiles, so that logits
    and scaled copies take a tile's memory. Away from a tile's borders by the network's receptive field, the classes are
    those of the whole image, if corners are aligned and a tile has whole strides in every scale. Image-level features
    are a tile's own, so with image pooling they differ everywhere.
    """
    for seen_rows, rows, inner_rows in tile_spans(images.shape[1], config):
        for seen_columns, columns, inner_columns in tile_spans(images.shape[2], config):
            classes = predict_classes(model, images[:, seen_rows, seen_columns], config)  # (N, tile, tile)
            yield rows, columns, classes[:, inner_rows, inner_columns]


def tile_spans(length: int, config: EvaluationConfig) -> list[tuple[slice, slice, slice]]:
    """Tiles along a side of ``length`` padded pixels: what the network sees, what is kept, and where that is in a tile.

    Neighbors overlap by a quarter of a tile or more; each keeps its inner part, an eighth away from its borders.
    """
    unit = 4 * config.output_stride  # whole strides in scales of quarters, too
    tile = (config.tile_size - 1) // unit * unit + 1
    if config.tile_size == 0 or length <= tile:
        return [(slice(0, length),) * 3]
    margin = -(-(tile - 1) // (8 * unit)) * unit
    starts = [*range(0, length - tile, tile - 1 - 2 * margin), length - tile]
    borders = [0, *(start + margin for start in starts[1:]), length]
    return [
        (slice(start, start + tile), slice(first, last), slice(first - start, last - start))
        for start, (first, last) in zip(starts, pairwise(borders), strict=True)
    ]


def _in_strides(side: int, scale: float, stride: int) -> int:
    """``side`` scaled to the nearest size that whole strides and one pixel fill; 513 at the paper's scales is exact."""
    return side if scale == 1 else round((side - 1) * scale / stride) * stride + 1


def _is_crop(size: Size, config: EvaluationConfig) -> bool:
    """Return whether a padded size is the one that all images have but those that are larger than the crop."""
    return config.padding == "crop" and size == (config.crop_size, config.crop_size)


def plan_batches(sizes: Mapping[int, Size], config: EvaluationConfig, batch_size: int) -> list[tuple[Size, list[int]]]:
    """Batches as padded sizes with the indices of their images; all batches of a size but its last are full.

    ``sizes`` are those of the images by their indices, before padding.
    """
    groups: dict[Size, list[int]] = {}
    for index, size in sizes.items():
        groups.setdefault(padded_size(*size, config), []).append(index)
    return [
        (size, indices[start : start + batch_size])
        for size, indices in groups.items()
        for start in range(0, len(indices), batch_size)
    ]


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
    images = iter(images)
    with eval_mode(model, config):
        while window := list(islice(images, batch_size**2)):  # as many sizes as a batch has images can fill theirs
            predictions: dict[int, np.ndarray] = {}
            sizes = {index: image.shape[:2] for index, image in enumerate(window)}
            for size, indices in plan_batches(sizes, config, batch_size):
                padded = torch.empty(len(indices), *size, 3, dtype=torch.uint8)  # (N, 513, 513, 3)
                for index, image in zip(indices, padded.numpy(), strict=True):
                    require_image(window[index])
                    pad(window[index], size, image, model.config.mean_pixel)
                classes = np.empty(padded.shape[:3], dtype=np.uint8)  # (N, 513, 513)
                for rows, columns, part in predict_parts(model, padded, config):
                    classes[:, rows, columns] = part.cpu().numpy()
                for index, padded_classes in zip(indices, classes, strict=True):
                    height, width = sizes[index]
                    predictions[index] = padded_classes[:height, :width]  # (H, W)
            yield from (predictions[index] for index in range(len(window)))


def predict(model: DeepLabV3, image: np.ndarray, config: EvaluationConfig) -> np.ndarray:
    """Predicted classes ``(H, W)`` uint8 of one image ``(H, W, 3)`` uint8."""
    (prediction,) = predict_batches(model, [image], config)
    return prediction


def confusion_per_image(
    model: DeepLabV3, data: VOCData, config: EvaluationConfig, batch_size: int = 1, indices: Iterable[int] | None = None
) -> Generator[tuple[int, np.ndarray | UserError], None, None]:
    """Index and confusion matrix ``(K, K)`` int64 of every whole image of ``data``, or of those at ``indices``.

    They come as they are done, images of one padded size after each other; an image that cannot be read comes with its
    error instead. Files are read while the network works, and a GPU works on a batch while the counts of the one
    before are fetched.
    """
    sizes: dict[int, Size] = {}
    for index in range(len(data)) if indices is None else indices:
        try:
            sizes[index] = data.image_size(index)
        except UserError as error:
            yield index, error
    on_gpu = next(model.parameters()).is_cuda
    with eval_mode(model, config), ThreadPoolExecutor(min(8, max(1, available_cpus() // 2))) as pool:

        def begin(size: Size, indices: list[int]) -> _Batch:
            # A last batch with fewer rows would have cuDNN try its algorithms again.
            rows = batch_size if on_gpu and _is_crop(size, config) else len(indices)
            return _Batch(pool, data, size, indices, rows, model.config.mean_pixel, pinned=on_gpu)

        read = (begin(*batch) for batch in plan_batches(sizes, config, batch_size))
        counted = (batch.count(model, config) for batch in _delayed(read, READ_AHEAD))
        for batch in _delayed(counted, 1 if on_gpu else 0):
            yield from batch.results()


def _delayed(stream: Iterable[T], delay: int) -> Iterator[T]:
    """The items of ``stream``, each once ``delay`` items after it have come, which work in the background."""
    waiting: deque[T] = deque()
    for item in stream:
        waiting.append(item)
        if len(waiting) > delay:
            yield waiting.popleft()
    yield from waiting


class _Batch:
    """Images of one padded size on their way: threads read them, the device counts, the counts come back.

    Args:
        pool: threads, which begin to read at once
        data: the list of images
        size: padded height and width
        indices: of the images in the list
        rows: N; what is in rows without an image does not matter
        color: that images are padded with
        pinned: in memory that a GPU copies by itself
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        data: VOCData,
        size: Size,
        indices: list[int],
        rows: int,
        color: tuple[int, ...],
        pinned: bool,
    ):
        self.indices = indices
        self.images = torch.empty(rows, *size, 3, dtype=torch.uint8, pin_memory=pinned)  # (N, 513, 513, 3)
        self.labels = torch.empty(rows, *size, dtype=torch.uint8, pin_memory=pinned)  # (N, 513, 513)
        self._reading = pool.map(partial(_read, data, color), indices, self.images.numpy(), self.labels.numpy())

    def count(self, model: DeepLabV3, config: EvaluationConfig) -> "_Batch":
        """Wait for the images and let the device count. Nothing here waits for a GPU."""
        self._errors = list(self._reading)
        parts = []
        for rows, columns, classes in predict_parts(model, self.images, config):  # (N, 513, 513)
            truth = self.labels[:, rows, columns].to(classes.device, non_blocking=True)  # (N, 513, 513)
            parts.append(confusion_matrices(truth, classes, model.config.num_classes))  # (N, K, K)
        counts = reduce(torch.add, parts)  # (N, K, K)
        self._counts = counts.to("cpu", non_blocking=True)
        self._done = torch.cuda.current_stream(counts.device).record_event() if counts.is_cuda else None
        return self

    def results(self) -> Iterator[tuple[int, np.ndarray | UserError]]:
        """Wait for the counts: index and confusion matrix, or error, of every image."""
        if self._done:
            self._done.synchronize()
        # Rows without an image come last.
        for index, error, counts in zip(self.indices, self._errors, self._counts.numpy(), strict=False):
            yield index, error or counts


def _read(data: VOCData, color: tuple[int, ...], index: int, image: np.ndarray, label: np.ndarray) -> UserError | None:
    """Read an image and its label into padded ones, ``(*size, 3)`` and ``size``; void is around the label."""
    try:
        unpadded, truth = data[index]
    except UserError as error:
        return error
    (height, width), (room, room_across) = truth.shape, label.shape
    if height > room or width > room_across:  # another program writes it, or its header is wrong
        name = f"image {data.names[index]!r} of list {data.list_name!r}"
        return UserError(f"{name} has {width} x {height} pixels, more than its header said; save it anew.")
    pad(unpadded, image.shape[:2], image, color)
    label[:] = VOID
    label[:height, :width] = truth
    return None


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
