"""Labels that look right and are not: ``data check`` and ``train`` say so before hours are spent."""

import numpy as np
import pytest
import yaml
from conftest import CLASSES, write_label
from faulty_data import run_line
from PIL import Image

from deeplabv3.config import VOC_CLASSES, VOID, DataConfig
from deeplabv3.data.reading import palette
from deeplabv3.data.voc import VOCData, palette_png
from deeplabv3.errors import UserError
from walkthrough.cli import main
from walkthrough.datasets import survey as survey_module
from walkthrough.datasets.check import check
from walkthrough.datasets.survey import require_labels, require_learnable
from walkthrough.profiles import load_profile
from walkthrough.records.run import Run

USED = ("train", "val")


def relabel(root, change, names: str = "*") -> None:
    """Write ``change(values)`` into the labels."""
    for path in sorted((root / "SegmentationClass").glob(f"{names}.png")):
        with Image.open(path) as image:
            values = np.array(image)
        write_label(path, change(values).astype(np.uint8))


def errors(root, classes=CLASSES, **options) -> list[str]:
    options = {"used": USED} | options
    return [line.text for line in check(root, classes, **options) if line.level == "error"]


def refusal(root, classes=CLASSES, **options) -> str:
    """What training says of the labels of its list."""
    try:
        require_learnable(VOCData(root, "train", classes, **options))
    except UserError as error:
        return str(error)
    return ""


def test_good_labels_are_learnable(voc_root):
    assert errors(voc_root) == [] and refusal(voc_root) == ""
    require_labels(VOCData(voc_root, "val", CLASSES))


# --- black and white masks


@pytest.mark.parametrize("used", [USED, None])
def test_black_and_white_masks_are_an_error(voc_root, used):
    relabel(voc_root, lambda values: np.where(values == 0, 0, 255))
    classes = {0: "background", 1: "crack"}
    (error,) = errors(voc_root, classes, used=used)
    assert "hold 0 and 255 alone, and 255 is void: class 1 (crack) is never learned" in error
    assert refusal(voc_root, classes) == (error if used else error.replace("all lists", "list 'train'"))


def test_black_and_white_masks_are_converted_by_the_line(voc_root):
    relabel(voc_root, lambda values: np.where(values == 0, 0, 255))
    expected = [np.array(Image.open(path)) // 255 for path in sorted((voc_root / "SegmentationClass").iterdir())]
    run_line(refusal(voc_root, {0: "background", 1: "crack"}))
    data = VOCData(voc_root, "trainval", {0: "background", 1: "crack"})
    assert all((label == mask).all() for (_, label), mask in zip(data, expected, strict=True))
    assert errors(voc_root, {0: "background", 1: "crack"}) == []


def test_255_is_a_class_if_another_value_is_void(voc_root):
    relabel(voc_root, lambda values: np.select([values == 0, values == 255], [0, 7], 255))
    classes = {0: "background", 255: "crack"}
    data = VOCData(voc_root, "train", classes, void=7)
    raw = np.array(Image.open(data.label_files[0]))
    for label in (data[0][1], data.label(0)):
        for value, expected in ((0, 0), (255, 1), (7, VOID)):
            assert (label[raw == value] == expected).all() and (raw == value).any()
    assert errors(voc_root, classes, void=7) == [] and refusal(voc_root, classes, void=7) == ""
    assert any("outside" in error for error in errors(voc_root, classes, void=8)), "7 is nothing then"


def test_void_setting_is_read_and_names_another_run(voc_root, profile_file):
    relabel(voc_root, lambda values: np.select([values == 0, values == 255], [0, 7], 255))
    values = yaml.safe_load(profile_file.read_text())
    values["data"] |= {"classes": {0: "background", 255: "crack"}, "void": 7}
    profile_file.write_text(yaml.safe_dump(values))
    profile = load_profile(str(profile_file))
    assert set(np.unique(profile.open_data()[0][1])) == {0, 1, VOID}
    assert main(["data", "check", "--profile", str(profile_file)]) == 0
    run = Run.of(profile, profile.model_config())
    assert run.identity["data"]["void"] == 7
    assert Run.of(load_profile(str(profile_file), {"data.void": 9}), run.config).name != run.name


# --- classes that do not occur


def test_class_missing_in_training_list_is_an_error(voc_root):
    """It occurs in val, where its IoU could only be 0."""
    relabel(voc_root, lambda values: np.where(values == 7, 0, values), "image_[0-5]")
    (error,) = errors(voc_root)
    assert error == refusal(voc_root)
    assert error.startswith("list 'train' has no pixel of class 7 (disc) in its 6 labels; take it off 'data.classes'")


def test_class_missing_in_evaluation_list_is_no_error(voc_root):
    relabel(voc_root, lambda values: np.where(values == 7, 0, values), "image_[6-8]")
    assert errors(voc_root) == []


@pytest.mark.parametrize("shift", [1, 100])
def test_masks_of_other_numbers_miss_a_class(voc_root, shift):
    """1 for the background, 2 for the thing, where the classes begin with 0; others void or not."""
    relabel(voc_root, lambda values: np.where(values == VOID, VOID, np.minimum(values, 1) + shift))
    classes = {0: "background", shift: "thing"}
    assert "no pixel of class 0 (background)" in refusal(voc_root, classes, unlisted_labels="ignore")
    assert any("no pixel of class 0" in error for error in errors(voc_root, classes, unlisted_labels="ignore"))


def test_rare_class_is_found_in_the_last_label(voc_root, monkeypatch):
    monkeypatch.setattr(survey_module, "ENOUGH", 2)
    relabel(voc_root, lambda values: np.where(values == 7, 0, values), "image_[0-4]")
    assert refusal(voc_root) == ""
    monkeypatch.setattr(survey_module, "read_label_and_colors", lambda path: pytest.fail("read too many labels"))
    with pytest.raises(pytest.fail.Exception):
        refusal(voc_root)


def test_training_reads_no_more_labels_than_it_needs(voc_root, monkeypatch):
    monkeypatch.setattr(survey_module, "ENOUGH", 2)
    read, original = [], survey_module.read_label_and_colors
    monkeypatch.setattr(survey_module, "read_label_and_colors", lambda path: read.append(path) or original(path))
    assert refusal(voc_root) == "" and len(read) == 2


# --- void throughout


@pytest.mark.parametrize("value", [255, 99])
def test_lists_that_are_void_throughout_are_errors(voc_root, value):
    relabel(voc_root, lambda values: np.full_like(values, value))
    found = errors(voc_root, unlisted_labels="ignore")
    assert [error.split(":")[0] for error in found] == [f"list '{name}' is void throughout"
                                                        for name in ("train", "val")]  # fmt: skip
    assert refusal(voc_root, unlisted_labels="ignore") == found[0]
    with pytest.raises(UserError, match="list 'val' is void throughout"):
        require_labels(VOCData(voc_root, "val", CLASSES, unlisted_labels="ignore"))


def test_evaluation_list_alone_may_be_void(voc_root):
    relabel(voc_root, lambda values: np.full_like(values, 255), "image_[6-8]")
    (error,) = errors(voc_root)
    assert error.startswith("list 'val' is void throughout")


# --- colors


def save_in_colors(path, values, colors):
    path.write_bytes(palette_png(values, np.array(colors, np.uint8)))


def test_colors_numbered_anew_are_an_error(voc_root):
    """Image.quantize() of RGB labels numbers the colors of each label by their frequency."""
    classes = {0: "background", 1: "square", 2: "disc"}
    relabel(voc_root, lambda values: np.select([values == 3, values == 7], [1, 2], 0))
    assert errors(voc_root, classes) == []
    path = voc_root / "SegmentationClass" / "image_1.png"
    with Image.open(path) as image:
        values = np.array(image)
    save_in_colors(path, np.array([0, 2, 1], np.uint8)[values], palette()[[0, 2, 1]])
    assert (np.asarray(Image.open(path).convert("RGB")) == palette()[values]).all(), "it looks the same"
    (error,) = errors(voc_root, classes)
    assert error == refusal(voc_root, classes)
    assert "color (128, 0, 0) is value 1 in image_0.png and value 2 in image_1.png" in error
    run_line(error)
    assert errors(voc_root, classes) == [], "the colors are gone, and the numbers count"


def test_vocs_colors_of_other_voc_classes_are_an_error(voc_root):
    classes = {0: VOC_CLASSES[0], 8: VOC_CLASSES[8], 12: VOC_CLASSES[12]}
    relabel(voc_root, lambda values: np.select([values == 3, values == 7], [8, 12], 0))
    assert errors(voc_root, classes) == []
    exchanged = palette().copy()
    exchanged[[8, 12]] = palette()[[12, 8]]
    for path in (voc_root / "SegmentationClass").iterdir():
        save_in_colors(path, np.asarray(Image.open(path)), exchanged)
    (error,) = errors(voc_root, classes)
    assert "value 8 (cat)" in error or "value 12 (dog)" in error
    assert "has VOC's color of" in error and refusal(voc_root, classes)
    assert errors(voc_root, {0: "background", 8: "pump", 12: "valve"}) == [], "own classes have colors of their own"


PALETTES = {
    "black": [(0, 0, 0)] * 256,
    "grays": [(value, value, value) for value in range(256)],
    "named colors": [(9, 9, 9), (0, 128, 0), (0, 0, 128), (128, 0, 0)] + [(1, 2, 3)] * 252,
}


@pytest.mark.parametrize("colors", PALETTES.values(), ids=PALETTES)
def test_own_palettes_are_no_error(voc_root, colors):
    for path in (voc_root / "SegmentationClass").iterdir():
        save_in_colors(path, np.asarray(Image.open(path)), colors)
    assert errors(voc_root) == [] and refusal(voc_root) == ""


# --- names


@pytest.mark.parametrize("names", [("vehicle", "vehicle"), ("vehicle", " vehicle "), ("\u00fc", "u\u0308")])
def test_two_values_of_one_name_are_refused(names):
    with pytest.raises(UserError, match=r"classes 1 and 2 have one name.*to merge them, write 1 for 2"):
        DataConfig(kind="voc", classes={0: "background", 1: names[0], 2: names[1]})


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"classes": {0: "a", 256: "b"}}, "label values from 0 to 255"),
    ({"classes": {0: "a", 1: " "}}, "each with a name"),
    ({"classes": {0: "a", 255: "b"}}, "label value 255 is void and cannot be a class.*'void'"),
    ({"classes": {0: "a", 7: "b"}, "void": 7}, "label value 7 is void"),
    ({"void": 5}, "label value 5 is void"),
    ({"void": 256}, "setting 'void' is 256"),
    ({"void": -1}, "setting 'void' is -1"),
])  # fmt: skip
def test_wrong_classes_and_void_values_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        DataConfig(kind="voc", **settings)


# --- lists that a profile uses


@pytest.mark.parametrize("name", ["test", "minival"])
def test_labels_of_the_evaluation_list_are_checked(voc_root, profile_file, capsys, name):
    """Whatever its name; before the training, not after its last step."""
    lists = voc_root / "ImageSets" / "Segmentation"
    (lists / "val.txt").rename(lists / f"{name}.txt")
    (voc_root / "SegmentationClass" / "image_7.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    options = ["--profile", str(profile_file), "--set", f"data.val_list={name}"]
    assert main(["data", "check", *options]) == 1
    assert "image_7.png cannot be read" in capsys.readouterr().out
    assert main(["train", *options]) == 1
    told = capsys.readouterr()
    assert "image_7.png cannot be read" in told.err and "loss" not in told.err


def test_labels_of_a_test_list_are_checked_if_there_are_any(voc_root):
    """A missing label is an error of a list that is used, and without a profile all are."""
    (voc_root / "ImageSets" / "Segmentation" / "test.txt").write_text("image_0\nhidden\n")
    (voc_root / "JPEGImages" / "hidden.jpg").write_bytes((voc_root / "JPEGImages" / "image_0.jpg").read_bytes())
    assert [error for error in errors(voc_root) if "hidden" in error] == []
    (found,) = [error for error in errors(voc_root, used=("train", "test")) if "hidden" in error]
    assert "hidden.png of list 'test' is missing" in found
    write_label(voc_root / "SegmentationClass" / "hidden.png", np.zeros((20, 20), np.uint8))
    assert any("another size" in error and "hidden" in error for error in errors(voc_root, used=None))


@pytest.mark.parametrize("spoil", [
    lambda label: label[:, ::-1][:20], lambda label: np.where(label == 7, 77, label), lambda label: label.T,
])  # fmt: skip
def test_bad_evaluation_labels_are_found_before_training(voc_root, spoil):
    relabel(voc_root, spoil, "image_8")
    with pytest.raises(UserError, match=r"image_8\.png"):
        require_labels(VOCData(voc_root, "val", CLASSES))
