"""``deeplabv3 data import masks``: which color or gray value is which class."""

from pathlib import Path

import numpy as np
import pytest
import tiny_exports
from PIL import Image
from tiny_exports import NAMES, SIZE, expected

from deeplabv3.config import VOID
from deeplabv3.data.reading import palette, read_label
from deeplabv3.data.voc import palette_png
from walkthrough.cli import main
from walkthrough.profiles import load_profile


def imported(root: Path, target: Path, *options: str) -> tuple[np.ndarray, dict[int, str]]:
    """The first label of an import, and its classes."""
    assert main(["data", "import", "masks", str(root), str(target), *options]) == 0
    label = read_label(target / "SegmentationClass" / f"{NAMES[0]}.png")
    return label, load_profile(str(target / f"{target.name}.yaml")).data.class_map()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "shapes"


VOC = {0: "background", 1: "aeroplane", 2: "bicycle"}
NUMBERED = {0: "background", 1: "class_1", 2: "class_2"}
CASES = {
    "black and white": (np.array([0, 255, 255], np.uint8), (1, 1), {0: "background", 1: "object"}),
    "one bit": (np.array([False, True, True]), (1, 1), {0: "background", 1: "class_1"}),
    "numbers with void": (np.array([0, 2, 255], np.uint8), (2, VOID), {0: "background", 2: "class_2"}),
    "grays": (np.array([0, 120, 240], np.uint8), (1, 2), NUMBERED),
    "grays with white": (np.array([0, 128, 255], np.uint8), (1, 2), NUMBERED),
    "16 bits": (np.array([0, 1, 2], np.uint16), (1, 2), NUMBERED),
    "VOC's colors": (palette()[:3], (1, 2), VOC),
    "VOC's void": (palette()[[0, 1, 255]], (1, VOID), {0: "background", 1: "aeroplane"}),
    "other colors": (np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8), (2, 1), NUMBERED),
    "gray as RGB": (
        np.array([(0, 0, 0), (255, 255, 255), (0, 0, 0)], np.uint8),
        (1, 0),
        {0: "background", 1: "object"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_classes_are_guessed_from_the_values(tmp_path, target, case):
    values, shown, classes = CASES[case]
    root = tiny_exports.masks(tmp_path / "export", values[expected()])
    label, found = imported(root, target)
    assert (label == expected(*shown)).all()
    assert found == classes
    assert main(["data", "check", "--profile", str(target / "shapes.yaml")]) == 0


def test_table_is_shown_and_dry_run_writes_nothing(tmp_path, target, capsys):
    root = tiny_exports.masks(tmp_path / "export", np.array([0, 255, 255], np.uint8)[expected()])
    assert main(["data", "import", "masks", str(root), str(target), "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    share = 100 * (expected() > 0).mean()
    assert told[1:4] == [
        f"    0    0  background  {100 - share:.2f} %",
        f"  255    1  object  {share:.2f} %",
        "classes: 0 background, 1 object",
    ]
    assert told[4] == f"5 images would be imported into {target}; nothing is written"
    assert not target.exists()


def test_colors_are_named_merged_and_made_void(tmp_path, target):
    colors = np.array([(0, 0, 0), (255, 0, 0), (0, 0, 255)], np.uint8)
    root = tiny_exports.masks(tmp_path / "export", colors[expected()])
    label, classes = imported(root, target, "--color", "#ff0000=crack", "--color", "0,0,255=void")
    assert (label == expected(1, VOID)).all() and classes == {0: "background", 1: "crack"}
    label, classes = imported(root, tmp_path / "merged", "--color", "255,0,0=crack", "--color", "0,0,255=crack")
    assert (label == expected(1, 1)).all() and classes == {0: "background", 1: "crack"}


def test_trimaps_have_another_number_for_background(tmp_path, target):
    """1 is the pet, 2 the background and 3 its border, as in the Oxford pets."""
    root = tiny_exports.masks(tmp_path / "export", np.array([2, 1, 3], np.uint8)[expected()])
    names = ["--color", "1=pet", "--color", "2=background", "--color", "3=void"]
    label, classes = imported(root, target, *names)
    assert (label == expected(1, VOID)).all() and classes == {0: "background", 1: "pet"}


def test_palettes_count_by_number_with_names_of_labelme(tmp_path, target):
    root = tiny_exports.masks(tmp_path / "export", expected())
    for path in (root / "masks").iterdir():
        path.write_bytes(palette_png(expected()))
    (root / "class_names.txt").write_text("_background_\ncrack\nhole\n")
    label, classes = imported(root, target)
    assert (label == expected()).all() and list(classes.values())[1:] == ["crack", "hole"]


@pytest.mark.parametrize("form", ["mark beside", "png beside", "mark and folders"])
def test_masks_are_found_in_usual_places(tmp_path, target, form):
    images, masks, mark = {
        "mark beside": ("", "", "_mask"),
        "png beside": ("", "", ""),
        "mark and folders": ("train/photos", "train_masks", "_segmentation"),
    }[form]
    root = tmp_path / "export"
    tiny_exports.write_images(root / images)
    tiny_exports.write_masks(root / masks, expected(), suffix=f"{mark}.png")
    assert (imported(root, target)[0] == expected()).all()
    assert len(list((target / "JPEGImages").iterdir())) == len(NAMES)


def test_folders_of_segnet_keep_their_lists(tmp_path, target):
    for name in ("train", "val"):
        tiny_exports.write_images(tmp_path / "export" / name)
        tiny_exports.write_masks(tmp_path / "export" / f"{name}annot", expected())
    assert main(["data", "import", "masks", str(tmp_path / "export"), str(target)]) == 0
    for name in ("train", "val"):
        listed = (target / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()
        assert listed == [f"{name}/{image}" for image in sorted(NAMES)]
        assert (np.asarray(Image.open(target / "SegmentationClass" / f"{listed[0]}.png")) == expected()).all()


def test_jpeg_masks_are_refused_one_by_one(tmp_path, target, capsys):
    root = tiny_exports.masks(tmp_path / "export", np.array([0, 255, 255], np.uint8)[expected()])
    png = root / "masks" / f"{NAMES[0]}.png"
    Image.open(png).save(png.with_suffix(".jpg"))
    png.unlink()
    assert main(["data", "import", "masks", str(root), str(target)]) == 1
    told = capsys.readouterr().out
    assert "4 images imported" in told
    assert "is a JPEG, which does not keep class numbers" in told


def test_only_jpeg_masks_are_an_error(tmp_path, target, capsys):
    root = tiny_exports.masks(tmp_path / "export", expected(), suffix=".jpg")
    assert main(["data", "import", "masks", str(root), str(target)]) == 1
    assert "is a JPEG" in capsys.readouterr().err
    assert not target.exists()


def test_soft_borders_are_refused(tmp_path, target, capsys):
    root = tiny_exports.masks(tmp_path / "export", np.array([0, 255, 255], np.uint8)[expected()])
    soft = np.array([0, 255, 255], np.uint8)[expected()]
    soft[4, 4:16] = np.arange(20, 200, 15)
    Image.fromarray(soft).save(root / "masks" / f"{NAMES[0]}.png")
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3)).astype(np.uint8)
    Image.fromarray(noise).save(root / "masks" / f"{NAMES[1]}.png")
    assert main(["data", "import", "masks", str(root), str(target)]) == 1
    told = capsys.readouterr().out
    assert "is black and white with soft borders; make it 0 and 1" in told
    assert "colors; export it as PNG, without soft borders" in told
    assert "3 images imported" in told


@pytest.mark.parametrize(("options", "sentence"), [
    (["--color", "7=crack"], "--color names 7, which no mask has; they have 0; 255"),
    (["--color", "red=crack"], "--color 'red' should be a gray value such as 255"),
    (["--color", "crack"], "--color 'crack' should read NAME=NEW"),
    (["--map", "a=b"], "name them with --color"),
])  # fmt: skip
def test_wrong_options_are_one_sentence(tmp_path, target, capsys, options, sentence):
    root = tiny_exports.masks(tmp_path / "export", np.array([0, 255, 255], np.uint8)[expected()])
    assert main(["data", "import", "masks", str(root), str(target), *options]) == 1
    assert sentence in capsys.readouterr().err
    assert not target.exists()


def test_mask_of_another_size_is_refused(tmp_path, target, capsys):
    root = tiny_exports.masks(tmp_path / "export", expected())
    Image.fromarray(expected()[:-1]).save(root / "masks" / f"{NAMES[0]}.png")
    assert main(["data", "import", "masks", str(root), str(target)]) == 1
    assert "is 40 x 23 pixels and its image 40 x 24" in capsys.readouterr().out
