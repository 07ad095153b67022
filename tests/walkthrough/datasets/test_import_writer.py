"""``deeplabv3 data import``: lists, links, repetition, the profile, and training on the result."""

import os
from pathlib import Path

import numpy as np
import pytest
import tiny_exports
import yaml
from PIL import Image
from tiny_exports import NAMES, SIZE, expected

from deeplabv3.config import VOID
from deeplabv3.data.reading import read_label
from deeplabv3.errors import UserError
from walkthrough.cli import main
from walkthrough.datasets.importing import drawing, lists, writer
from walkthrough.datasets.importing.drawing import Shape, paint
from walkthrough.datasets.importing.export import Item, split_of
from walkthrough.datasets.importing.lists import Split, draw
from walkthrough.datasets.propose import propose
from walkthrough.profiles import FOLDER


@pytest.fixture
def command(tmp_path) -> list[str]:
    root = tiny_exports.masks(tmp_path / "export", np.array([0, 255, 0], np.uint8)[expected()])
    return ["data", "import", "masks", str(root), str(tmp_path / "cracks")]


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cracks"


def read_lists(target) -> dict[str, list[str]]:
    return {path.stem: path.read_text().split() for path in (target / "ImageSets" / "Segmentation").iterdir()}


def test_same_command_again_draws_nothing(command, target, capsys):
    assert main(command) == 0
    before, times = read_lists(target), {path: path.stat().st_mtime_ns for path in target.rglob("*.*")}
    capsys.readouterr()
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "0 hard links, 0 copies, 5 there already" in told and "0 drawn, 5 there already" in told
    assert read_lists(target) == before
    after = {path: path.stat().st_mtime_ns for path in target.rglob("*.*") if path.suffix != ".txt"}
    assert after == {path: time for path, time in times.items() if path.suffix != ".txt"}


def test_interrupted_import_goes_on(command, target, capsys, monkeypatch):
    """Nothing is half-written, and what is there is not drawn again."""
    calls = []

    def stops(values):
        calls.append(values)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(values)

    real = writer.palette_png
    monkeypatch.setattr(writer, "palette_png", stops)
    monkeypatch.setattr("walkthrough.datasets.progress.available_cpus", lambda: 1)
    assert main(command) == 130
    assert not [path for path in target.rglob("*") if "partial" in path.name]
    assert not (target / "ImageSets").exists()
    monkeypatch.setattr(writer, "palette_png", real)
    capsys.readouterr()
    assert main(command) == 0
    assert "3 drawn, 2 there already" in capsys.readouterr().out


def test_files_of_killed_imports_are_removed(command, target):
    """Of every file that an import writes, once they are old."""
    assert main(command) == 0
    written = set(target.rglob("*"))
    folders = [target, *(path for path in written if path.is_dir()), target / "JPEGImages" / "clip"]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        for name, time in ((".a.1f.partial.txt", 0), (".b.1f.partial.png", None)):
            (folder / name).touch()
            os.utime(folder / name, None if time is None else (time, time))
    assert main(command) == 0
    assert not list(target.rglob(".a.*")) and len(list(target.rglob(".b.*"))) == len(folders)


def test_changed_mask_is_drawn_again(command, target, tmp_path):
    """Even one whose file has an older time than the label."""
    assert main(command) == 0
    path = tmp_path / "export" / "masks" / f"{NAMES[0]}.png"
    Image.fromarray(np.array([0, 0, 255], np.uint8)[expected()]).save(path)
    os.utime(path, (1e9, 1e9))
    assert main(command) == 0
    assert (read_label(target / "SegmentationClass" / path.name) == expected(0, 1)).all()


def test_damaged_label_is_drawn_again(command, target):
    assert main(command) == 0
    path = target / "SegmentationClass" / f"{NAMES[0]}.png"
    path.write_bytes(path.read_bytes()[:40])
    assert main(command) == 0
    assert (read_label(path) == expected(1, 0)).all()


def test_replaced_image_is_linked_again(command, target, tmp_path):
    assert main(command) == 0
    image = tmp_path / "export" / "images" / f"{NAMES[0]}.jpg"
    image.unlink()
    Image.new("RGB", SIZE, "red").save(image)
    assert main(command) == 0
    assert (target / "JPEGImages" / image.name).samefile(image)


def test_images_are_copied_on_request_and_without_links(command, target, tmp_path, capsys, monkeypatch):
    assert main([*command, "--copy"]) == 0
    assert "0 hard links, 5 copies" in capsys.readouterr().out
    image = tmp_path / "export" / "images" / f"{NAMES[0]}.jpg"
    copy = target / "JPEGImages" / image.name
    assert copy.read_bytes() == image.read_bytes() and not copy.samefile(image)

    def no_links(*_):
        raise OSError

    monkeypatch.setattr(os, "link", no_links)
    assert main([*command[:-1], str(tmp_path / "other")]) == 0
    assert "0 hard links, 5 copies" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["export", "export/masks", "export/new"])
def test_target_within_source_is_refused(command, tmp_path, capsys, place):
    assert main([*command[:-1], str(tmp_path / place)]) == 1
    assert "whose images are imported; name a folder beside it" in capsys.readouterr().err


def test_data_set_of_somebody_is_not_written_to(command, target, voc_root, capsys):
    before = sorted(voc_root.rglob("*"))
    assert main([*command[:-1], str(voc_root)]) == 1
    assert "is a data set already, and not from an import" in capsys.readouterr().err
    assert sorted(voc_root.rglob("*")) == before


@pytest.mark.parametrize("kind", ["masks", "coco", "labelme", "cvat", "CVAT's XML", "yolo-seg"])
def test_images_of_one_name_are_refused(tmp_path, target, capsys, kind):
    """Only one of them can have the label."""
    make = {"yolo-seg": tiny_exports.yolo, "CVAT's XML": tiny_exports.cvat_xml, "coco": tiny_exports.coco}.get(kind)
    make = make or {"labelme": tiny_exports.labelme, "cvat": tiny_exports.cvat}.get(kind)
    source = make(tmp_path / "export") if make else tiny_exports.masks(tmp_path / "export", expected())
    image = next((tmp_path / "export").rglob(f"{NAMES[0]}.jpg"))
    Image.new("RGB", SIZE).save(image.with_suffix(".bmp"))
    code = main(["data", "import", kind.replace("CVAT's XML", "cvat"), str(source), str(target)])
    told = capsys.readouterr().out
    if kind == "coco":  # whose records name the file
        assert code == 0 and f"images without a label in the export are left out, 1: {NAMES[0]}.bmp\n" in told
        assert "to import them, label them" in told
    else:
        assert code == 1 and f"has the name of {image.with_suffix('.bmp')}; rename one of them" in told


def test_images_without_object_are_counted_or_skipped(command, target, tmp_path, capsys):
    Image.fromarray(np.zeros(SIZE[::-1], np.uint8)).save(tmp_path / "export" / "masks" / f"{NAMES[0]}.png")
    assert main(command) == 0
    assert "1 of them have no object" in capsys.readouterr().out
    assert main([*command, "--skip-empty"]) == 0
    told = capsys.readouterr().out
    assert "4 images imported" in told and "1 images without an object, or with too few pixels" in told
    assert NAMES[0] not in read_lists(target)["trainval"]


def test_profile_of_user_stays(command, target):
    assert main(command) == 0
    path = target / "cracks.yaml"
    values = yaml.safe_load(path.read_text())
    assert values["data"] == {"kind": "voc", "root": ".", "classes": {0: "background", 1: "object"}}
    path.write_text(path.read_text().replace(f"  lr: {values['training']['lr']}", "  lr: 0.0123"))
    assert main(command) == 0
    assert "lr: 0.0123" in path.read_text()


def test_profile_has_settings_of_finetune(command, target):
    """But for those that the images decide."""
    assert main(command) == 0
    values, finetune = (yaml.safe_load(path.read_text()) for path in (target / "cracks.yaml", FOLDER / "finetune.yaml"))
    proposed = {"iterations", "batch_size", "crop_size", "precision"}
    for name in ("model", "evaluation", "runtime"):
        assert values[name] == finetune[name]
    training, shipped = values["training"], finetune["training"]
    assert training.keys() == shipped.keys()
    assert {name for name in training if training[name] != shipped[name]} <= proposed
    assert (training["iterations"], training["crop_size"]) == (500, 65)


def test_imported_data_trains_from_network_in_the_box(command, target, capsys):
    """The command that the import prints, with two steps."""
    assert main(command) == 0
    small = ["--set", "training.iterations=2", "--set", "training.crop_size=65", "--set", "training.batch_size=2"]
    train = ["train", "--profile", str(target / "cracks.yaml"), "--init-from", "pretrained", "--new-classes"]
    assert main([*train, *small]) == 0
    assert "mIoU" in capsys.readouterr().out


# --- lists


def items(*names: str, split: str | None = None) -> list[Item]:
    return [Item(name, Path(f"{name}.jpg"), expected, split) for name in names]


FRAMES = [f"clip{clip}_{frame:04}" for clip in range(10) for frame in range(clip + 1)]


def test_frames_of_a_clip_stay_on_one_side():
    found, text = draw(items(*FRAMES), Split(0.3, group_by=r"^(.*)_\d+$"))
    sides = [{name.split("_")[0] for name in found[side]} for side in ("train", "val")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 10
    assert abs(len(found["val"]) / len(FRAMES) - 0.3) < 0.1
    assert "in 10 groups" in text
    assert found["trainval"] == sorted(FRAMES)


def test_folder_is_a_group():
    found, _ = draw(items("a/1", "a/2", "b/1", "b/2", "c/1", "c/2"), Split(0.33, group_by="folder"))
    assert len(found["val"]) == 2 and len({name[0] for name in found["val"]}) == 1


def test_seed_draws_other_lists_and_new_images_move_none():
    one, other = (draw(items(*FRAMES), Split(0.2, seed))[0]["val"] for seed in (0, 1))
    assert one == draw(items(*reversed(FRAMES)), Split(0.2))[0]["val"] and one != other
    more = draw(items(*FRAMES, "new1", "new2"), Split(0.2))[0]["val"]
    assert len(set(one) - set(more)) <= 1


def test_lists_of_the_export_are_kept_unless_drawn_anew():
    mixed = items("a", "b", split="train") + items("c", split="val") + items("d", split="test") + items("e")
    found, text = draw(mixed, Split())
    assert found == {"train": ["a", "b", "e"], "val": ["c"], "test": ["d"], "trainval": ["a", "b", "c", "e"]}
    assert "1 images of no list are in train" in text
    assert "test" not in draw(mixed, Split(0.5))[0]


@pytest.mark.parametrize(("names", "split", "sentence"), [
    (["a"], Split(), "there is one image"),
    (["a_1", "a_2"], Split(group_by="^[a-z]"), "there is one group by --group-by"),
    (["a_1", "b"], Split(group_by="_"), "finds nothing in image name 'b'"),
    (["a", "b"], Split(group_by="("), "is no regular expression"),
])  # fmt: skip
def test_impossible_lists_are_refused(names, split, sentence):
    with pytest.raises(UserError, match=sentence):
        draw(items(*names), split)


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5])
def test_share_outside_0_to_1_is_refused(share):
    with pytest.raises(UserError, match="'--val-share' is"):
        lists.Split(share)


@pytest.mark.parametrize(("path", "split"), [
    ("train2017/1", "train"), ("annotations/instances_val2017", "val"), ("valid/images", "val"), ("trains/x", None),
    ("Validation", "val"), ("x/test", "test"), ("", None),
])  # fmt: skip
def test_words_of_a_path_name_its_list(path, split):
    assert split_of(path) == split


# --- drawing


def by_definition(size, points) -> np.ndarray:
    """A pixel at a time: an odd number of edges crosses the ray to the right of its center."""
    label = np.zeros(size[::-1], dtype=np.uint8)
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    for y, x in np.ndindex(label.shape):
        right = [
            x0 + (y + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            for (x0, y0), (x1, y1) in edges
            if (y0 <= y + 0.5) != (y1 <= y + 0.5)
        ]
        label[y, x] = sum(crossing > x + 0.5 for crossing in right) % 2
    return label


@pytest.mark.parametrize("seed", range(8))
def test_polygons_cover_pixels_whose_centers_are_inside(seed):
    """Also where they cross themselves or leave the image."""
    points = np.random.default_rng(seed).uniform(-6, 30, (3 + seed, 2))
    assert (paint((24, 20), [Shape(1, (points,))]) == by_definition((24, 20), points.tolist())).all()


@pytest.mark.parametrize("corner", [(-1, -1), (3, 2), (5, 3)])
def test_masks_are_cut_at_the_border(corner):
    mask = np.array([[1, 0, 1], [1, 1, 1]], dtype=bool)
    canvas = np.zeros((24, 24), dtype=np.uint8)
    left, top = corner
    canvas[8 + top : 10 + top, 8 + left : 11 + left] = mask
    assert (paint((6, 4), [Shape(1, mask=mask, corner=corner)]) == canvas[8:12, 8:14]).all()


def test_later_shapes_lie_on_top():
    shapes = [Shape(1, (drawing.box(0, 0, 4, 4),)), Shape(VOID, (drawing.box(2, 2, 6, 6),))]
    assert paint((6, 6), shapes)[3, 3] == VOID
    assert [shape.value for shape in drawing.small_on_top([*shapes, Shape(3, (drawing.box(0, 0, 9, 9),))])] == [
        3,
        1,
        VOID,
    ]


# --- proposals


@pytest.mark.parametrize(("sizes", "images", "proposed"), [
    ([(500, 375)] * 3, 3000, (2500, 8, 257)),
    ([(160, 120)] * 3, 100, (500, 8, 161)),
    ([(150, 20), (10, 10), (150, 150)], 240, (1200, 8, 161)),
    ([(30, 20)], 4, (500, 4, 65)),
])  # fmt: skip
def test_crop_batch_and_steps_fit_the_images(sizes, images, proposed, monkeypatch):
    monkeypatch.setattr("walkthrough.datasets.propose.available_memory", lambda: 10**11)
    assert tuple(propose(sizes, images).values())[:3] == proposed


@pytest.mark.parametrize("native", [True, False])
def test_precision_is_what_the_machine_computes_in(native, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": native})
    assert propose([(500, 375)], 100)["precision"] == ("bfloat16" if native else "float32")


def test_batch_fits_into_memory(monkeypatch):
    monkeypatch.setattr("walkthrough.datasets.propose.available_memory", lambda: int(2e9))
    assert 1 <= propose([(500, 375)], 1000)["batch_size"] < 8
