"""mIoU against values worked out by hand and against a naive implementation."""

import math

import numpy as np
import pytest

from deeplabv3.data.voc import VOID
from deeplabv3.evaluation.metrics import class_iou, confusion_matrix, mean_iou, pixel_accuracy

TRUTH = np.array([[0, 0, 1, 1], [0, 2, 2, 255], [255, 1, 0, 0]], dtype=np.uint8)
PREDICTION = np.array([[0, 1, 1, 1], [0, 2, 0, 2], [1, 2, 0, 0]], dtype=np.uint8)


def test_a_matrix_by_hand():
    matrix = confusion_matrix(TRUTH, PREDICTION, 3)
    assert matrix.tolist() == [[4, 1, 0], [0, 2, 1], [1, 0, 1]]
    # class 0: 4 of 5 + 1 that should not be; class 1: 2 of 3 + 1; class 2: 1 of 2 + 1
    assert class_iou(matrix) == pytest.approx([4 / 6, 2 / 4, 1 / 3])
    assert mean_iou(matrix) == pytest.approx(100 * (4 / 6 + 2 / 4 + 1 / 3) / 3)
    assert pixel_accuracy(matrix) == pytest.approx(70)


def test_void_pixels_do_not_count_whatever_is_predicted_there():
    expected = confusion_matrix(TRUTH, PREDICTION, 3)
    for value in range(3):
        assert np.array_equal(confusion_matrix(TRUTH, np.where(TRUTH == VOID, value, PREDICTION), 3), expected)
    assert confusion_matrix(TRUTH, PREDICTION, 3).sum() == (TRUTH != VOID).sum()


def test_a_class_that_never_occurs_does_not_count():
    matrix = confusion_matrix(TRUTH, PREDICTION, 5)
    assert np.isnan(class_iou(matrix)[3:]).all()
    assert mean_iou(matrix) == mean_iou(confusion_matrix(TRUTH, PREDICTION, 3))


def test_a_class_that_is_only_predicted_or_only_missed_is_zero():
    truth, prediction = np.array([[0, 0, 1]], np.uint8), np.array([[0, 2, 0]], np.uint8)
    assert class_iou(confusion_matrix(truth, prediction, 3)) == pytest.approx([1 / 3, 0, 0])


def test_nothing_but_void_is_no_result():
    matrix = confusion_matrix(np.full((3, 3), VOID, np.uint8), np.zeros((3, 3), np.uint8), 3)
    assert not matrix.any()
    assert math.isnan(mean_iou(matrix))
    assert math.isnan(pixel_accuracy(matrix))


def test_one_matrix_over_all_pictures_and_not_a_mean_over_pictures():
    """isht7/pytorch-deeplab-resnet #5: IoU averaged per picture is another metric."""
    large = confusion_matrix(np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8), 2)
    small = confusion_matrix(np.ones((1, 2), np.uint8), np.array([[0, 1]], np.uint8), 2)
    assert mean_iou(large + small) == pytest.approx(100 * (100 / 101 + 1 / 2) / 2)
    assert np.array_equal(class_iou(np.stack([large, small])), [class_iou(large), class_iou(small)], equal_nan=True)


@pytest.mark.parametrize("seed", range(5))
def test_a_naive_implementation_agrees(seed):
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
