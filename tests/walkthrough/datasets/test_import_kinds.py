"""``deeplabv3 data import``: every kind gives the same pixels, and says what it cannot import."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_exports
import yaml
from PIL import Image
from tiny_exports import NAMES, SIZE, SQUARE, expected, flat

from deeplabv3.config import VOC_CLASSES, VOID
from deeplabv3.data.reading import read_label
from deeplabv3.data.voc import VOCData
from walkthrough.cli import main
from walkthrough.commands import import_data
from walkthrough.datasets import importing
from walkthrough.profiles import load_profile


def label(target, name=NAMES[0]) -> np.ndarray:
    return read_label(target / "SegmentationClass" / f"{name}.png")


@pytest.fixture
def target(tmp_path):
    return tmp_path / "shapes"


KINDS = {
    "coco": ("coco", tiny_exports.coco),
    "labelme": ("labelme", tiny_exports.labelme),
    "cvat": ("cvat", tiny_exports.cvat),
    "CVAT's XML": ("cvat", tiny_exports.cvat_xml),
}


def test_command_and_readers_name_the_same_kinds():
    assert tuple(importing.KINDS) == import_data.KINDS


def use_names(monkeypatch, names: list[str]) -> None:
    monkeypatch.setattr(tiny_exports, "NAMES", names)
    monkeypatch.setattr(tiny_exports.write_images, "__defaults__", (".jpg", names))


@pytest.mark.parametrize("kind", ["coco", "labelme"])
def test_words_in_names_of_images_are_no_lists(tmp_path, target, monkeypatch, kind):
    """An image ``test_3.jpg`` of the training set would silently leave it."""
    use_names(monkeypatch, [f"{word}_{i}" for i, word in enumerate(("test", "val", "train") * 2)])
    export = KINDS[kind][1](tmp_path / "export")
    if kind == "coco":
        export = export.rename(export.with_name("instances_train.json"))
    assert main(["data", "import", kind, str(export), str(target)]) == 0
    lists = target / "ImageSets" / "Segmentation"
    assert len((lists / "trainval.txt").read_text().split()) == 6 and not (lists / "test.txt").exists()


def test_names_that_lists_cannot_hold_are_refused(tmp_path, target, monkeypatch, capsys):
    use_names(monkeypatch, ["a", "b", "trail ", " lead"])
    export = tiny_exports.labelme(tmp_path / "export")
    assert main(["data", "import", "labelme", str(export), str(target)]) == 1
    assert capsys.readouterr().out.count("begins or ends with a space") == 2
    assert sorted((target / "ImageSets/Segmentation/trainval.txt").read_text().split()) == ["a", "b"]


def test_too_few_images_are_told_with_those_refused(tmp_path, target, monkeypatch, capsys):
    use_names(monkeypatch, ["a", "b"])
    export = tiny_exports.labelme(tmp_path / "export")
    (export / "b.jpg").write_bytes(b"")
    assert main(["data", "import", "labelme", str(export), str(target)]) == 1
    error = capsys.readouterr().err
    assert "there is one image to draw train and val from" in error and "b.jpg cannot be read" in error


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_each_kind_gives_exact_labels_and_passes_check(tmp_path, target, capsys, case):
    kind, make = KINDS[case]
    assert main(["data", "import", kind, str(make(tmp_path / "export")), str(target)]) == 0
    told = capsys.readouterr().out
    assert f"5 images imported into {target}: train 4, val 1, trainval 5\n" in told
    assert "5 hard links, 0 copies" in told and "labels: 5 drawn" in told
    profile = load_profile(str(target / "shapes.yaml"))
    assert profile.data.class_map() == {0: "background", 1: "square", 2: "triangle"} or case == "coco"
    names = {name: value for value, name in profile.data.class_map().items()}
    for name in NAMES:
        assert (label(target, name) == expected(names["square"], names["triangle"])).all()
        source = next((tmp_path / "export").rglob(f"{name}.jpg"))
        assert (target / "JPEGImages" / f"{name}.jpg").samefile(source)
    assert main(["data", "check", "--profile", str(target / "shapes.yaml")]) == 0


def test_yolo_keeps_its_lists_and_folders(tmp_path, target, monkeypatch, capsys):
    """Its file names the absolute folder, and the command a relative one."""
    tiny_exports.yolo(tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    assert main(["data", "import", "yolo-seg", "export", str(target)]) == 0
    told = capsys.readouterr().out
    assert "lists as in the export" in told and "left out" not in told and "refused" not in told
    data = VOCData(target, "val", {0: "background", 1: "square", 2: "triangle"})
    assert data.names == [f"val/{name}" for name in NAMES[3:]]
    assert (data.label(0) == expected()).all()
    assert main(["data", "check", "--profile", str(target / "shapes.yaml")]) == 0


YOLO_PATHS = {
    # where the images of train and val are, with {} for images or labels; what data.yaml says; val's names
    "other folders": ("{}/a", "{}/b", {"train": "images/a", "val": "images/b"}, "b/"),
    "path of another disk": ("{}/a", "{}/b", {"path": "/their/disk", "train": "images/a", "val": ["images/b"]}, "b/"),
    "Roboflow's": ("train/{}", "valid/{}", {"train": "../train/images", "val": "../valid/images"}, "valid/"),
    "Windows": ("{}/a", "{}/b", {"train": "images\\a", "val": "images\\b"}, "b/"),
    "lists": ("{}/a", "{}/b", {"train": "a.txt", "val": "lists/b.txt"}, "b/"),
}


def yolo_at(root: Path, train: str, val: str, paths: dict) -> None:
    """YOLO's export with its images elsewhere."""
    tiny_exports.yolo(root)
    for part in ("images", "labels"):
        for old, new in (("train", train), ("val", val)):
            target = root / new.format(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(root / part / old, target)
    (root / "lists").mkdir()
    (root / "a.txt").write_text("".join(f"./images/a/{name}.jpg\n" for name in NAMES[:3]))
    (root / "lists" / "b.txt").write_text("".join(f"images/b/{name}.jpg\n" for name in NAMES[3:]))
    (root / "data.yaml").write_text(yaml.safe_dump({"names": ["square", "triangle"]} | paths))


@pytest.mark.parametrize(("train", "val", "paths", "folder"), YOLO_PATHS.values(), ids=YOLO_PATHS)
def test_yolo_takes_images_that_its_file_names(tmp_path, target, capsys, train, val, paths, folder):
    yolo_at(tmp_path / "export", train, val, paths)
    assert main(["data", "import", "yolo-seg", str(tmp_path / "export"), str(target)]) == 0
    told = capsys.readouterr().out
    assert "lists as in the export" in told and "train 3, val 2" in told
    data = VOCData(target, "val", {0: "background", 1: "square", 2: "triangle"})
    assert data.names == [f"{folder}{name}" for name in NAMES[3:]]
    assert (data.label(0) == expected()).all()


def test_yolo_says_what_its_file_does_not_name(tmp_path, target, capsys):
    paths = {"train": ["images/a"], "val": "lists/b.txt", "test": "../test/images"}
    yolo_at(tmp_path / "export", "{}/a", "{}/b", paths)
    with open(tmp_path / "export/lists/b.txt", "w") as file:
        file.write(f"images/b/{NAMES[3]}.jpg\nimages/b/gone.jpg\nimages/a/{NAMES[0]}.jpg\n")
    assert main(["data", "import", "yolo-seg", str(tmp_path / "export"), str(target)]) == 1
    told = capsys.readouterr().out
    assert "test: ../test/images does not exist and is left out" in told
    assert "1 images are in two lists and count for the first" in told
    assert "1 images below" in told and "are in no list of data.yaml and are left out" in told
    assert "gone.jpg: is named in data.yaml and does not exist" in told and "train 3, val 1" in told


def test_cityscapes_ids_become_train_ids(tmp_path, target, capsys):
    root = tiny_exports.cityscapes(tmp_path / "export")
    assert main(["data", "import", "cityscapes", str(root), str(target)]) == 0
    told = capsys.readouterr().out
    assert "train 3, val 1, trainval 4" in told
    assert f"images without a label in the export are left out, 1: {NAMES[4]}_leftImg8bit.png" in told
    wanted = np.array([0, 13, VOID])[expected()]  # road, car, void
    assert (label(target) == wanted).all()
    classes = load_profile(str(target / "shapes.yaml")).data.class_map()
    assert len(classes) == 19 and (classes[0], classes[13], classes[18]) == ("road", "car", "bicycle")


def read_list(target, name) -> list[str]:
    return (target / "ImageSets" / "Segmentation" / f"{name}.txt").read_text().split()


@pytest.mark.parametrize("options", [[], ["--val-share", "0.5"]])
def test_coarse_labels_are_in_their_list_alone(tmp_path, target, options):
    root = tiny_exports.coarse_cityscapes(tmp_path / "export")
    assert main(["data", "import", "cityscapes", str(root), str(target), *options]) == 0
    assert (label(target) == np.array([0, 13, VOID])[expected()]).all()  # fine
    assert (label(target, "extra_0001") == np.array([0, 11, VOID])[expected()]).all()
    trainval = read_list(target, "trainval")
    assert trainval == list(NAMES[:4]) == sorted(read_list(target, "train") + read_list(target, "val"))
    assert read_list(target, "trainval_coarse") == [*trainval, "extra_0001", "extra_0002"]


# --- COCO


def test_coco_gives_voc_classes_by_their_names(tmp_path, target, capsys):
    path = tiny_exports.voc_coco(tmp_path / "export")
    assert main(["data", "import", "coco", str(path), str(target), "--classes", "voc"]) == 0
    assert load_profile(str(target / "shapes.yaml")).data.class_map() == dict(enumerate(VOC_CLASSES))
    assert (label(target) == expected(18, 0)).all()  # sofa, and the zebra is background
    assert (label(target, NAMES[-1]) == expected(0, 1)).all()  # aeroplane


@pytest.mark.parametrize(("pixels", "images"), [(91, 5), (92, 4)])
def test_images_with_too_few_pixels_are_left_out(tmp_path, target, capsys, pixels, images):
    """The triangle alone has 91; the zebra does not count."""
    path = tiny_exports.voc_coco(tmp_path / "export")
    options = ["--classes", "voc", "--min-pixels", str(pixels)]
    assert main(["data", "import", "coco", str(path), str(target), *options]) == 0
    told = capsys.readouterr().out
    assert f"{images} images imported" in told and ("1 images without" in told) == (images == 4)
    assert (NAMES[-1] in read_list(target, "trainval")) == (images == 5)


def test_void_does_not_count_as_pixels_of_objects(tmp_path, target, capsys):
    path = tiny_exports.voc_coco(tmp_path / "export")
    content = json.loads(path.read_text())
    counts = [0, SIZE[0] * SIZE[1]]  # a crowd everywhere below
    content["annotations"] += [
        {"id": 99, "image_id": len(NAMES) - 1, "category_id": 1, "iscrowd": 1,
         "segmentation": {"size": [SIZE[1], SIZE[0]], "counts": counts}}
    ]  # fmt: skip
    path.write_text(json.dumps(content))
    options = ["--classes", "voc", "--min-pixels", "92"]
    assert main(["data", "import", "coco", str(path), str(target), *options]) == 0
    assert "4 images imported" in capsys.readouterr().out


def coco_objects(*objects) -> list[dict]:
    return [{"id": n, "image_id": 0, "category_id": 7, "iscrowd": 0} | one for n, one in enumerate(objects)]


def imported_coco(tmp_path, target, annotations, *options) -> np.ndarray:
    path = tiny_exports.coco(tmp_path / "export", annotations=annotations)
    assert main(["data", "import", "coco", str(path), str(target), *options]) == 0
    return label(target)


def test_small_objects_lie_on_large_ones(tmp_path, target):
    """Whatever their order in the file."""
    small = [flat(((6, 6), (9, 6), (9, 9), (6, 9)))]
    objects = coco_objects({"segmentation": small, "category_id": 9}, {"segmentation": [flat(SQUARE)]})
    found = imported_coco(tmp_path, target, objects)
    assert found[5, 5] == 1 and (found[6:9, 6:9] == 2).all() and (found == 2).sum() == 9


def test_crowd_is_void_below_its_objects(tmp_path, target):
    """In run lengths down the columns, as COCO has them."""
    crowd = np.zeros(SIZE[::-1], dtype=bool)
    crowd[2:10, 2:12] = True
    changes = np.flatnonzero(np.diff(np.concatenate([[0], crowd.ravel(order="F").astype(int), [0]])))
    counts = np.diff(np.concatenate([[0], changes, [crowd.size]])).tolist()
    objects = coco_objects(
        {"segmentation": [flat(SQUARE)]},
        {"segmentation": {"size": list(SIZE[::-1]), "counts": counts}, "iscrowd": 1},
    )
    wanted = np.where(crowd, VOID, 0)
    wanted[4:18, 4:20] = 1
    assert (imported_coco(tmp_path, target, objects) == wanted).all()


def test_compressed_run_lengths_are_decoded(tmp_path, target):
    mask = pytest.importorskip("pycocotools.mask")
    encoded = mask.encode(np.asfortranarray(expected(1, 0)))
    segmentation = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    found = imported_coco(tmp_path, target, coco_objects({"segmentation": segmentation}))
    assert (found == expected(1, 0)).all()


def test_compressed_run_lengths_name_missing_package(tmp_path, target, capsys, monkeypatch):
    monkeypatch.setattr("walkthrough.datasets.importing.coco.find_spec", lambda name: None)
    segmentation = {"size": list(SIZE[::-1]), "counts": "PPYo0"}
    path = tiny_exports.coco(tmp_path / "export", annotations=coco_objects({"segmentation": segmentation}))
    assert main(["data", "import", "coco", str(path), str(target)]) == 1
    assert "pip install pycocotools" in capsys.readouterr().err
    assert not target.exists()


def test_classes_are_renamed_merged_and_chosen(tmp_path, target):
    options = ["--map", "triangle=square", "--map", "square=void"]
    path = tiny_exports.coco(tmp_path / "export")
    assert main(["data", "import", "coco", str(path), str(target), *options]) == 0
    assert (label(target) == expected(VOID, 1)).all()
    other = target.with_name("triangles")
    assert main(["data", "import", "coco", str(path), str(other), "--classes", "triangle"]) == 0
    assert (label(other) == expected(0, 1)).all()


def test_unknown_class_names_are_one_sentence(tmp_path, target, capsys):
    path = tiny_exports.coco(tmp_path / "export")
    assert main(["data", "import", "coco", str(path), str(target), "--map", "disc=void"]) == 1
    assert "--map names class 'disc'; the export has square, triangle" in capsys.readouterr().err


# --- what is refused


def test_unusable_images_are_named_and_others_imported(tmp_path, target, capsys):
    """A missing image, one of another size, one without annotations; exit code 1."""
    path = tiny_exports.coco(tmp_path / "export")
    images = path.parent / "images"
    (images / f"{NAMES[0]}.jpg").unlink()
    Image.new("RGB", SIZE[::-1]).save(images / f"{NAMES[1]}.jpg")
    Image.new("RGB", SIZE).save(images / "later.jpg")
    assert main(["data", "import", "coco", str(path), str(target)]) == 1
    told = capsys.readouterr().out
    assert "3 images imported" in told
    assert "images without a label in the export are left out, 1: later.jpg" in told
    assert f"  {NAMES[0]}.jpg: is not below" in told
    assert f"{NAMES[1]}.jpg is 24 x 40 pixels, and its annotations are for 40 x 24; an EXIF entry may turn it" in told


def test_boxes_of_yolo_are_refused(tmp_path, target, capsys):
    root = tiny_exports.yolo(tmp_path / "export")
    (root / "labels" / "train" / f"{NAMES[0]}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert main(["data", "import", "yolo-seg", str(root), str(target)]) == 1
    assert "is a box, and no polygon" in capsys.readouterr().out


def test_shape_without_area_is_refused(tmp_path, target, capsys):
    root = tiny_exports.labelme(tmp_path / "export")
    path = root / f"{NAMES[0]}.json"
    record = json.loads(path.read_text())
    record["shapes"].append({"label": "square", "points": [[1, 1], [9, 9]], "shape_type": "line"})
    path.write_text(json.dumps(record))
    assert main(["data", "import", "labelme", str(root), str(target)]) == 1
    assert f"shape 'square' in {path} is a line, which has no area" in capsys.readouterr().out


def test_masks_and_void_of_labelme_are_painted(tmp_path, target):
    root = tiny_exports.labelme(tmp_path / "export")
    mask = tiny_exports.png_text(np.array([[255, 0], [255, 255]], dtype=np.uint8))
    for name in NAMES:
        record = json.loads((root / f"{name}.json").read_text())
        record["shapes"] = [
            {"label": "square", "points": [[3, 5], [4, 6]], "shape_type": "mask", "mask": mask},
            {"label": "__ignore__", "points": [[30, 0], [33, 2]], "shape_type": "rectangle"},
            {"label": "square", "points": [[20, 12], [20, 16]], "shape_type": "circle"},
        ]
        (root / f"{name}.json").write_text(json.dumps(record))
    assert main(["data", "import", "labelme", str(root), str(target)]) == 0
    found = label(target)
    assert found[5:7, 3:5].tolist() == [[1, 0], [1, 1]]
    assert (found[0:2, 30:33] == VOID).all() and (found == VOID).sum() == 6
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    assert (found[8:17, 15:26] == (np.hypot(y - 12, x - 20) < 4)[8:17, 15:26]).all()


def test_run_lengths_and_order_of_cvat_xml(tmp_path, target):
    root = tiny_exports.cvat_xml(tmp_path / "export")
    text = (root / "annotations.xml").read_text()
    shapes = (
        '<mask label="triangle" rle="1,2,1,2" left="2" top="3" width="3" height="2" z_order="1"/>'
        '<box label="square" xtl="0" ytl="0" xbr="10" ybr="10" z_order="0"/></image>'
    )
    (root / "annotations.xml").write_text(text.replace("</image>", shapes))
    assert main(["data", "import", "cvat", str(root), str(target)]) == 0
    assert label(target)[3:5, 2:5].tolist() == [[1, 2, 2], [1, 2, 2]]


@pytest.mark.parametrize("kind", [kind for kind in import_data.KINDS if kind != "masks"])
def test_folder_of_another_kind_is_one_sentence(tmp_path, target, capsys, kind):
    tiny_exports.write_images(tmp_path / "export")
    assert main(["data", "import", kind, str(tmp_path / "export"), str(target)]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not target.exists()


def test_damaged_annotations_are_one_sentence(tmp_path, target, capsys):
    path = tiny_exports.coco(tmp_path / "export", images=[{"id": 0}])
    assert main(["data", "import", "coco", str(path), str(target)]) == 1
    assert f"{path} is no export of kind 'coco' that can be read (KeyError('file_name'))" in capsys.readouterr().err
