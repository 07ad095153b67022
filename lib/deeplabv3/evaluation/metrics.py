"""The paper's metric: one confusion matrix over all pixels of all pictures, void ignored (Section 4)."""

import numpy as np

from deeplabv3.data.voc import VOID


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """``(num_classes, num_classes)`` int64 pixel counts: rows are the truth, columns the prediction, 255 is ignored."""
    counted = truth != VOID
    cells = truth[counted].astype(np.int64) * num_classes + prediction[counted]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU of each class, ``(..., K)`` for ``(..., K, K)``; NaN where a class is neither true nor predicted."""
    intersection = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - intersection
    return np.divide(intersection, union, out=np.full_like(intersection, np.nan), where=union > 0)


def mean_iou(confusion: np.ndarray) -> float:
    """mIoU in percent over the classes that occur in truth or prediction; NaN when none does."""
    iou = class_iou(confusion)
    return float(100 * np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Percentage of the pixels that are not void whose class is right; NaN without such pixels."""
    total = confusion.sum()
    return float(100 * np.trace(confusion) / total) if total else float("nan")
