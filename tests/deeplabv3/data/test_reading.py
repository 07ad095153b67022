"""Images and labels of every kind: what the one reader makes of them, and lines that convert what it refuses."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, write_label
from faulty_data import exif, run_line, turn_image
from PIL import Image, PngImagePlugin

from deeplabv3.data import reading
from deeplabv3.data.reading import image_size, palette, read_image, read_label
from deeplabv3.data.voc import VOCData, palette_png
from deeplabv3.errors import UserError

QUADRANTS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
"""Red, green; blue, white."""

VALUES = np.array([[0, 1, 2, 2], [1, 1, 0, 0], [3, 0, 0, 1]], dtype=np.uint8)
"""A label."""


def scene(height: int = 40, width: int = 60) -> np.ndarray:
    """Four colored quadrants, so that a turn or a mirror shows."""
    return QUADRANTS.repeat(height // 2, 0).repeat(width // 2, 1)


def png(width: int, height: int, bits: int, color_type: int, rows: bytes) -> bytes:
    """A PNG file of a kind that Pillow does not write."""
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    PngImagePlugin.putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0))
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(rows))
    PngImagePlugin.putchunk(file, b"IEND", b"")
    return file.getvalue()


# --- images


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_image_formats_are_read(tmp_path, suffix):
    path = tmp_path / f"scene.{suffix}"
    Image.fromarray(scene()).save(path, quality=95)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.abs(image[5::30, 5::45].astype(int) - QUADRANTS).max() < 20


def test_ordinary_jpeg_keeps_its_pixels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg", quality=90)
    assert (read_image(tmp_path / "a.jpg") == np.asarray(Image.open(tmp_path / "a.jpg"))).all()


TURNS = [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (4, np.flipud),
         (6, lambda a: np.rot90(a, -1)), (8, np.rot90)]  # fmt: skip


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(("orientation", "turned"), TURNS)
def test_exif_orientation_is_applied(tmp_path, orientation, turned, suffix):
    path = tmp_path / f"phone.{suffix}"
    lossy = {"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(scene()).save(path, exif=exif(orientation), **lossy)
    image, expected = read_image(path), turned(scene())
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 8
    assert image_size(path) == image.shape[1::-1]


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_is_ignored(tmp_path, monkeypatch):
    path = tmp_path / "phone.jpg"
    Image.fromarray(scene()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(path).shape == (40, 60, 3)

    def fail(image: Image.Image, in_place: bool) -> None:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(reading.ImageOps, "exif_transpose", fail)  # as Pillow has done with other damages
    assert read_image(path).shape == (40, 60, 3)


def test_oddities_in_files_print_no_warnings(tmp_path):
    path = tmp_path / "phone.jpg"
    Image.fromarray(scene()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    code = f"from deeplabv3.data.reading import read_image; read_image(__import__('pathlib').Path({str(path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.dstack([scene(), np.full((40, 60), 255, np.uint8)])
    rgba[:20, :30, 3] = 0
    rgba[:20, 30:, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    image = read_image(tmp_path / "alpha.png")
    assert image[0, 0].tolist() == [255, 255, 255]
    assert image[0, 59] == pytest.approx([127, 255, 127], abs=1)
    assert image[39, 0].tolist() == [0, 0, 255]

    shades = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    shades.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    shades.save(tmp_path / "palette.png", transparency=1)
    assert read_image(tmp_path / "palette.png")[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_image_keeps_brightness(tmp_path, suffix):
    """Pillow's own conversion clips at 255, which makes nearly everything white."""
    gray = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(gray).save(tmp_path / f"deep.{suffix}")
    assert read_image(tmp_path / f"deep.{suffix}")[0].tolist() == [[v] * 3 for v in (0, 0, 1, 128, 255)]


@pytest.mark.parametrize(("white", "warned"), [(4095, True), (255, True), (0xFFFF, False)])
def test_16_bit_image_of_few_levels_is_warned_of(tmp_path, white, warned):
    """As cameras of 12 bits and many scripts write them: the network would see black."""
    Image.fromarray(np.array([[0, white]], dtype=np.uint16)).save(tmp_path / "deep.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(tmp_path / "deep.png")
    assert [f"16-bit images in {tmp_path} use few" in str(one.message) for one in caught] == [True] * warned


def test_16_bit_color_png_keeps_its_upper_bits(tmp_path):
    rows = b"\0" + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 0xFF, 0x100)
    (tmp_path / "deep.png").write_bytes(png(2, 1, 16, 2, rows))
    assert read_image(tmp_path / "deep.png").tolist() == [[[0x12, 0x80, 0xFF], [0, 0, 1]]]


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("1", "png"), ("LA", "png"), ("CMYK", "jpg"), ("P", "gif"),
                                              ("YCbCr", "jpg"), ("1", "tif"), ("CMYK", "tif")])  # fmt: skip
def test_pillow_modes_become_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"scene.{suffix}"
    Image.fromarray(scene()).convert(mode).save(path)
    image, gray = read_image(path), mode in ("L", "1", "LA")
    assert image.shape == (40, 60, 3)
    assert np.abs(image[39, 59].astype(int) - 255).max() < 10
    assert (image[..., 0] == image[..., 2]).all() == gray


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_white_are_converted_by_the_line(tmp_path, kind):
    path = tmp_path / "depth map.tif"
    Image.fromarray(np.array([[-100, 300, 99_900, 200_000]], dtype=kind)).save(path)
    with pytest.raises(UserError, match=r"depth map\.tif has pixels of 32 bits.*LOW.*HIGH") as caught:
        read_image(path)
    Image.fromarray(np.array([[0, 255]], np.int32)).save(tmp_path / "small.tif")  # would be black as 16 bits
    with pytest.raises(UserError, match=r"small\.tif has pixels of 32 bits"):
        read_image(tmp_path / "small.tif")
    (tmp_path / "small.tif").unlink()
    run_line(str(caught.value), LOW="-100", HIGH="99900")
    assert read_image(path.with_suffix(".png"))[0, :, 0].tolist() == [0, 1, 255, 255]


@pytest.mark.parametrize(
    ("content", "converted"), [(b"", False), (b"hello", True), (None, False), (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", False)]
)
def test_broken_image_error_names_file(tmp_path, content, converted):
    """What is of an unknown kind may be converted; what is damaged, not."""
    path = tmp_path / "broken.jpg"
    Image.fromarray(scene(400, 600)).save(path)
    path.write_bytes(path.read_bytes()[:2000] if content is None else content)
    for read in (read_image, read_label):
        with pytest.raises(UserError, match=r"broken\.jpg .*replace the file") as caught:
            read(path)
        assert ("magick mogrify -format png" in str(caught.value)) == converted


@pytest.mark.filterwarnings("ignore")
def test_flipped_bytes_never_end_in_a_traceback(tmp_path, monkeypatch):
    """Decoders fail with all kinds of exceptions, and a damaged header may claim any size."""
    monkeypatch.setattr(reading, "LARGE", 1_000_000)
    monkeypatch.setattr(reading, "available_memory", lambda: 0)
    rng, path = np.random.default_rng(0), tmp_path / "a"
    for form in ("PNG", "TIFF", "GIF", "BMP", "WEBP", "JPEG"):
        buffer = io.BytesIO()
        Image.fromarray(scene()).convert("P" if form == "GIF" else "RGB").save(buffer, form)
        for _ in range(25):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(0, min(200, len(data)), 4):
                data[place] = rng.integers(256)
            path.write_bytes(data)
            for read in (read_image, read_label):
                try:
                    assert read(path).dtype == np.uint8
                except UserError as error:
                    assert str(path) in str(error)


def test_image_beyond_memory_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LARGE", 1000)
    path = tmp_path / "a.png"
    Image.fromarray(scene()).save(path)
    for free, fits in ((24_000, True), (23_999, False)):
        monkeypatch.setattr(reading, "available_memory", lambda free=free: free)
        if fits:
            assert read_image(path).shape == (40, 60, 3)
        else:
            with pytest.raises(UserError, match=r"a\.png takes more memory than there is; make it smaller, or cut"):
                read_image(path)


def test_image_of_200_megapixels_is_no_attack(tmp_path):
    """Pillow's limit is 179 million pixels, "could be decompression bomb DOS attack"."""
    (tmp_path / "a.png").write_bytes(png(20_000, 10_000, 8, 0, b""))
    assert image_size(tmp_path / "a.png") == (20_000, 10_000)


# --- labels


def packed_gray(path: Path, values: np.ndarray, bits: int) -> None:
    """A gray PNG of fewer than 8 bits a pixel."""
    rows = b""
    for row in values:
        digits = "".join(f"{value:0{bits}b}" for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")
    path.write_bytes(png(values.shape[1], values.shape[0], bits, 0, rows))


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "gif"])
def test_gray_and_palette_labels_keep_their_numbers(tmp_path, suffix):
    for name, image in (("gray", Image.fromarray(VALUES)), ("palette", Image.open(io.BytesIO(palette_png(VALUES))))):
        image.save(tmp_path / f"{name}.{suffix}")
        assert (read_label(tmp_path / f"{name}.{suffix}") == VALUES).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_labels_of_few_bits_keep_their_numbers(tmp_path, bits):
    """Pillow makes 85 and 17 of the values 1 of 2 and 4 bits."""
    values = VALUES % 2**bits
    packed_gray(tmp_path / "a.png", values, bits)
    assert (read_label(tmp_path / "a.png") == values).all()


@pytest.mark.parametrize("kind", [np.uint16, np.int32])
def test_labels_of_many_bits_keep_their_numbers(tmp_path, kind):
    Image.fromarray(VALUES.astype(kind)).save(tmp_path / "a.tif")
    assert (read_label(tmp_path / "a.tif") == VALUES).all()
    assert read_label(tmp_path / "a.tif").dtype == np.uint8


def test_label_with_large_values_is_converted_by_the_line(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[0, 3, 26001]], dtype=np.uint16)).save(path)
    with pytest.raises(UserError, match=r"a\.png holds the value 26001, and labels take 0 to 255") as caught:
        read_label(path)
    run_line(str(caught.value))
    assert read_label(path).tolist() == [[0, 3, 255]]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_black_and_white_jpeg_is_converted_by_the_line(tmp_path, mode):
    path = tmp_path / "a.jpg"
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 5:20] = 255
    Image.fromarray(mask).convert(mode).save(path, quality=50)
    with pytest.raises(UserError, match=r"a\.jpg is a JPEG, which does not keep class numbers") as caught:
        read_label(path)
    run_line(str(caught.value))
    assert (read_label(path.with_suffix(".png")) == mask // 255).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_label_of_equal_channels_is_converted_by_the_line(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.fromarray(VALUES).convert(mode).save(path)
    (tmp_path / "good.png").write_bytes(palette_png(VALUES))
    with pytest.raises(UserError, match=rf"a\.png is a {mode} image.*channels are equal") as caught:
        read_label(path)
    run_line(str(caught.value))
    assert (read_label(path) == VALUES).all()
    assert (read_label(tmp_path / "good.png") == VALUES).all(), "what needs no conversion keeps its numbers"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_label_in_vocs_colors_is_converted_by_the_line(tmp_path, mode):
    values = np.where(VALUES == 3, 255, VALUES)
    Image.fromarray(palette()[values]).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"colors are VOC's of 0, 1, 2, 255: python") as caught:
        read_label(tmp_path / "a.png")
    run_line(str(caught.value))
    assert (read_label(tmp_path / "a.png") == values).all()
    assert (read_image(tmp_path / "a.png") == palette()[values]).all(), "it looks as before"


def test_label_in_own_colors_is_converted_by_the_line(tmp_path):
    colors = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)], np.uint8)  # CVAT's
    Image.fromarray(colors[VALUES % 3]).save(tmp_path / "a.bmp")
    with pytest.raises(UserError, match="in the order of the values that they stand for") as caught:
        read_label(tmp_path / "a.bmp")
    run_line(str(caught.value), **{"(51, 221, 255), (250, 50, 83)": "(250, 50, 83), (51, 221, 255)"})
    assert (read_label(tmp_path / "a.png") == VALUES % 3).all()


def test_line_names_the_colors_of_all_labels(tmp_path):
    """The first label lacks a class; numbers that were given by its colors alone would change from file to file."""
    for name, colors in (("a", [(0, 0, 0), (255, 0, 0)]), ("b", [(0, 0, 0), (0, 255, 0)])):
        Image.fromarray(np.array([colors], np.uint8)).save(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match=r"\[\(0, 0, 0\), \(0, 255, 0\), \(255, 0, 0\)\]"):
        read_label(tmp_path / "a.png")


def test_label_with_soft_borders_has_too_many_colors(tmp_path):
    Image.fromarray(scene(40, 60)).resize((170, 150), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png .*more than 32 colors: export it as PNG, without soft borders"):
        read_label(tmp_path / "a.png")


# --- both


@pytest.mark.parametrize("orientation", [3, 6])
def test_labels_belong_to_images_as_viewers_show_them(voc_root, orientation):
    before, label = VOCData(voc_root, "train", CLASSES)[0]
    turn_image(voc_root, "image_0", orientation)
    image, same = VOCData(voc_root, "train", CLASSES)[0]
    assert np.abs(image.astype(int) - before).mean() < 5
    assert (same == label).all()


def test_label_of_unturned_image_names_the_exif_entry(voc_root):
    turn_image(voc_root, "image_0", 6)
    path = voc_root / "SegmentationClass" / "image_0.png"
    with Image.open(path) as label:
        write_label(path, np.rot90(np.asarray(label)))
    data = VOCData(voc_root, "train", CLASSES)
    for read in (data.__getitem__, data.label):
        with pytest.raises(
            UserError, match=r"image_0\.png is 40 x 48 .* 48 x 40, as its EXIF entry turns it.*exiftool"
        ):
            read(0)
