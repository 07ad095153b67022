"""Metric, padding and strategies that notebooks 7 and 8 write out are the library's."""

import numpy as np
import pytest
import torch
from notebook_helpers import INFERENCE, PREDICTIONS, definitions
from scipy.ndimage import distance_transform_cdt

from deeplabv3 import load_pretrained
from deeplabv3.config import VOID, EvaluationConfig
from deeplabv3.data import transforms
from deeplabv3.evaluation import inference, metrics
from walkthrough.figures import segmentation

# --- notebook 7


@pytest.fixture(scope="module")
def page() -> dict:
    return definitions(INFERENCE)


@pytest.mark.parametrize("void", [0.0, 0.2, 1.0])
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_metric_equals_library(page, void):
    random = np.random.default_rng(1)
    ground_truth, prediction = random.integers(0, 5, (2, 30, 20), np.uint8)
    ground_truth[ground_truth == 3], prediction[prediction == 3] = 1, 2  # class 3 does not occur
    ground_truth[random.random((30, 20)) < void] = VOID
    n = page["confusion_matrix"](ground_truth, prediction, 6)
    assert np.array_equal(n, metrics.confusion_matrix(ground_truth, prediction, 6))
    assert np.array_equal(page["class_iou"](n), metrics.class_iou(n), equal_nan=True)
    assert page["mean_iou"](n) == pytest.approx(metrics.mean_iou(n), abs=0, nan_ok=True)


@pytest.mark.parametrize(("height", "width"), [(40, 65), (65, 66), (1, 80), (81, 97)])
def test_padding_equals_library(page, height, width):
    image = np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)
    for output_stride in (8, 16):
        for crop, settings in ((66, EvaluationConfig(output_stride, crop_size=66)),
                               (1, EvaluationConfig(output_stride, padding="tight"))):  # fmt: skip
            expected = transforms.pad(image, transforms.padded_size(height, width, settings))
            assert np.array_equal(page["pad"](image, output_stride, crop), expected)


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), False), ((0.75, 1.25), True), ((0.5, 1.0, 1.75), False)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_scales_and_flip_equal_library_to_the_bit(page, make_model, scales, flip, output_stride):
    model = make_model(output_stride=output_stride).eval()
    images = torch.randint(0, 256, (2, 49, 81, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    found = page["multi_scale_predict"](model, transforms.normalize(images), scales, flip)
    assert torch.equal(found, inference.probabilities(model, images, EvaluationConfig(output_stride, scales, flip)))


def test_paper_scales_are_the_default(page, make_model):
    images = torch.randn(1, 3, 33, 33)
    model = make_model().eval()
    found = list(page["views"](model, images, page["SCALES"], True))
    assert len(found) == 12 and all(view.shape == (1, 3, 33, 33) for view in found)
    torch.testing.assert_close(page["multi_scale_predict"](model, images), torch.stack(found).mean(0))


def test_forgotten_rates_move_logits(page):
    page |= {"network": load_pretrained()[0], "cat": np.full((65, 81, 3), 90, np.uint8)}
    page["cat"][20:50, 10:60] = 200
    page["config"] = page["network"].config
    with torch.no_grad():
        whole = page["network"].set_output_stride(8).features_to_logits(page["normalized"](page["cat"]))
    assert torch.equal(page["at_stride_8"](True, True), whole)
    others = [page["at_stride_8"](*follows) for follows in ((True, False), (False, True), (False, False))]
    assert all(not torch.allclose(logits, whole, atol=1e-2) for logits in others)
    page["network"].set_output_stride(16)
    assert torch.equal(page["at_stride_8"](True, True), whole)


def test_ground_truth_at_every_pixel_is_itself(page):
    label = np.random.default_rng(4).integers(0, 3, (21, 30))
    label[0, 0] = VOID
    known = page["known_at"](label, 1, 3)
    assert (known == label)[label != VOID].all()
    assert page["known_at"](np.ones((21, 30), int), 8, 3).tolist() == np.ones((21, 30)).tolist()


# --- notebook 8


@pytest.fixture(scope="module")
def predictions_page() -> dict:
    return definitions(PREDICTIONS)


def test_repaired_and_broken_pixels_are_those_of_figure(predictions_page):
    ground_truth, before, after = np.random.default_rng(5).integers(0, 3, (3, 20, 30))
    ground_truth[:4] = VOID
    shown = segmentation.change_map(np.zeros((20, 30, 3), np.uint8), ground_truth, before, after)
    expected = [
        (shown == segmentation._rgb(color)).all(axis=2).sum() for color in (segmentation.REPAIRED, segmentation.BROKEN)
    ]
    assert list(predictions_page["repaired_and_broken"](ground_truth, before, after)) == expected


def test_thinness_counts_pixels_near_the_outline(predictions_page):
    label = np.zeros((40, 50), np.uint8)
    label[5:30, 10:40], label[33:36, :], label[0:3, 0:8] = 1, 2, VOID
    for index, rim in ((0, None), (1, 25 * 30 - 17 * 22), (2, 3 * 50)):
        pixels, near = predictions_page["thinness"](label, index)
        mask = label == index
        distance = distance_transform_cdt(np.pad(mask, 9, mode="edge"), "taxicab")[9:-9, 9:-9]
        assert pixels == mask.sum() and near == (mask & (distance <= 4)).sum()
        assert rim in (None, near)


def test_answer_has_classes_and_their_probability(predictions_page, make_model):
    predictions_page["network"] = make_model().eval()
    photo = np.random.default_rng(6).integers(0, 256, (30, 45, 3), np.uint8)
    classes, sure = predictions_page["answer"](photo)
    assert classes.shape == (30, 45) and sure.shape == photo.shape
    expected = inference.predict(predictions_page["network"], photo, EvaluationConfig(8, padding="tight"))
    assert np.array_equal(classes, expected)
    assert sure.min() >= 255 // 3 and np.ptp(sure) > 0
