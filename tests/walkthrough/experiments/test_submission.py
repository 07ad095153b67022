"""The folder for VOC's evaluation server: its layout, its archive, and going on after an interruption."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES
from PIL import Image

from deeplabv3.config import VOC_CLASSES, EvaluationConfig
from deeplabv3.data.reading import palette, read_image
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import predict
from walkthrough.experiments.submission import refuse_other_classes, submit, test_images, weights_hash

test_images.__test__ = False  # a function of the library, not a test
PLACE = "results/VOC2012/Segmentation/comp6_test_cls"
CONFIG = EvaluationConfig(8, padding="tight")
VOC = dict(enumerate(VOC_CLASSES))


@pytest.fixture
def devkit(tmp_path: Path, voc_root: Path) -> Path:
    """A VOCdevkit whose images 4 and 2, in this order, are the test set."""
    (voc_root / "ImageSets" / "Segmentation" / "test.txt").write_text("image_4\nimage_2\n")
    return tmp_path


def test_submission_writes_folder_and_archive(devkit, make_model):
    model = make_model(num_classes=21)
    images = test_images(devkit)
    assert list(images) == ["image_4", "image_2"]
    archive = submit(model, images, CONFIG, devkit / "out", "w")
    assert archive == devkit / "out" / "results.tgz"
    with tarfile.open(archive) as files:
        assert files.getnames() == [f"{PLACE}/image_4.png", f"{PLACE}/image_2.png"]
        files.extractall(devkit / "unpacked", filter="data")
    for name, path in images.items():
        label = Image.open(devkit / "unpacked" / PLACE / f"{name}.png")
        image = np.asarray(Image.open(path))
        assert label.mode == "P" and label.getpalette() == palette().flatten().tolist()
        assert (np.asarray(label) == predict(model, image, CONFIG)).all()
        assert np.asarray(label).any()


@pytest.mark.parametrize("kind", ["16 bits", "turned", "transparent"])
def test_submission_reads_images_as_all_others_do(devkit, make_model, voc_root, kind):
    """Training and evaluation, ``predict`` and the submission see the same pixels."""
    model, path = make_model(num_classes=21), voc_root / "JPEGImages" / "image_2.jpg"
    with Image.open(path) as image:
        values = np.asarray(image)
    path.unlink()
    path = path.with_suffix(".png")
    if kind == "16 bits":
        Image.fromarray(values[..., 0].astype(np.uint16) * 200).save(path)
        expected = np.repeat((values[..., :1].astype(int) * 200 // 256), 3, axis=2).astype(np.uint8)
    elif kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(values[::-1, ::-1]).save(path, exif=exif)
        expected = values
    else:
        Image.fromarray(np.dstack([values, np.where(values[..., 0] > 200, 0, 255).astype(np.uint8)])).save(path)
        expected = np.where(values[..., :1] > 200, 255, values)
    assert (VOCData(voc_root, "train", CLASSES)[2][0] == expected).all()
    submit(model, test_images(devkit), CONFIG, devkit / "out", "w")
    found = np.asarray(Image.open(devkit / "out" / PLACE / "image_2.png"))
    assert (found == predict(model, expected, CONFIG)).all() and (
        found == predict(model, read_image(path), CONFIG)
    ).all()


def test_interrupted_submission_resumes(devkit, make_model):
    model, images, out = make_model(num_classes=21), test_images(devkit), devkit / "out"
    whole = submit(model, images, CONFIG, devkit / "whole", "w").parent / PLACE

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit(model, images, CONFIG, out, "w", report=stop)
    (first,) = (out / PLACE).glob("*.png")
    assert not (out / "results.tgz").exists()
    made = first.stat().st_mtime_ns
    counted = []
    submit(model, images, CONFIG, out, "w", report=lambda: counted.append(1))
    assert first.stat().st_mtime_ns == made, "what is done is not done again"
    assert len(counted) == 2
    assert [(out / PLACE / f"{name}.png").read_bytes() == (whole / f"{name}.png").read_bytes() for name in images]


def test_full_disk_error_leaves_complete_files(devkit, make_model, full_disk):
    model, images, out = make_model(num_classes=21), test_images(devkit), devkit / "out"
    with pytest.raises(UserError, match=r"image_2\.png cannot be written .*No space left.*; make room"):
        submit(model, images, CONFIG, out, "w", report=full_disk)
    assert [file.name for file in out.rglob("*") if file.is_file()] == ["submission.json", "image_4.png"]
    Image.open(out / PLACE / "image_4.png").load()


@pytest.mark.parametrize("other", [("v", CONFIG), ("w", EvaluationConfig(16, padding="tight")), ("w", None)])
def test_folder_of_other_predictions_is_refused(devkit, make_model, other):
    model, images, out = make_model(num_classes=21), test_images(devkit), devkit / "out"
    submit(model, images, CONFIG, out, "w")
    weights, config = other
    if config is None:  # nobody knows where these come from
        (out / "submission.json").unlink()
    before = (out / "results.tgz").read_bytes()
    with pytest.raises(UserError, match=r"--output"):
        submit(model, images, config or CONFIG, out, weights)
    assert (out / "results.tgz").read_bytes() == before


def test_weights_hash_distinguishes_weights(make_model):
    model, other = make_model(), make_model()
    assert weights_hash(model) == weights_hash(other) == weights_hash(model.set_output_stride(8))
    with torch.no_grad():
        other.head.classifier.bias[0] += 1e-6
    assert weights_hash(model) != weights_hash(other)


def test_classes_other_than_voc_are_refused():
    refuse_other_classes(VOC)
    for classes in ({0: "background", 8: "cat"}, VOC | {20: "television"}, {v + 1: n for v, n in VOC.items()}):
        with pytest.raises(UserError, match="21"):
            refuse_other_classes(classes)


def test_missing_test_images_error_names_source(devkit, voc_root):
    (voc_root / "JPEGImages" / "image_2.jpg").unlink()
    with pytest.raises(UserError, match=r"image_2\.jpg.*VOC2012test\.tar"):
        test_images(devkit)
    (voc_root / "ImageSets" / "Segmentation" / "test.txt").unlink()
    with pytest.raises(UserError, match=r"test\.txt.*VOC2012test\.tar"):
        test_images(devkit)
    with pytest.raises(UserError, match=r"nowhere"):
        test_images(devkit / "nowhere")
