"""The network and the images that notebook 8 shows."""

import numpy as np
import pytest
from conftest import write_label, write_voc
from PIL import Image

from deeplabv3.evaluation.inference import predict
from deeplabv3.evaluation.metrics import confusion_matrix
from walkthrough import paths
from walkthrough.experiments import shown as module
from walkthrough.profiles import load_profile

NAMES = ["output stride 16", "output stride 8", "8, six scales, flip"]


def check(found: module.Shown, images: int) -> None:
    """Counts belong to the network, the images and the strategies."""
    assert list(found.strategies) == list(found.counts) == NAMES
    image, ground_truth = found.data[images - 1]
    classes = len(found.data.class_names)
    for name, strategy in found.strategies.items():
        expected = confusion_matrix(ground_truth, predict(found.network, image, strategy), classes)
        assert found.counts[name].shape == (images, classes, classes)
        assert np.array_equal(found.counts[name][-1], expected)


def test_profile_with_images_keeps_them_and_its_network(profile, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLABV3_DATA", str(tmp_path))  # VOC would be at hand
    found = module.shown(profile)
    assert profile.name in found.title and len(trained) == 2  # trained and evaluated, then two more evaluations
    check(found, len(profile.open_data()))


def test_voc_at_hand_shows_network_in_library(tmp_path, monkeypatch):
    root = write_voc(tmp_path / "VOC2012", val=2)
    cat_and_dog = np.arange(256, dtype=np.uint8)
    cat_and_dog[[3, 7]] = 8, 12
    for file in (root / "SegmentationClass").glob("*.png"):
        write_label(file, cat_and_dog[np.array(Image.open(file))])
    monkeypatch.setenv("DEEPLABV3_DATA", str(root))
    found = module.shown(load_profile("smoke"))
    assert "network in the library" in found.title
    check(found, 2)


def test_image_without_counted_pixels_has_no_miou():
    counts = {"a": np.array([[[3, 1], [0, 4]], [[0, 0], [0, 0]]])}
    miou = module.Shown("", None, None, {}, counts).miou("a")
    assert miou[0] == pytest.approx(100 * (3 / 4 + 4 / 5) / 2) and np.isnan(miou[1])


def test_recorded_run_is_that_of_network_in_library():
    card = (paths.home() / "docs" / "model_card.md").read_text()
    assert f"data/records/mobile/{module.PRETRAINED}`" in card
