"""``deeplabv3 data import``: what would give wrong labels or lists is refused before anything is written."""

import json

import numpy as np
import pytest
import tiny_exports
import yaml
from PIL import Image
from tiny_exports import NAMES, SIZE, SQUARE, expected, flat

from walkthrough.cli import main
from walkthrough.datasets.importing import drawing
from walkthrough.datasets.importing.drawing import Shape


@pytest.fixture
def target(tmp_path):
    return tmp_path / "shapes"


@pytest.fixture
def labelme(tmp_path, target) -> list[str]:
    """The command that imports a miniature from labelme."""
    return ["data", "import", "labelme", str(tiny_exports.labelme(tmp_path / "export")), str(target)]


def contents(target) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def change(root, index: int, **changes) -> str:
    """Change the first shape of a labelme file, and return the file's name."""
    path = root / "export" / f"{NAMES[index]}.json"
    record = json.loads(path.read_text())
    record["shapes"][0] |= changes
    path.write_text(json.dumps(record))
    return path.name


# --- a target that was imported before


def test_other_classes_are_refused_before_writing(labelme, target, capsys):
    """The profile would name the classes of new labels by the old numbers."""
    assert main([*labelme, "--classes", "triangle,square"]) == 0
    before = contents(target)
    assert main(labelme) == 1
    told = capsys.readouterr().err
    assert f"{target / 'shapes.yaml'} has the classes {{0: background, 1: triangle, 2: square}}" in told
    assert "choose another target, or delete" in told
    assert contents(target) == before
    (target / "shapes.yaml").unlink()
    assert main(labelme) == 0
    classes = yaml.safe_load((target / "shapes.yaml").read_text())["data"]["classes"]
    assert classes == {0: "background", 1: "square", 2: "triangle"}


def test_other_list_options_are_refused_before_writing(labelme, target, capsys):
    options = ["--group-by", "^(.*)_", "--val-share", "0.4"]
    assert main([*labelme, *options]) == 0
    before = contents(target)
    assert main(labelme) == 1
    assert "were made with --val-share 0.4 --group-by '^(.*)_', and this import has none" in capsys.readouterr().err
    assert contents(target) == before
    assert main([*labelme, *options]) == 0


@pytest.mark.parametrize(("name", "sentence"), [
    ("voc", "has the name of the project's profile voc"),
    ("a:b", "setting 'TARGET' is 'a:b'; it takes a name without slashes"),
    ("file", "file is a file; name a folder"),
    ("file/below", "file is a file; name a folder"),
])  # fmt: skip
def test_unusable_target_is_one_sentence(labelme, tmp_path, capsys, name, sentence):
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert main([*labelme[:-1], str(tmp_path / name)]) == 1
    assert sentence in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("options", "sentence"), [
    (["--group-by", "_(x+)"], "finds nothing in image name"),
    (["--images", "nope"], "--images nope does not exist"),
    (["--classes", "square,square"], "--classes names 'square' twice"),
])  # fmt: skip
def test_wrong_options_write_nothing(labelme, target, capsys, options, sentence):
    assert main([*labelme, *options]) == 1
    assert sentence in capsys.readouterr().err
    assert not target.exists()


def test_printed_commands_quote_blanks(labelme, tmp_path, capsys):
    target = tmp_path / "my shapes"
    assert main([*labelme[:-1], str(target)]) == 0
    assert f"data check --profile '{target}/my shapes.yaml'\n" in capsys.readouterr().out


# --- objects


@pytest.mark.parametrize("options", [[], ["--color", "0=background"]])
def test_masks_of_background_only_are_refused(tmp_path, target, capsys, options):
    root = tiny_exports.masks(tmp_path / "export", np.zeros(SIZE[::-1], np.uint8))
    assert main(["data", "import", "masks", str(root), str(target), *options]) == 1
    assert f"{root} has no class but background" in capsys.readouterr().err
    assert not target.exists()


def test_objects_outside_the_image_are_counted(labelme, tmp_path, capsys):
    change(tmp_path, 0, points=[[50, 2], [60, 9]])
    assert main(labelme) == 1
    told = capsys.readouterr().out
    assert "4 images imported" in told
    assert f"{NAMES[0]}.jpg: 1 of its 2 objects lie outside of the image, 40 x 24 pixels" in told


@pytest.mark.parametrize(("corner", "outside"), [((-2, 0), False), ((-3, 0), True), ((39, 23), False), ((0, 25), True)])
def test_shapes_are_outside_without_a_common_point(corner, outside):
    left, top = corner
    polygon = Shape(1, (drawing.box(left, top, left + 2, top + 2),))
    assert polygon.is_outside(SIZE) == outside
    inside = drawing.box(0, 0, 2, 2)
    assert not Shape(1, (*polygon.polygons, inside)).is_outside(SIZE)
    assert Shape(1, mask=np.ones((2, 2), dtype=bool), corner=corner).is_outside(SIZE) == outside


def test_pixel_coordinates_of_yolo_are_refused(tmp_path, target, capsys):
    root = tiny_exports.yolo(tmp_path / "export")
    path = root / "labels" / "train" / f"{NAMES[0]}.txt"
    path.write_text("0 4 4 20 4 20 18\n")
    assert main(["data", "import", "yolo-seg", str(root), str(target)]) == 1
    told = capsys.readouterr().out
    assert f"line 1 of {path} has a point outside of 0 to 1; coordinates are shares of the image's size" in told
    assert "4 images imported" in told


# --- damaged files


@pytest.mark.parametrize("part", ["images", "categories"])
def test_repeated_id_of_coco_is_refused(tmp_path, target, capsys, part):
    path = tiny_exports.coco(tmp_path / "export")
    content = json.loads(path.read_text())
    content[part].append(dict(content[part][1]))
    path.write_text(json.dumps(content))
    assert main(["data", "import", "coco", str(path), str(target)]) == 1
    assert f"{path} has the id {content[part][1]['id']} 2 times in '{part}'" in capsys.readouterr().err
    assert not target.exists()


def test_annotations_of_coco_left_out_are_counted(tmp_path, target, capsys):
    shape = {"id": 1, "image_id": 0, "category_id": 7, "segmentation": [flat(SQUARE)]}
    annotations = [shape, shape | {"image_id": 99}, shape | {"image_id": 98}, shape | {"segmentation": []}]
    path = tiny_exports.coco(tmp_path / "export", annotations=annotations)
    assert main(["data", "import", "coco", str(path), str(target)]) == 0
    told = capsys.readouterr().out
    assert f"{path}: 2 annotations have an image_id that 'images' lacks and are left out" in told
    assert f"{path}: 1 annotations have no segmentation and are left out" in told


@pytest.mark.parametrize("label", [None, 3, "", "  "])
def test_labelme_file_without_label_is_refused(labelme, tmp_path, capsys, label):
    file = change(tmp_path, 0, label=label)
    assert main(labelme) == 1
    told = capsys.readouterr().out
    assert f"{file}: its shape 1 has no label" in told and "4 images imported" in told


def test_labelme_shape_that_is_no_object_is_refused(labelme, tmp_path, capsys):
    path = tmp_path / "export" / f"{NAMES[0]}.json"
    path.write_text(json.dumps({"shapes": ["square"]}))
    assert main(labelme) == 1
    assert f"{path}: its shape 1 has no label" in capsys.readouterr().out


def test_broken_labelme_file_is_listed_once(labelme, tmp_path, capsys):
    (tmp_path / "export" / f"{NAMES[0]}.json").write_text("{")
    assert main(labelme) == 1
    told = capsys.readouterr().out
    assert told.count(NAMES[0]) == 1 and "cannot be read as JSON" in told and "4 images imported" in told


def test_labelme_without_usable_file_names_the_first(labelme, tmp_path, target, capsys):
    for index in range(len(NAMES)):
        change(tmp_path, index, label=None)
    assert main(labelme) == 1
    assert f"the first, {tmp_path / 'export' / NAMES[0]}.json: its shape 1 has no label" in capsys.readouterr().err
    assert not target.exists()


def test_blanks_around_labelme_labels_are_removed(labelme, tmp_path, target, capsys):
    change(tmp_path, 0, label=" square ")
    assert main(labelme) == 0
    assert "classes: 0 background, 1 square, 2 triangle\n" in capsys.readouterr().out
    with Image.open(target / "SegmentationClass" / f"{NAMES[0]}.png") as label:
        assert (np.asarray(label) == expected()).all()
