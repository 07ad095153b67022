"""Notebook 11: what it writes out is the library's, and its synthetic folder is what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from notebook_helpers import OWN_DATA, definitions
from PIL import Image

from deeplabv3 import DeepLabV3
from deeplabv3.data import synthetic
from deeplabv3.evaluation import metrics
from walkthrough.datasets.importing import colors
from walkthrough.datasets.propose import propose
from walkthrough.records import start
from walkthrough.report import intervals


@pytest.fixture(scope="module")
def page() -> dict:
    return definitions(OWN_DATA)


def test_masks_become_labels_as_imported(page, tmp_path):
    table = np.array([(0, 0, 0), (220, 40, 40), (255, 255, 255)], np.uint8)
    mask = table[np.random.default_rng(0).integers(0, 3, (9, 14))]
    Image.fromarray(mask).save(tmp_path / "mask.png")
    imported = colors.as_label(tmp_path / "mask.png", {0: 0, 0xDC2828: 4, 0xFFFFFF: 255}, in_color=True)
    assert np.array_equal(page["as_label"](mask, {0: (0, 0, 0), 4: (220, 40, 40)}), imported((14, 9)))


def test_planted_masks_lack_their_largest_object(page, tmp_path):
    page["write_stand_in"](tmp_path, 6)
    named = {value: page["COLORS"][name] for value, name in enumerate(page["DRAWN"])}
    for number in range(6):
        image, label = synthetic.draw(1000 + number)
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"images/{number:03}.png")), image)
        mask = np.asarray(Image.open(tmp_path / f"masks/{number:03}.png"))
        expected = np.full((*label.shape, 3), page["COLORS"]["void"], np.uint8)
        for value, color in named.items():
            expected[label == value] = color
        wrong = (mask != expected).any(axis=2)
        assert wrong.any() == (f"{number:03}" in page["PLANTED"])
        if wrong.any():
            sizes = np.bincount(label[(label > 0) & (label < 255)])
            assert set(label[wrong]) == {sizes.argmax(), 255} and not mask[wrong].any()  # with its void rim
            assert wrong[label == sizes.argmax()].all()
    assert len(page["DRAWN"]) == 11 and len({*page["COLORS"].values()}) == len(page["COLORS"])


def test_regions_have_side_and_thickness(page):
    label = np.zeros((40, 60), np.uint8)
    label[0:5, 10:30] = 3  # at the rim
    label[20:32, 40:60] = 3
    label[38:, :7] = 3  # fewer than 16 pixels
    label[10:15, :20] = 1
    assert sorted(page["regions"](label, 3)) == [(20, 5), (20, 11)]
    assert list(page["regions"](label, 7)) == []


@pytest.mark.parametrize("longer", [20, 64, 65, 66, 160, 256, 257, 258, 4000])
def test_crop_equals_proposed_one(page, longer, monkeypatch):
    monkeypatch.setattr("walkthrough.datasets.propose.available_memory", lambda: 10**11)
    assert page["fitting_crop"](longer) == propose([(longer, longer // 2)], 100)["crop_size"]


def test_rates_shrink_with_the_crop(page):
    assert [page["fitting_rates"](crop) for crop in (513, 257, 65)] == [(6, 12, 18), (3, 6, 9), (1, 2, 3)]


def test_start_equals_library_to_the_bit(page):
    old, classes = start.load(start.find("pretrained")), ("crack", "dog", "background")
    network = DeepLabV3(replace(old.config, num_classes=3))
    rows = page["kept_rows"](old.classes, classes)
    state = page["start_from"](old.state, network.state_dict(), rows)
    start.initialize(network, old, classes, new_classes=True)
    assert rows == {1: 3, 2: 0}
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_counts_and_intervals_equal_library(page):
    random = np.random.default_rng(0)
    ground_truths, predictions = random.integers(0, 4, (2, 12, 20, 30)).astype(np.uint8)
    ground_truths[:, :3] = 255
    pairs = list(zip(ground_truths, predictions, strict=True))
    counts = np.array([page["confusion"](*pair, 4) for pair in pairs])
    assert np.array_equal(counts, [metrics.confusion_matrix(*pair, 4) for pair in pairs])
    assert page["iou"](counts.sum(0)) == pytest.approx(100 * metrics.class_iou(counts.sum(0)))
    drawn = page["draw"](counts, intervals.DRAWS).mean(axis=1)
    assert drawn == pytest.approx(intervals.bootstrap(counts).draws[0])


def test_class_without_pixels_has_no_iou(page):
    counts = np.array([[5, 0, 1], [0, 0, 0], [0, 0, 2]])
    assert page["iou"](counts)[[0, 2]] == pytest.approx([100 * 5 / 6, 100 * 2 / 3])
    assert np.isnan(page["iou"](counts)[1])


def test_doubts_are_sure_and_counted(page):
    logits = torch.tensor([[[5.0, 5.0, 5.0, 0.1]], [[0.0, 0.0, 0.0, 0.0]]])  # (2, 1, 4)
    label = np.array([[0, 1, 255, 1]], np.uint8)
    assert page["doubts"](logits, label).tolist() == [[False, True, False, False]]


def test_command_prints_itself_and_hides_the_library(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page["write_stand_in"](tmp_path / "export", 6)
    text = page["deeplabv3"]("data", "import", "masks", "export", "mine", "--dry-run")
    assert "6 images would be imported into mine" in text
    assert capsys.readouterr().out == f"$ deeplabv3 data import masks export mine --dry-run\n{text}\n"
    monkeypatch.setattr(page["cli"], "main", lambda arguments: print(synthetic.__file__) or 0)
    assert page["deeplabv3"]("x").strip().replace("\\", "/") == "lib/deeplabv3/data/synthetic.py"


def test_failed_command_stops_the_page(page, tmp_path):
    with pytest.raises(AssertionError, match="message above"):
        page["deeplabv3"]("data", "import", "masks", tmp_path / "nothing", tmp_path / "mine")
