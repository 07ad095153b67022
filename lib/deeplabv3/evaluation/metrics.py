"""The paper's metric: one confusion matrix over all pixels of all images, void ignored (Section 4).

A class is present where it occurs in the truth or in the prediction. On VOC's val every class is, and the mIoU over all
classes and over those present are one number, the paper's. They part on lists that lack a class: VOC's development kit
has no rule for it (0 / 0 makes its mean NaN), the authors' later public code averages over the classes present.
"""

from typing import TYPE_CHECKING

import numpy as np

from deeplabv3.config import VOID

if TYPE_CHECKING:
    from torch import Tensor


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixel counts ``(num_classes, num_classes)`` int64: rows are the truth, columns the prediction, 255 is ignored."""
    counted = truth != VOID  # (H, W)
    cells = truth[counted].astype(np.int64) * num_classes + prediction[counted]  # (pixels that count,)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_matrices(truth: "Tensor", prediction: "Tensor", num_classes: int) -> "Tensor":
    """The same for a batch ``(N, H, W)`` on any device, image by image: ``(N, num_classes, num_classes)`` int64."""
    import torch  # tables use this module, and need no torch

    # Void is one more class, which is left out in the end. A mask and bincount() would have the host wait for a GPU, to
    # learn the size of their results.
    images = torch.arange(len(truth), dtype=torch.int32, device=truth.device).view(-1, 1, 1)  # (N, 1, 1)
    rows = images * (num_classes + 1) + truth.clamp(max=num_classes)  # (N, H, W)
    cells = (rows * num_classes + prediction).flatten().long()  # (N * H * W,)
    counts = torch.zeros(len(truth) * (num_classes + 1) * num_classes, dtype=torch.int64, device=truth.device)
    counts.scatter_add_(0, cells, counts.new_ones(()).expand_as(cells))
    return counts.view(len(truth), num_classes + 1, num_classes)[:, :num_classes].contiguous()  # (N, K, K)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class, ``(..., K)`` for ``(..., K, K)``; NaN where a class is neither true nor predicted."""
    intersection = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - intersection
    return np.divide(intersection, union, out=np.full_like(intersection, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """mIoU in percent over the classes present, the figure of every table here; NaN when no pixel counts."""
    iou = class_iou(confusion)
    return float(100 * np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def mean_iou_all(confusion: np.ndarray) -> float:
    """mIoU in percent over all classes, where one that is neither true nor predicted counts as 0; NaN as above."""
    iou = class_iou(confusion)
    return float(100 * np.nan_to_num(iou).mean()) if np.isfinite(iou).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Percentage of the pixels that are not void whose class is right; NaN without such pixels."""
    total = confusion.sum()
    return float(100 * np.trace(confusion) / total) if total else float("nan")
