"""Looking a data set over: every fault that the reader would stop at is a line, and nothing else is wrong."""

import shutil

import numpy as np
import pytest
from conftest import CLASSES, write_label
from PIL import Image
from test_voc import MISTAKES

from deeplabv3.config import VOC_CLASSES, VOID
from deeplabv3.data import check as room
from deeplabv3.data.check import check
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from walkthrough.cli import main


def lines(root, mark, **options):
    return [line.text for line in check(root, CLASSES, **options) if line.mark == mark]


def write_list(root, name, names):
    (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(names) + "\n")


def test_a_good_data_set_has_no_wrong_line(voc_root):
    assert lines(voc_root, "wrong") == lines(voc_root, "note") == []
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


def test_classes_are_counted_as_the_reader_reads_them(voc_root):
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
def test_what_the_reader_stops_at_is_wrong(voc_root, profile_file, spoil, capsys):
    """By the same names, with the exit code that scripts look at, and the other files are looked at all the same."""
    spoil(voc_root)
    assert main(["data", "check", str(voc_root), "--profile", str(profile_file)]) == 1
    told = capsys.readouterr().out
    wrong = [line for line in told.splitlines() if line.startswith("wrong")]
    assert len(wrong) == 1
    named = "train.txt" if spoil.__name__.endswith("_list") else "image_2"
    assert named in wrong[0]
    assert told.endswith(" wrong\n")
    assert "of the pixels" in told


def test_a_folder_without_lists_is_a_users_error(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "has no ImageSets/Segmentation folder" in capsys.readouterr().err


def test_many_bad_files_are_named_and_counted(voc_root, monkeypatch):
    monkeypatch.setattr(room, "NAMED", 2)
    for number in range(5):
        (voc_root / "JPEGImages" / f"image_{number}.jpg").write_bytes(b"\xff\xd8")
    wrong = lines(voc_root, "wrong")
    assert len(wrong) == 3
    assert all(f"image_{number}.jpg cannot be read" in wrong[number] for number in range(2))
    assert wrong[2] == "3 more files are missing or cannot be read"


@pytest.mark.parametrize("quality", [30, 95])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_image_that_ends_too_early_is_found(voc_root, quality, progressive):
    """Decoding an eighth of the pixels is enough to notice, wherever the file ends."""
    path = voc_root / "JPEGImages" / "image_0.jpg"
    with Image.open(path) as image:
        image.resize((500, 375)).save(path, quality=quality, progressive=progressive)
    with Image.open(path) as image, Image.open(voc_root / "SegmentationClass" / "image_0.png") as label:
        label.resize(image.size, Image.Resampling.NEAREST).save(voc_root / "SegmentationClass" / "image_0.png")
    assert lines(voc_root, "wrong") == []
    data = path.read_bytes()
    for share in (0.3, 0.9, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        (wrong,) = lines(voc_root, "wrong")
        assert "image_0.jpg cannot be read" in wrong


@pytest.mark.parametrize("pair", [("train", "val"), ("trainaug", "val"), ("mine", "yours")])
def test_lists_that_share_images(voc_root, pair):
    """SBD's own val list overlaps VOC's: whoever trains on it is evaluated on what was learned."""
    one, other = pair
    write_list(voc_root, one, ["image_1", "image_2", "image_7"])
    write_list(voc_root, other, ["image_8", "image_7", "image_6"])
    wrong = lines(voc_root, "wrong", used=("mine", "yours") if one == "mine" else None)
    assert wrong == [f"lists {one} and {other} share 1 image (image_7)"]
    assert (lines(voc_root, "wrong") == []) == (one == "mine")


def test_a_profile_keeps_its_own_lists_apart(voc_root, profile_file, capsys):
    write_list(voc_root, "mine", ["image_1", "image_7"])
    options = ["--profile", str(profile_file), "--set", "data.train_list=mine"]
    assert main(["data", "check", *options]) == 1
    assert "wrong  lists mine and val share 1 image (image_7)" in capsys.readouterr().out
    assert main(["data", "check", *options[:2]]) == 0
    assert capsys.readouterr().out.endswith("all is well\n")


def test_values_outside_the_classes(voc_root):
    known = {0: "background", 3: "square"}
    marks = {others: [line for line in check(voc_root, known, others) if "outside" in line.text]
             for others in ("error", "void")}  # fmt: skip
    assert [line.mark for line in marks["error"]] == ["wrong"]
    assert marks["error"][0].text.startswith("values outside the 2 classes (7) in 9 labels (image_0, ")
    assert [line.mark for line in marks["void"]] == ["note"]
    assert "read as void" in marks["void"][0].text


def test_other_classes_as_void_are_the_same_labels_with_255(voc_root):
    """What the mobile profile makes of the whole VOC: the labels that somebody else prepared by hand."""
    known = {0: "background", 7: "disc"}
    with pytest.raises(UserError, match=r"holds the value 3, .*data\.others=void"):
        VOCData(voc_root, "train", known)[0]
    found = [label for _, label in VOCData(voc_root, "train", known, unlisted_labels="void")]
    for path in (voc_root / "SegmentationClass").iterdir():
        label = np.array(Image.open(path))
        label[label == 3] = VOID
        write_label(path, label)
    expected = [label for _, label in VOCData(voc_root, "train", known)]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    assert {int(value) for label in found for value in np.unique(label)} == {0, 1, VOID}


def test_palettes(voc_root):
    labels = voc_root / "SegmentationClass"
    with Image.open(labels / "image_0.png") as image:
        values = np.asarray(image)
    Image.fromarray(values).save(labels / "image_0.png")
    with Image.open(labels / "image_1.png") as image:
        image.putpalette([255 - value for value in image.getpalette()])
        image.save(labels / "image_1.png")
    (note,) = lines(voc_root, "note")
    assert note == "palette: VOC's in 7, gray in 1, another in 1 labels (such as image_1); only the numbers count"


def test_lists_of_voc_are_compared_with_vocs(voc_root):
    found = [line for line in check(voc_root, dict(enumerate(VOC_CLASSES))) if line.text.startswith("list ")]
    assert [line.mark for line in found] == ["note"] * 3
    assert found[0].text == "list train: 6 names (in VOC 2012: 1,464)"
    write_list(voc_root, "train", ["image_0", "image_0", "image_1"])
    assert "list train: 3 names, 1 of them again" in lines(voc_root, "note")


def test_test_images_have_no_labels(voc_root):
    """VOC's server keeps them; the images are looked at."""
    for number in range(2):
        shutil.copy(voc_root / "JPEGImages" / "image_0.jpg", voc_root / "JPEGImages" / f"hidden_{number}.jpg")
    write_list(voc_root, "test", ["hidden_0", "hidden_1"])
    assert lines(voc_root, "wrong") == []
    assert any(line.startswith("11 images") for line in lines(voc_root, "ok"))
    assert any(line.startswith("9 labels") for line in lines(voc_root, "ok"))
    (voc_root / "JPEGImages" / "hidden_1.jpg").write_bytes(b"")
    assert "hidden_1.jpg cannot be read" in lines(voc_root, "wrong")[0]


def test_a_class_that_never_occurs_is_noted(voc_root):
    told = [line for line in check(voc_root, CLASSES | {9: "triangle"}) if "triangle" in line.text]
    assert [(line.mark, "in      0 images" in line.text) for line in told] == [("note", True)]
