"""Lists in the formats of other projects, and files of other names than VOC's."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, write_label
from PIL import Image

from deeplabv3.data.lists import Files, find_root, list_names, plain, read_list
from deeplabv3.data.voc import VOCData, fingerprint
from deeplabv3.errors import UserError

NAMES = [f"image_{number}" for number in range(3)]


def write_list(root: Path, text: str, encoding: str = "utf-8") -> None:
    (root / "ImageSets" / "Segmentation" / "train.txt").write_bytes(text.encode(encoding))


def named(root: Path, *names: str) -> None:
    """Make the data set consist of images of these names; slashes stand for folders."""
    image, label = (root / folder / "image_0" for folder in ("JPEGImages", "SegmentationClass"))
    for name in names:
        for path, suffix in ((image, ".jpg"), (label, ".png")):
            copy = path.parent / f"{name}{suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.with_suffix(suffix).read_bytes())


# --- lists

FORMATS = {
    "plain": "image_0\nimage_1\nimage_2\n",
    "windows": "image_0\r\nimage_1\r\nimage_2\r\n",
    "byte order mark": "\ufeffimage_0\nimage_1\nimage_2\n",
    "blanks": "  image_0 \n\n\timage_1\nimage_2",
    "extensions": "image_0.jpg\nimage_1.JPG\nimage_2.png\n",
    "paths": "JPEGImages/image_0.jpg\n./JPEGImages/image_1.jpg\n/JPEGImages/image_2.jpg\n",
    "absolute paths": "/home/me/data/JPEGImages/image_0.jpg\n/data/image_1.jpg\nC:\\my data\\JPEGImages\\image_2.jpg\n",
    "DrSleep's": "".join(f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png\n" for name in NAMES),
    "Kitti's": "".join(f"training/image_2/{name}.png training/semantic/{name}.png\n" for name in NAMES),
    "tabs": "".join(f"{name}.jpg\t{name}.png\n" for name in NAMES),
    "table": "".join(f'"{name}.jpg","{name}.png"\n' for name in NAMES),
    "three columns": "".join(f"{name}.jpg {name}.png {name}.png\n" for name in NAMES),
    "one line of commas": "image_0,image_1, image_2",
    "one line of semicolons": "image_0.jpg;image_1.jpg;image_2.jpg;\n",
    "one line of blanks": "image_0 image_1 image_2\n",
    "VOC's of a class": "image_0  1\nimage_3 -1\nimage_1  0\nimage_2  1\n",
}


@pytest.mark.parametrize("text", FORMATS.values(), ids=FORMATS)
def test_list_formats_name_the_same_images(voc_root, text):
    write_list(voc_root, text)
    assert read_list(voc_root, "train") == NAMES
    assert len(VOCData(voc_root, "train", CLASSES)) == 3


NAMES_WITH_MARKS = ["photo 1", "a,b", "x;y", "a [1]", "sub/p 0", "sub/0", "v1.5", "p0.jpg.bak", "-1", "1", "裂缝"]


@pytest.mark.parametrize("name", NAMES_WITH_MARKS)
def test_existing_names_with_marks_are_names(voc_root, name):
    named(voc_root, name)
    write_list(voc_root, f"image_0\n{name}\n")
    assert read_list(voc_root, "train") == ["image_0", name]
    assert len(VOCData(voc_root, "train", CLASSES)) == 2


def test_numbers_as_names_and_flags(voc_root):
    """Names and flags of VOC's lists of one class may look alike."""
    named(voc_root, "0", "1", "5")
    write_list(voc_root, "5 1\n1 -1\n0 0\n1 1\n")
    assert read_list(voc_root, "train") == ["5", "0", "1"]
    write_list(voc_root, "0,1")
    assert read_list(voc_root, "train") == ["0", "1"]


@pytest.mark.parametrize("line", ["image_1.jpg image_2_mask.png", "image_1,image_2_mask.png",
                                  "JPEGImages/image_1.jpg SegmentationClass/image_9.png",
                                  "JPEGImages/image_1.jpg SegmentationClass/image_2.png"])  # fmt: skip
def test_label_of_another_name_is_refused(voc_root, line):
    write_list(voc_root, f"image_0\n{line}\n")
    with pytest.raises(UserError, match=r"line 2 of list .*train\.txt names an image and a label of another name"):
        read_list(voc_root, "train")


@pytest.mark.parametrize(
    "line", ["nowhere", "no where", "no,where", "x" * 5000, "x\0y", "../../etc/passwd", "/", "a/b/c"]
)
def test_lines_without_images_are_missing_images(voc_root, line):
    write_list(voc_root, f"image_0\n{line}\n")
    with pytest.raises(UserError, match=r"is missing; restore it or take the name off the list"):
        VOCData(voc_root, "train", CLASSES)


PIECES = ["image_0", "image_7", "/", "\\", ".jpg", ".png", " ", "\t", ",", ";", '"', "1", "-1", "..", ".", "\ufeff",
          "ü", "#", "JPEGImages/", "\u2028", "\x1c", "x" * 300]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_any_list_ends_in_names_or_a_sentence(voc_root, seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        write_list(voc_root, "".join(rng.choice(PIECES, rng.integers(1, 9))))
        try:
            names = read_list(voc_root, "train")
            assert names and all(names)
            assert len(VOCData(voc_root, "train", CLASSES)) == len(names)
        except UserError as error:
            assert "train" in str(error)


def test_hidden_lists_are_no_lists(voc_root):
    (voc_root / "ImageSets" / "Segmentation" / "._train.txt").write_bytes(b"\0\5\x16\7")
    assert list_names(voc_root) == ["train", "trainval", "val"]


# --- files


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".JPEG", ".tif", ".TIFF", ".bmp", ".webp", ".png", ".PNG", ".gif"])
def test_suffixes_of_images_and_labels_are_found(voc_root, suffix):
    before = VOCData(voc_root, "train", CLASSES)[0]
    kind = "JPEG" if suffix.lower() in (".jpg", ".jpeg") else None
    for folder, old in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        path = voc_root / folder / f"image_0{old}"
        if folder == "SegmentationClass" and (kind or suffix in (".webp", ".gif")):
            continue  # these do not keep numbers, or Pillow numbers the colors anew
        image = Image.open(path)
        image.load()
        path.unlink()
        image.save(path.with_suffix(suffix), kind, **({"lossless": True} if suffix == ".webp" else {}))
    image, label = VOCData(voc_root, "train", CLASSES)[0]
    assert (label == before[1]).all()
    assert np.abs(image.astype(int) - before[0]).mean() < (12 if kind or suffix == ".gif" else 0.1)


def test_hidden_files_and_folders_are_no_images(voc_root):
    (voc_root / "JPEGImages" / "image_0.jpg").rename(voc_root / "JPEGImages" / ".image_0.jpg")
    (voc_root / "JPEGImages" / "image_0.png").mkdir()
    with pytest.raises(UserError, match=r"image_0\.jpg of list 'train' is missing"):
        VOCData(voc_root, "train", CLASSES)


def test_lossless_and_simple_suffixes_are_preferred(voc_root):
    """A thumbnail, a preview or a copy beside the file does not replace it."""
    write_label(voc_root / "SegmentationClass" / "image_0.bmp", np.zeros((40, 48), np.uint8))
    Image.new("RGB", (48, 40)).save(voc_root / "SegmentationClass" / "image_0.jpg")
    Image.new("RGB", (48, 40)).save(voc_root / "JPEGImages" / "image_0.png")
    Image.new("RGB", (48, 40)).save(voc_root / "JPEGImages" / "image_0.jpg.jpg")
    files = Files(voc_root)
    assert files.label("image_0", "train").name == "image_0.png"
    assert files.image("image_0", "train").name == "image_0.jpg"


def test_labels_named_after_the_image_file_are_found(voc_root):
    """Supervisely and others write image_0.jpg.png for the label of image_0.jpg."""
    path = voc_root / "SegmentationClass" / "image_0.png"
    path.rename(path.with_name("image_0.jpg.png"))
    assert Files(voc_root).label("image_0", "train").name == "image_0.jpg.png"


def test_labelmes_folder_of_labels_is_found(voc_root):
    """Its SegmentationClass holds numpy files."""
    (voc_root / "SegmentationClass").rename(voc_root / "SegmentationClassPNG")
    (voc_root / "SegmentationClass").mkdir()
    (voc_root / "SegmentationClass" / "image_0.npy").write_bytes(b"\x93NUMPY")
    assert len(VOCData(voc_root, "train", CLASSES)) == 6


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["über", "Füße/é", "한국어"])
def test_unicode_forms_of_names_are_equal(voc_root, name, on_disk, in_list):
    named(voc_root, unicodedata.normalize(on_disk, name))
    write_list(voc_root, unicodedata.normalize(in_list, name))
    data = VOCData(voc_root, "train", CLASSES)
    assert data.names == [unicodedata.normalize("NFC", name)] == [plain(data.names[0])]
    assert data[0][1].any()


def test_image_to_convert_is_found_and_refused(voc_root):
    path = voc_root / "JPEGImages" / "image_0.jpg"
    path.rename(path.with_suffix(".HEIC")).write_bytes(b"\0\0\0\x20ftypheic")
    with pytest.raises(UserError, match=r"image_0\.HEIC cannot be read.*magick mogrify -format png '.*/\*\.HEIC'"):
        VOCData(voc_root, "train", CLASSES)[0]


def test_root_without_lists_says_what_to_write(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(UserError, match=r"has no ImageSets/Segmentation folder; .*train\.txt and val\.txt"):
        find_root(tmp_path)


def test_list_format_does_not_change_the_fingerprint(voc_root):
    prints = set()
    for text in ("image_0\nimage_1\n", "\ufeffimage_0.jpg\r\nimage_1.jpg\r\n", "image_0,image_1"):
        write_list(voc_root, text)
        prints.add(fingerprint(voc_root, "train"))
    assert len(prints) == 1
