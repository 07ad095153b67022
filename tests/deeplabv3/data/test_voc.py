"""The reader of VOC's layout: images, labels, and one sentence for each fault of a data set."""

import os
import shutil

import numpy as np
import pytest
from conftest import CLASSES, write_label
from faulty_data import MISTAKES
from PIL import Image

from deeplabv3.config import VOC_CLASSES, VOID
from deeplabv3.data import voc
from deeplabv3.data.voc import VOCData, find_root, fingerprint, palette
from deeplabv3.errors import UserError


def test_labels_become_class_indices_and_void(voc_root):
    """Label values 0, 3 and 7 are classes 0, 1 and 2; the raw PNG says where."""
    data = VOCData(voc_root, "train", CLASSES)
    assert len(data) == 6
    assert data.class_names == ("background", "square", "disc")
    for index, name in enumerate(data.names):
        image, label = data[index]
        raw = np.asarray(Image.open(voc_root / "SegmentationClass" / f"{name}.png"))
        assert image.shape == (*raw.shape, 3)
        assert image.dtype == label.dtype == np.uint8
        assert set(np.unique(raw)) == {0, 3, 7, VOID}
        for value, expected in ((0, 0), (3, 1), (7, 2), (VOID, VOID)):
            assert (label[raw == value] == expected).all()
        # the square is red: the image belongs to the label, and its channels are RGB
        assert image[label == 1].mean(0) == pytest.approx((220, 30, 30), abs=15)


def test_cached_images_are_the_same(voc_root):
    plain, cached = VOCData(voc_root, "val", CLASSES), VOCData(voc_root, "val", CLASSES, cache=True)
    for _ in range(2):
        for index in range(len(plain)):
            for expected, found in zip(plain[index], cached[index], strict=True):
                assert np.array_equal(expected, found)


def test_images_are_cached_if_they_fit(voc_root, monkeypatch):
    plain = VOCData(voc_root, "trainval", CLASSES)
    needed = plain.decoded_bytes()
    assert needed == 4 * sum(label.size for _, label in (plain[index] for index in range(9)))
    for allowed, fits in ((needed, True), (needed - 1, False), (0, False)):
        monkeypatch.setattr(voc, "allowance", lambda allowed=allowed: allowed)
        assert VOCData(voc_root, "trainval", CLASSES, cache=None).cached is fits


def test_palette_is_vocs():
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    assert [tuple(color) for color in palette()[:7].tolist()] == first
    assert tuple(palette()[8]) == (64, 0, 0)
    assert tuple(palette()[20]) == (0, 64, 128)  # tvmonitor
    assert tuple(palette()[255]) == (224, 224, 192)  # void
    assert len(np.unique(palette(), axis=0)) == 256
    assert len(VOC_CLASSES) == 21


def test_voc_labels_are_preferred_to_sbd(voc_root):
    """kazuto1011/deeplab-pytorch #72: SBD's coarse borders must not replace the labels of VOC's 1,464."""
    aug = voc_root / "SegmentationClassAug"
    aug.mkdir()
    for path in sorted((voc_root / "SegmentationClass").iterdir()):
        write_label(aug / path.name, np.full(Image.open(path).size[::-1], 3, dtype=np.uint8))
    (voc_root / "SegmentationClass" / "image_1.png").unlink()
    data = VOCData(voc_root, "train", CLASSES)
    assert set(np.unique(data[0][1])) == {0, 1, 2, VOID}
    assert set(np.unique(data[1][1])) == {1}


@pytest.mark.parametrize("below", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_root_may_be_a_parent_folder(tmp_path, voc_root, below):
    target = tmp_path / "elsewhere" / below
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(voc_root, target)
    assert find_root(tmp_path / "elsewhere") == target


def test_png_images_and_gray_labels_are_read(voc_root):
    image = Image.open(voc_root / "JPEGImages" / "image_0.jpg").convert("L")
    (voc_root / "JPEGImages" / "image_0.jpg").unlink()
    image.save(voc_root / "JPEGImages" / "image_0.png")
    path = voc_root / "SegmentationClass" / "image_0.png"
    before = VOCData(voc_root, "train", CLASSES)[0][1]
    Image.fromarray(np.asarray(Image.open(path))).save(path)
    assert Image.open(path).mode == "L"
    found_image, found_label = VOCData(voc_root, "train", CLASSES)[0]
    assert np.array_equal(found_image, np.repeat(np.asarray(image)[..., None], 3, axis=2))
    assert np.array_equal(found_label, before)


@pytest.mark.parametrize(("spoil", "sentence"), MISTAKES, ids=[spoil.__name__ for spoil, _ in MISTAKES])
def test_faulty_data_set_is_a_user_error(voc_root, spoil, sentence):
    spoil(voc_root)
    with pytest.raises(UserError, match=sentence) as caught:
        data = VOCData(voc_root, "train", CLASSES)
        for index in range(len(data)):
            data[index]
    assert "\n" not in str(caught.value)


def test_fingerprint_changes_with_the_data(voc_root):
    before = fingerprint(voc_root, "train")
    assert fingerprint(voc_root, "train") == before
    assert fingerprint(voc_root.parent, "train") == before  # wherever the folder is
    assert fingerprint(voc_root, "val") != before
    path = voc_root / "JPEGImages" / "image_0.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    changed = fingerprint(voc_root, "train")
    assert changed != before
    (voc_root / "ImageSets" / "Segmentation" / "train.txt").write_text("image_0\nimage_1\n")
    assert fingerprint(voc_root, "train") not in (before, changed)


def test_fingerprint_sees_corrected_labels_of_equal_size(voc_root):
    """ultralytics/yolov5 #306: the result of the old labels passed for that of the new ones."""
    path = voc_root / "SegmentationClass" / "image_1.png"
    before, times, size = fingerprint(voc_root, "train"), path.stat(), path.stat().st_size
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == size and fingerprint(voc_root, "train") != before


@pytest.mark.parametrize("size", [(30, 20), (300, 200)])
def test_fingerprint_sees_replaced_images_of_equal_size(voc_root, size):
    """Uncompressed images of one shape have one size."""
    path = voc_root / "JPEGImages" / "image_1.jpg"
    path.unlink()
    path = path.with_suffix(".bmp")
    prints = set()
    for shade in range(3):
        Image.new("RGB", size, (shade, 100, 100)).save(path)
        prints.add((fingerprint(voc_root, "train"), path.stat().st_size))
    assert len(prints) == 3 and len({bytes_ for _, bytes_ in prints}) == 1


def test_copies_have_equal_fingerprints(voc_root, tmp_path):
    """On another machine, at another time, with other times of the files."""
    copy = tmp_path / "another" / "VOC"
    shutil.copytree(voc_root, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    assert fingerprint(copy, "train") == fingerprint(voc_root, "train")


def test_replaced_file_changes_its_signature(voc_root):
    """A file of the same size too: a resumed evaluation must not keep the counts of the old image."""
    data = VOCData(voc_root, "train", CLASSES)
    signatures = [data.file_signature(index) for index in range(len(data))]
    assert len(set(signatures)) == 6
    for folder in ("JPEGImages/image_1.jpg", "SegmentationClass/image_2.png"):
        path = voc_root / folder
        before = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
        assert path.stat().st_size == before.st_size
    changed = VOCData(voc_root, "train", CLASSES)
    assert [index for index in range(6) if changed.file_signature(index) != signatures[index]] == [1, 2]
