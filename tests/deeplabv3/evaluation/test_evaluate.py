"""Evaluation of whole lists: degenerate images, damaged files, and the model and threads afterwards."""

import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, write_label
from PIL import Image

from deeplabv3.config import VOID, EvaluationConfig
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import confusion_per_image, evaluate, predict_batches
from deeplabv3.evaluation.metrics import confusion_matrix


def write_images(root: Path, sizes: list[tuple[int, int]]) -> VOCData:
    """A list ``val`` of noise at these sizes (height, width), labels from CLASSES with some void."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"image_{number}" for number in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
        label = rng.choice([*CLASSES, VOID], size).astype(np.uint8)
        write_label(root / "SegmentationClass" / f"{name}.png", label)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(names))
    return VOCData(root, "val", CLASSES)


DEGENERATE = [(1, 1), (200, 3000), (1, 90), (90, 1), (2, 3), (1500, 20), (16, 17)]


@pytest.mark.parametrize("padding", ["crop", "tight"])
@pytest.mark.parametrize("changes", [{}, {"output_stride": 8, "scales": (0.5, 1.25), "flip": True}])
def test_huge_and_tiny_images_are_counted_whole(make_model, tmp_path, padding, changes):
    config = EvaluationConfig(**changes, crop_size=33, padding=padding)
    data, model = write_images(tmp_path / "VOC", DEGENERATE), make_model().eval()
    confusions = evaluate(model, data, config, batch_size=2)
    predictions = predict_batches(model, (data[index][0] for index in range(len(data))), config)
    for index, prediction in enumerate(predictions):
        label = data[index][1]
        assert prediction.shape == label.shape == DEGENERATE[index]
        assert confusions[index].sum() == (label != VOID).sum()
        moved = abs(confusions[index] - confusion_matrix(label, prediction, 3)).sum() / 2
        assert moved <= 1e-3 * label.size  # another batch may decide a tie otherwise


def test_void_image_counts_nothing(make_model, tmp_path):
    data = write_images(tmp_path / "VOC", [(20, 30), (20, 30)])
    write_label(data.root / "SegmentationClass" / "image_0.png", np.full((20, 30), VOID, dtype=np.uint8))
    confusions = evaluate(make_model(), data, EvaluationConfig(padding="tight"), 2)
    assert not confusions[0].any()
    assert confusions[1].any()


def break_image(data: VOCData, number: int) -> None:
    path = data.root / "JPEGImages" / f"image_{number}.jpg"
    path.write_bytes(path.read_bytes()[:150])


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_broken_image_does_not_stop_others(make_model, tmp_path, batch_size):
    data = write_images(tmp_path / "VOC", [(20, 30)] * 5)
    whole = evaluate(make_model(), data, EvaluationConfig(padding="tight"))
    break_image(data, 2)
    write_label(data.root / "SegmentationClass" / "image_4.png", np.full((20, 30), 99, dtype=np.uint8))
    found = dict(confusion_per_image(make_model(), data, EvaluationConfig(padding="tight"), batch_size))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert isinstance(found[2], UserError) and "image_2.jpg" in str(found[2])
    assert isinstance(found[4], UserError) and "image_4.png holds the value 99" in str(found[4])
    for index in (0, 1, 3):
        assert abs(found[index] - whole[index]).sum() <= 2
    with pytest.raises(UserError, match=r"image_2\.jpg"):
        evaluate(make_model(), data, EvaluationConfig(padding="tight"), batch_size)


def test_selected_indices_are_evaluated(make_model, data):
    whole = evaluate(make_model(), data, EvaluationConfig(crop_size=65))
    found = dict(confusion_per_image(make_model(), data, EvaluationConfig(crop_size=65), indices=[4, 1]))
    assert list(found) == [4, 1]
    assert all(np.array_equal(counts, whole[index]) for index, counts in found.items())


def test_abandoned_evaluation_restores_model_and_threads(make_model, data):
    model, before = make_model().train(), threading.active_count()
    stream = confusion_per_image(model, data, EvaluationConfig(output_stride=8, crop_size=65))
    next(stream)
    assert model.output_stride == 8
    stream.close()
    assert (model.output_stride, model.training, threading.active_count()) == (16, True, before)
