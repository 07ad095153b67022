"""Evaluation of whole lists: degenerate images, damaged files, and the model and threads afterwards."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, write_label
from PIL import Image

from deeplabv3.config import VOID, EvaluationConfig
from deeplabv3.data.transforms import MEAN_PIXEL
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError, attempt
from deeplabv3.evaluation.inference import _Batch, _delayed, confusion_per_image, evaluate, predict_batches
from deeplabv3.evaluation.metrics import confusion_matrix
from deeplabv3.model.deploy import optimize_for_inference


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


def break_image(data: VOCData, number: int, kept: int) -> None:
    path = data.root / "JPEGImages" / f"image_{number}.jpg"
    path.write_bytes(path.read_bytes()[:kept])


@pytest.mark.parametrize("kept", [150, 650], ids=["header", "pixels"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_broken_image_does_not_stop_others(make_model, tmp_path, batch_size, kept):
    """Whether its size can be read or not."""
    data = write_images(tmp_path / "VOC", [(20, 30)] * 5)
    whole = evaluate(make_model(), data, EvaluationConfig(padding="tight"))
    break_image(data, 2, kept)
    assert (kept < 600) == isinstance(attempt(data.image_size, 2)[0], type(None))
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
    model, before = make_model().train(), {*threading.enumerate()}
    stream = confusion_per_image(model, data, EvaluationConfig(output_stride=8, crop_size=65))
    next(stream)
    assert model.output_stride == 8
    stream.close()
    assert (model.output_stride, model.training, {*threading.enumerate()} - before) == (16, True, set())


def test_sizes_come_together_and_each_image_once(make_model, tmp_path):
    """Images of a size follow each other, and each has the counts that it has alone."""
    sizes = [(20, 30), (40, 17), (20, 30), (50, 50), (40, 17), (20, 31), (20, 30)]
    data, config = write_images(tmp_path / "VOC", sizes), EvaluationConfig(padding="tight")
    found = list(confusion_per_image(make_model(), data, config, 2))
    assert [index for index, _ in found] == [0, 2, 5, 6, 1, 4, 3]
    for index, counts in found:
        ((_, alone),) = confusion_per_image(make_model(), data, config, indices=[index])
        assert abs(counts - alone).sum() <= 2


def test_files_are_read_a_few_batches_ahead(make_model, tmp_path):
    """Memory holds a few batches, however long the list is."""
    data, read = write_images(tmp_path / "VOC", [(20, 30)] * 24), []

    class Spy:
        def __len__(self):
            return len(data)

        def image_size(self, index):
            return data.image_size(index)

        def __getitem__(self, index):
            read.append(index)
            return data[index]

    for number, _ in enumerate(confusion_per_image(make_model(), Spy(), EvaluationConfig(padding="tight"), 2)):
        assert len(read) <= 2 * (number // 2 + 3)
    assert sorted(read) == list(range(24))


def test_delayed_items_keep_order():
    begun = []
    stream = _delayed((begun.append(number) or number for number in range(5)), 2)
    assert [(number, len(begun)) for number in stream] == [(0, 3), (1, 4), (2, 5), (3, 5), (4, 5)]


def test_rows_without_image_are_left_out(make_model, data):
    """On a GPU all batches of the crop have as many rows."""
    model, config = make_model().eval(), EvaluationConfig(crop_size=65)
    with ThreadPoolExecutor(1) as pool:
        found = list(_Batch(pool, data, (65, 65), [3, 0], 4, MEAN_PIXEL, pinned=False).count(model, config).results())
    assert [index for index, _ in found] == [3, 0]
    for index, counts in found:
        ((_, alone),) = confusion_per_image(model, data, config, indices=[index])
        assert abs(counts - alone).sum() <= 2


STRATEGIES = {
    "crop": EvaluationConfig(crop_size=65),
    "tight": EvaluationConfig(8, padding="tight"),
    "scales, flip, bfloat16": EvaluationConfig(8, (0.5, 1.0), True, crop_size=65, precision="bfloat16"),
}


@pytest.mark.gpu
@pytest.mark.parametrize("config", STRATEGIES.values(), ids=STRATEGIES)
def test_host_does_not_wait_for_gpu(make_model, data, config):
    """In a batch; the first one sets up what the others share."""
    model = (
        optimize_for_inference(make_model(), precision=config.precision).cuda().set_output_stride(config.output_stride)
    )
    size = (65, 65)
    with ThreadPoolExecutor(1) as pool:
        list(_Batch(pool, data, size, [0, 1, 2], 3, MEAN_PIXEL, pinned=True).count(model, config).results())
        torch.cuda.set_sync_debug_mode("error")
        try:
            batch = _Batch(pool, data, size, [3, 4], 3, MEAN_PIXEL, pinned=True).count(model, config)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert [index for index, _ in batch.results()] == [3, 4]


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("config", STRATEGIES.values(), ids=STRATEGIES)
def test_gpu_counts_as_the_cpu(make_model, data, config, batch_size):
    """A last batch is filled up and comes late; of the pixels only those that are nearly tied may move."""
    expected = evaluate(make_model(), data, config)
    found = evaluate(make_model().cuda(), data, config, batch_size)
    allowed = 0.05 if config.precision == "bfloat16" else 1e-3
    assert np.array_equal(found.sum(2), expected.sum(2))
    assert abs(found - expected).sum() / 2 <= allowed * expected.sum()


def test_image_larger_than_its_header_is_named(make_model, tmp_path, monkeypatch):
    """The header is all that is known when batches are planned; the others are counted."""
    data = write_images(tmp_path / "VOC", [(20, 30), (70, 30), (30, 40)])
    original = VOCData.image_size
    monkeypatch.setattr(VOCData, "image_size", lambda self, index: (20, 30) if index == 1 else original(self, index))
    found = dict(confusion_per_image(make_model(), data, EvaluationConfig(padding="tight"), batch_size=2))
    assert isinstance(found[1], UserError)
    assert "image 'image_1' of list 'val' has 30 x 70 pixels, more than its header said" in str(found[1])
    assert found[0].any() and found[2].any()
