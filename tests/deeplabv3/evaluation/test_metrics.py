"""mIoU against values worked out by hand, against a naive implementation and against torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from deeplabv3.config import VOID
from deeplabv3.evaluation.metrics import (
    class_iou,
    confusion_matrices,
    confusion_matrix,
    mean_iou,
    mean_iou_all,
    pixel_accuracy,
)

TRUTH = np.array([[0, 0, 1, 1], [0, 2, 2, 255], [255, 1, 0, 0]], dtype=np.uint8)
PREDICTION = np.array([[0, 1, 1, 1], [0, 2, 0, 2], [1, 2, 0, 0]], dtype=np.uint8)


def test_confusion_matrix_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTION, 3)
    assert matrix.tolist() == [[4, 1, 0], [0, 2, 1], [1, 0, 1]]
    # class 0: 4 of 5 + 1 that should not be; class 1: 2 of 3 + 1; class 2: 1 of 2 + 1
    assert class_iou(matrix) == pytest.approx([4 / 6, 2 / 4, 1 / 3])
    assert mean_iou(matrix) == pytest.approx(100 * (4 / 6 + 2 / 4 + 1 / 3) / 3)
    assert pixel_accuracy(matrix) == pytest.approx(70)


def test_void_pixels_are_ignored():
    expected = confusion_matrix(TRUTH, PREDICTION, 3)
    for value in range(3):
        assert np.array_equal(confusion_matrix(TRUTH, np.where(TRUTH == VOID, value, PREDICTION), 3), expected)
    assert confusion_matrix(TRUTH, PREDICTION, 3).sum() == (TRUTH != VOID).sum()


def test_absent_class_counts_only_in_mean_over_all():
    matrix = confusion_matrix(TRUTH, PREDICTION, 5)
    assert np.isnan(class_iou(matrix)[3:]).all()
    assert mean_iou(matrix) == mean_iou(confusion_matrix(TRUTH, PREDICTION, 3))
    assert mean_iou_all(matrix) == pytest.approx(mean_iou(matrix) * 3 / 5)


def test_means_agree_with_all_classes_present():
    matrix = confusion_matrix(TRUTH, PREDICTION, 3)
    assert mean_iou_all(matrix) == pytest.approx(mean_iou(matrix))


def test_class_only_predicted_or_missed_scores_zero():
    truth, prediction = np.array([[0, 0, 1]], np.uint8), np.array([[0, 2, 0]], np.uint8)
    assert class_iou(confusion_matrix(truth, prediction, 3)) == pytest.approx([1 / 3, 0, 0])


def test_void_only_gives_nan():
    matrix = confusion_matrix(np.full((3, 3), VOID, np.uint8), np.zeros((3, 3), np.uint8), 3)
    assert not matrix.any()
    target, found = torch.full((3, 3), VOID), torch.zeros((3, 3), dtype=torch.int64)
    assert np.array_equal(matrix, multiclass_confusion_matrix(found, target, num_classes=3, ignore_index=VOID))
    assert math.isnan(mean_iou(matrix))
    assert math.isnan(mean_iou_all(matrix))
    assert math.isnan(pixel_accuracy(matrix))


def test_miou_is_not_mean_over_images():
    """isht7/pytorch-deeplab-resnet #5: IoU averaged per image is another metric."""
    large = confusion_matrix(np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8), 2)
    small = confusion_matrix(np.ones((1, 2), np.uint8), np.array([[0, 1]], np.uint8), 2)
    assert mean_iou(large + small) == pytest.approx(100 * (100 / 101 + 1 / 2) / 2)
    assert np.array_equal(class_iou(np.stack([large, small])), [class_iou(large), class_iou(small)], equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
def test_miou_matches_naive_implementation(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 22))
    truth = rng.integers(0, classes, (13, 17)).astype(np.uint8)
    prediction = np.where(rng.random((13, 17)) < 0.6, truth, rng.integers(0, classes, (13, 17))).astype(np.uint8)
    truth[rng.random((13, 17)) < 0.2] = VOID
    ious = []
    for value in range(classes):
        true = {(y, x) for y in range(13) for x in range(17) if truth[y, x] == value}
        found = {(y, x) for y in range(13) for x in range(17) if prediction[y, x] == value and truth[y, x] != VOID}
        if true | found:
            ious.append(len(true & found) / len(true | found))
    assert mean_iou(confusion_matrix(truth, prediction, classes)) == pytest.approx(100 * sum(ious) / len(ious))


def drawn(seed: int, classes: int, shape=(13, 17), void: float = 0.2, right: float = 0.6) -> tuple[np.ndarray, ...]:
    """Truth with void pixels, and a prediction that agrees in a share of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < right, truth, rng.integers(0, classes, shape)).astype(np.uint8)
    truth[rng.random(shape) < void] = VOID
    return truth, prediction


def constant(value: int, shape=(4, 5)) -> np.ndarray:
    return np.full(shape, value, dtype=np.uint8)


ONE_PIXEL = (1, 1)
CASES = {
    "two classes": (*drawn(0, 2), 2),
    "VOC's": (*drawn(1, 21, (60, 70)), 21),
    "as many as there can be": (*drawn(2, 255, (90, 90), right=0.1), 255),
    "no void": (*drawn(3, 5, void=0.0), 5),
    "nearly all void": (*drawn(4, 5, void=0.97), 5),
    "all right": (*drawn(5, 5, right=1.0), 5),
    "all wrong": (constant(0), constant(1), 2),
    "absent in the truth": (constant(0), drawn(6, 3, (4, 5))[1], 3),
    "absent in the prediction": (drawn(7, 3, (4, 5))[0], constant(1), 3),
    "absent in both": (*drawn(8, 3), 6),
    "one pixel, right": (constant(1, ONE_PIXEL), constant(1, ONE_PIXEL), 3),
    "one pixel, wrong": (constant(1, ONE_PIXEL), constant(2, ONE_PIXEL), 3),
    "one class of one": (constant(0), constant(0), 1),
}


@pytest.mark.parametrize(("truth", "prediction", "classes"), CASES.values(), ids=CASES)
def test_metrics_match_torchmetrics(truth, prediction, classes):
    """An implementation by others. Its macro average leaves out absent classes, as the mean over those present does."""
    matrix = confusion_matrix(truth, prediction, classes)
    if classes == 1:  # torchmetrics wants two classes: a second one that never occurs
        matrix = np.pad(matrix, ((0, 1), (0, 1)))
        classes = 2
    target, found = torch.from_numpy(truth.astype(np.int64)), torch.from_numpy(prediction.astype(np.int64))
    options = {"num_classes": classes, "ignore_index": VOID}
    theirs = multiclass_confusion_matrix(found, target, **options)
    assert np.array_equal(matrix, theirs.numpy())
    each = multiclass_jaccard_index(found, target, average="none", **options)
    assert np.nan_to_num(class_iou(matrix)) == pytest.approx(each.numpy(), abs=1e-6)
    assert mean_iou_all(matrix) == pytest.approx(100 * each.mean().item(), abs=1e-4)
    macro = multiclass_jaccard_index(found, target, average="macro", **options)
    assert mean_iou(matrix) == pytest.approx(100 * macro.item(), abs=1e-4)
    accuracy = multiclass_accuracy(found, target, average="micro", **options)
    assert pixel_accuracy(matrix) == pytest.approx(100 * accuracy.item(), abs=1e-4)


def test_batch_is_counted_per_image():
    pairs = [*(drawn(seed, 7) for seed in range(3)), (constant(VOID, (13, 17)), constant(3, (13, 17)))]
    truth, prediction = (torch.from_numpy(np.stack(maps)) for maps in zip(*pairs, strict=True))
    counts = confusion_matrices(truth, prediction, 7)
    assert counts.dtype == torch.int64
    assert np.array_equal(counts, [confusion_matrix(*pair, 7) for pair in pairs])
    assert not counts[3].any()
