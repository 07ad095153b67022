"""Which images predict finds, and how it names their results."""

from pathlib import Path

import pytest
from PIL import Image

from deeplabv3.errors import UserError
from walkthrough.commands.prediction_files import find_images, output_names, unreadable_images


def make_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4)).save(folder / name)


def test_files_folders_patterns_are_found_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path, "trip/b.JPG", "trip/a.png", "trip/sub/c.webp", "one.jpg")
    (tmp_path / "trip" / "notes.txt").write_text("no image")
    names = [path.as_posix() for path in find_images(["one.jpg", "trip", "trip/*.JPG", str(tmp_path / "one.jpg")])]
    assert names == ["one.jpg", "trip/a.png", "trip/b.JPG"]
    assert [path.name for path in find_images(["**/*.webp"])] == ["c.webp"]


def test_file_named_like_pattern_is_found(tmp_path):
    make_files(tmp_path, "a[1].jpg", "a1.jpg")
    assert [path.name for path in find_images([str(tmp_path / "a[1].jpg")])] == ["a[1].jpg"]


def test_earlier_results_are_skipped(tmp_path):
    make_files(tmp_path, "cat.jpg", "cat_overlay.jpg", "cat_classes.png")
    assert [path.name for path in find_images([str(tmp_path)], tmp_path)] == ["cat.jpg"]
    assert len(find_images([str(tmp_path)], tmp_path / "elsewhere")) == 3
    pattern = str(tmp_path / "**" / "*.*")
    assert [path.name for path in find_images([pattern], tmp_path)] == ["cat.jpg"]
    with pytest.raises(UserError, match="no image matches"):
        find_images([str(tmp_path / "*_overlay.jpg")], tmp_path)
    assert len(find_images([str(tmp_path / "cat_overlay.jpg")], tmp_path)) == 1, "who names it means it"


def test_hidden_files_of_a_folder_are_skipped(tmp_path):
    """macOS writes ._cat.jpg beside cat.jpg on foreign disks, and JupyterLab .ipynb_checkpoints."""
    make_files(tmp_path, "cat.jpg", ".ipynb_checkpoints/cat-checkpoint.jpg")
    (tmp_path / "._cat.jpg").write_bytes(b"\0\5\x16\7Mac OS X")
    assert [path.name for path in find_images([str(tmp_path)])] == ["cat.jpg"]


def test_images_to_convert_are_counted(tmp_path):
    make_files(tmp_path, "cat.jpg")
    for name in ("IMG_1.HEIC", "b.heif", "c.NEF", "notes.txt", "._IMG_2.HEIC"):
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypheic")
    assert [path.name for path in unreadable_images([str(tmp_path)])] == ["IMG_1.HEIC", "b.heif", "c.NEF"]
    (tmp_path / "cat.jpg").unlink()
    with pytest.raises(UserError, match=r"holds no images that can be read; convert .* mogrify .*/\*\.HEIC'"):
        find_images([str(tmp_path)])


@pytest.mark.parametrize("item", ["nowhere.jpg", "*.png", "empty"])
def test_no_image_found_is_user_error(tmp_path, monkeypatch, item):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=item.replace("*", r"\*")):
        find_images([item])


def test_equal_image_names_get_distinct_results():
    paths = [Path(name) for name in ("a/cat.jpg", "b/cat.jpg", "cat_2.png", "a/Cat.png", "dog.jpg")]
    names = output_names(paths)
    assert names == ["cat", "cat_2", "cat_2_2", "Cat_3", "dog"]
