"""The check of a data set: every fault that the reader refuses is an error line, and nothing else is."""

import shutil

import numpy as np
import pytest
from conftest import CLASSES, write_label
from faulty_data import MISTAKES, turn_image
from PIL import Image

from deeplabv3.config import VOC_CLASSES, VOID
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from walkthrough.cli import main
from walkthrough.datasets import check as check_module
from walkthrough.datasets.check import check


def lines(root, level, **options):
    return [line.text for line in check(root, CLASSES, **options) if line.level == level]


def write_list(root, name, names):
    (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(names) + "\n")


def test_good_data_set_has_no_errors(voc_root):
    assert lines(voc_root, "error") == lines(voc_root, "warning") == []
    told = lines(voc_root, "ok")
    assert told[:4] == [
        "list train: 6 names",
        "list trainval: 9 names",
        "list val: 3 names",
        "lists train and val share no image",
    ]
    assert "9 images, 40 to 53 pixels wide, 37 to 48 high" in told
    assert "9 labels, each of its image's size" in told
    assert "palette: VOC's" in told


def test_class_shares_match_the_reader(voc_root):
    data = VOCData(voc_root, "trainval", CLASSES)
    labels = [label for _, label in data]
    counted = sum((label != VOID).sum() for label in labels)
    told = lines(voc_root, "ok")
    for index, (value, name) in enumerate(CLASSES.items()):
        share = 100 * sum((label == index).sum() for label in labels) / counted
        (line,) = [line for line in told if line.startswith(f"class {value:3} {name}")]
        assert f" {share:.2f} % of the pixels, in      9 images" in line
    void = 100 * (1 - counted / sum(label.size for label in labels))
    assert f" {void:.2f} % of all pixels" in told[-1]


FILES = [spoil for spoil, _ in MISTAKES if spoil.__name__ not in ("no_root", "no_image_sets")]


@pytest.mark.parametrize("spoil", FILES, ids=lambda spoil: spoil.__name__)
def test_faults_that_reader_refuses_are_errors(voc_root, profile_file, spoil, capsys):
    """The same file is named, the exit code is 1, and all other files are checked too."""
    spoil(voc_root)
    assert main(["data", "check", str(voc_root), "--profile", str(profile_file)]) == 1
    told = capsys.readouterr().out
    errors = [line for line in told.splitlines() if line.startswith("  error")]
    assert len(errors) == 1
    named = "train.txt" if spoil.__name__.endswith("_list") else "image_2"
    assert named in errors[0]
    assert told.endswith("1 of these lines are errors\n")
    assert "of the pixels" in told


def test_folder_without_lists_is_a_user_error(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "has no ImageSets/Segmentation folder" in capsys.readouterr().err


def test_many_bad_files_are_named_and_counted(voc_root, monkeypatch):
    monkeypatch.setattr(check_module, "MAX_NAMED", 2)
    for number in range(5):
        (voc_root / "JPEGImages" / f"image_{number}.jpg").write_bytes(b"\xff\xd8")
    errors = lines(voc_root, "error")
    assert len(errors) == 3
    assert all(f"image_{number}.jpg cannot be read" in errors[number] for number in range(2))
    assert errors[2] == "3 more files are missing or cannot be read"


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_image_is_an_error(voc_root, quality, progressive):
    """Decoding an eighth of the pixels is enough to notice, wherever the file ends."""
    path = voc_root / "JPEGImages" / "image_0.jpg"
    with Image.open(path) as image:
        image.resize((500, 375)).save(path, quality=quality, progressive=progressive)
    with Image.open(path) as image, Image.open(voc_root / "SegmentationClass" / "image_0.png") as label:
        label.resize(image.size, Image.Resampling.NEAREST).save(voc_root / "SegmentationClass" / "image_0.png")
    assert lines(voc_root, "error") == []
    data = path.read_bytes()
    for share in (0.3, 0.9, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        (error,) = lines(voc_root, "error")
        assert "image_0.jpg cannot be read" in error


@pytest.mark.parametrize("pair", [("train", "val"), ("trainaug", "val"), ("mine", "yours")])
def test_lists_that_share_images_are_errors(voc_root, pair):
    """SBD's own val list overlaps VOC's: a network trained on it would be evaluated on training images."""
    one, other = pair
    write_list(voc_root, one, ["image_1", "image_2", "image_7"])
    write_list(voc_root, other, ["image_8", "image_7", "image_6"])
    errors = lines(voc_root, "error", used=("mine", "yours") if one == "mine" else None)
    assert errors == [f"lists {one} and {other} share 1 image (image_7)"]
    assert (lines(voc_root, "error") == []) == (one == "mine")


def test_overlap_of_profile_lists_is_an_error(voc_root, profile_file, capsys):
    write_list(voc_root, "mine", ["image_1", "image_7"])
    options = ["--profile", str(profile_file), "--set", "data.train_list=mine"]
    assert main(["data", "check", *options]) == 1
    assert "error  lists mine and val share 1 image (image_7)" in capsys.readouterr().out
    assert main(["data", "check", *options[:2]]) == 0
    assert capsys.readouterr().out.endswith("no errors\n")


def test_unlisted_label_values_are_errors_unless_ignored(voc_root):
    known = {0: "background", 3: "square"}
    (strict,) = [line for line in check(voc_root, known, "error") if "outside" in line.text]
    assert strict.level == "error"
    assert strict.text.startswith("values outside the 2 classes (7) in 9 labels (image_0, ")
    (lenient,) = [line for line in check(voc_root, known, "ignore") if "outside" in line.text]
    assert lenient.level == "warning"
    assert "read as void" in lenient.text


def test_ignored_other_classes_are_void(voc_root):
    """The mobile profile reads the labels of VOC as if all other classes were 255 in the files."""
    known = {0: "background", 7: "disc"}
    with pytest.raises(UserError, match=r"holds the value 3, .*data\.unlisted_labels=ignore"):
        VOCData(voc_root, "train", known)[0]
    found = [label for _, label in VOCData(voc_root, "train", known, unlisted_labels="ignore")]
    for path in (voc_root / "SegmentationClass").iterdir():
        label = np.array(Image.open(path))
        label[label == 3] = VOID
        write_label(path, label)
    expected = [label for _, label in VOCData(voc_root, "train", known)]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert {int(value) for label in found for value in np.unique(label)} == {0, 1, VOID}


def test_turned_images_are_a_warning(voc_root):
    """VOC's tools ignore the entry, labeling tools do not: nobody can tell from a label of the same size."""
    turn_image(voc_root, "image_0", 3)
    turn_image(voc_root, "image_7", 3)
    assert lines(voc_root, "error") == []
    (warning,) = lines(voc_root, "warning")
    assert warning.startswith("turned by an EXIF entry: 2 images (image_0, image_7); their labels must be turned")


def test_labels_of_unturned_images_are_errors(voc_root):
    turn_image(voc_root, "image_0", 6)
    assert lines(voc_root, "error") == []
    path = voc_root / "SegmentationClass" / "image_0.png"
    with Image.open(path) as label:
        write_label(path, np.rot90(np.asarray(label)))
    (error,) = lines(voc_root, "error")
    assert "1 label (image_0); the first is 40 x 48 for an image of 48 x 40, as its EXIF entry turns it" in error


@pytest.mark.parametrize(("low", "high", "dark"), [(0, 4095, True), (29_000, 31_500, True), (100, 60_000, False)])
def test_16_bit_images_of_a_narrow_range_are_a_warning(voc_root, low, high, dark):
    """Of 12 bits in 16, or thermal images: nearly black or gray in training and in prediction."""
    for number in range(2):
        path = voc_root / "JPEGImages" / f"image_{number}.jpg"
        with Image.open(path) as image:
            gray = np.asarray(image.convert("L"))
        path.unlink()
        gray = np.interp(gray, (gray.min(), gray.max()), (low, high)).astype(np.uint16)
        Image.fromarray(gray).save(path.with_suffix(".png"))
    assert lines(voc_root, "error") == []
    text = (
        f"2 images of 16 bits have values from {low:,} to {high:,} alone; read as value / 256, they are nearly of one"
    )
    assert [warning.startswith(text) for warning in lines(voc_root, "warning")] == [True] * dark


def test_other_palettes_are_a_warning(voc_root):
    labels = voc_root / "SegmentationClass"
    with Image.open(labels / "image_0.png") as image:
        values = np.asarray(image)
    Image.fromarray(values).save(labels / "image_0.png")
    with Image.open(labels / "image_1.png") as image:
        image.putpalette([255 - value for value in image.getpalette()])
        image.save(labels / "image_1.png")
    (warning,) = lines(voc_root, "warning")
    assert warning == "palette: VOC's in 7, gray in 1, another in 1 labels (such as image_1); only the numbers count"


def test_list_counts_are_compared_with_voc(voc_root):
    found = [line for line in check(voc_root, dict(enumerate(VOC_CLASSES))) if line.text.startswith("list ")]
    assert [line.level for line in found] == ["warning"] * 3
    assert found[0].text == "list train: 6 names (in VOC 2012: 1,464)"
    write_list(voc_root, "train", ["image_0", "image_0", "image_1"])
    assert "list train: 3 names, 1 of them again" in lines(voc_root, "warning")


def test_images_of_test_list_need_no_labels(voc_root):
    """VOC's server keeps them; the images are checked."""
    for number in range(2):
        shutil.copy(voc_root / "JPEGImages" / "image_0.jpg", voc_root / "JPEGImages" / f"hidden_{number}.jpg")
    write_list(voc_root, "test", ["hidden_0", "hidden_1"])
    assert lines(voc_root, "error") == []
    assert any(line.startswith("11 images") for line in lines(voc_root, "ok"))
    assert any(line.startswith("9 labels") for line in lines(voc_root, "ok"))
    (voc_root / "JPEGImages" / "hidden_1.jpg").write_bytes(b"")
    assert "hidden_1.jpg cannot be read" in lines(voc_root, "error")[0]


def test_class_that_never_occurs_is_a_warning(voc_root):
    told = [line for line in check(voc_root, CLASSES | {9: "triangle"}) if "triangle" in line.text]
    assert [(line.level, "in      0 images" in line.text) for line in told] == [("warning", True)]


def test_line_that_converts_labels_is_told_once(voc_root):
    for number in range(3):
        path = voc_root / "SegmentationClass" / f"image_{number}.png"
        with Image.open(path) as label:
            label.convert("RGB").save(path)
    first, *others = lines(voc_root, "error")
    assert "image_0.png is a RGB image" in first and "write_values" in first
    assert [other.endswith("image, and labels hold class numbers; as above.") for other in others] == [True, True]


@pytest.mark.parametrize("used", [("train", "val"), None])
def test_faults_of_unused_lists_are_warnings(voc_root, used):
    """Without a profile every list counts."""
    shutil.copy(voc_root / "JPEGImages" / "image_0.jpg", voc_root / "JPEGImages" / "odd.jpg")
    write_label(voc_root / "SegmentationClass" / "odd.png", np.full((5, 5), 99, np.uint8))
    write_list(voc_root, "old", ["gone", "odd", "image_0"])
    write_list(voc_root, "empty", [""])
    write_list(voc_root, "test", ["image_0"])
    level = "warning" if used else "error"
    found = "\n".join(lines(voc_root, level, used=used))
    for words in ("gone.jpg of list 'old' is missing", "empty.txt is empty", "train and test share", "another size",
                  "values outside the 3 classes (99)"):  # fmt: skip
        assert words in found
    assert lines(voc_root, "error" if used else "warning", used=used) == []
