"""Reading of image and label files: one function each, for training, evaluation, checks and prediction alike.

Both turn a file as its EXIF entry says, as viewers and labeling tools do. What they refuse is a :class:`UserError` that
names the file and the line that converts it.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from deeplabv3.errors import UserError
from deeplabv3.machine import available_memory

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif")
"""Suffixes of images, in lower case."""

UNREADABLE = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw")
"""Suffixes of images that have to be converted first."""

TO_8_BITS = "np.uint8(255 * np.clip((a - LOW) / (HIGH - LOW), 0, 1))"
MANY_COLORS = 32
"""An RGB label with more colors has soft borders, or is a photograph."""

ENOUGH_LABELS = 200
"""So many labels are searched for colors, for the line that turns all of them into palette PNGs."""

ORIENTATION = 0x0112
"""Number of the EXIF entry that says how an image is turned."""

LARGE, PIXEL_BYTES = 50_000_000, 10
"""Pixels from which on an image must fit into the free memory, with Pillow's and numpy's copies of each pixel."""

Image.MAX_IMAGE_PIXELS = None  # aerial images have more than Pillow expects
warnings.filterwarnings("ignore", module="PIL")  # of oddities in files that can be read all the same


@cache
def palette() -> np.ndarray:
    """VOC's 256 colors, ``(256, 3)`` uint8: the bits of the class number spread over red, green and blue."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    for label in range(256):
        for bit in range(8):
            for channel in range(3):
                colors[label, channel] |= ((label >> (3 * bit + channel)) & 1) << (7 - bit)
    colors.setflags(write=False)  # all callers share it
    return colors


def read_image(path: Path) -> np.ndarray:
    """Image of any format as viewers show it, ``(H, W, 3)`` uint8.

    Gray, palette and CMYK become RGB; transparency lies on white; of 16 bits the upper 8 count, whatever the image's
    own range; of an animation the first frame counts.
    """
    with _opened(path) as image:
        _load_turned(image)
        if image.mode == "F" or image.mode.startswith("I"):
            return _gray(np.asarray(image), path, image.format == "PNG")
        if image.has_transparency_data:
            opaque = image.convert("RGBA")
            return np.asarray(Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque).convert("RGB"))
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _gray(values: np.ndarray, path: Path, is_png: bool) -> np.ndarray:
    """Gray values ``(H, W)`` of 16 bits as an image ``(H, W, 3)`` uint8."""
    if values.dtype.kind == "f" or (values.itemsize > 2 and not is_png) or values.min() < 0 or values.max() > 0xFFFF:
        raise UserError(
            f"image {path} has pixels of {8 * values.itemsize} bits, which have no fixed white; choose a LOW and a "
            f"HIGH for all of your images and convert them: {python_line(path, TO_8_BITS)}"
        )
    if values.max() < 0x2000:  # 12 bits and fewer
        text = f"16-bit images in {path.parent} use few of 65536 levels and are nearly black; choose a LOW and a HIGH: "
        warnings.warn(text + python_line(path, TO_8_BITS), stacklevel=2)
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


def read_label(path: Path) -> np.ndarray:
    """Values ``(H, W)`` uint8 of a label file."""
    return read_label_and_colors(path)[0]


def read_label_and_colors(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Values ``(H, W)`` uint8 of a label file and its palette, None where it is gray.

    The values of a palette image are the numbers of its colors, those of a gray one of 1, 2, 4, 8 or 16 bits its gray
    levels.
    """
    with _opened(path) as image:
        # Pillow stretches grays of 2 and 4 bits to 8.
        layout = re.search("L;([24])", str(image.tile))
        stretch = {"2": 85, "4": 17}[layout[1]] if layout else 1
        _load_turned(image)
        if image.format in ("JPEG", "MPO") or image.mode not in ("1", "L", "P", "I", "I;16", "I;16L", "I;16B"):
            _refuse_label(image, path)
        values = np.asarray(image) if stretch == 1 else np.asarray(image) // stretch
        colors = image.getpalette() if image.mode == "P" else None
    if values.dtype.itemsize > 1 and not 0 <= values.min() <= values.max() <= 255:
        wrong = int(values[(values < 0) | (values > 255)][0])
        raise UserError(
            f"label {path} holds the value {wrong}, and labels take 0 to 255; give its classes such numbers, or make "
            f"all others void: {python_line(path, 'np.uint8(np.where((a < 0) | (a > 255), 255, a))')}"
        )
    return values.astype(np.uint8, copy=False), None if colors is None else np.array(colors, np.uint8).reshape(-1, 3)


def _refuse_label(image: Image.Image, path: Path) -> NoReturn:
    """Say how to turn another kind of image into a label."""
    if image.format in ("JPEG", "MPO"):
        raise UserError(
            f"label {path} is a JPEG, which does not keep class numbers; export it as PNG, or, if it is black and "
            f"white, make it 0 and 1: {python_line(path, 'np.uint8((a if a.ndim == 2 else a[..., 0]) > 127)')}"
        )
    what = f"label {path} is a {image.mode} image, and labels hold class numbers"
    if image.mode == "F":
        raise UserError(f"{what}; write them as such: {python_line(path, 'np.uint8(np.round(a))')}")
    pixels = np.asarray(image.convert("RGB"))
    if (pixels == pixels[..., :1]).all():
        line = python_line(path, "a if a.ndim == 2 else a[..., 0]")
        raise UserError(f"{what}; its channels are equal, so keep one: {line}")
    colors: list[tuple] = [tuple(color) for _, color in Image.fromarray(pixels).getcolors(MANY_COLORS) or []]  # type: ignore[arg-type]
    if not colors:
        raise UserError(f"{what}; it has more than {MANY_COLORS} colors: export it as PNG, without soft borders.")
    colors = sorted({*colors, *_colors_in(path.parent, path.suffix, path.parent.stat().st_mtime_ns)})
    values = [np.flatnonzero((palette() == color).all(axis=1)) for color in colors]
    call, known = f"write_values({str(path.parent)!r}", all(map(len, values))
    if known:
        hint = f"its colors are VOC's of {', '.join(str(value[0]) for value in sorted(values))}: "
    else:
        hint = "put the colors in the order of the values that they stand for, which is not known here, and run "
        call = f"{call}, {colors}"
    raise UserError(f'{what}; {hint}python -c "from deeplabv3.data.voc import write_values; {call})"')


@lru_cache(maxsize=1)
def _colors_in(folder: Path, suffix: str, _changed: int) -> set[tuple]:
    """Colors of a folder's labels, of which one may lack a class; they are looked for once, not for every label."""
    found: set[tuple] = set()
    for path in sorted(folder.glob(f"*{suffix}"))[:ENOUGH_LABELS]:
        with suppress(OSError), Image.open(path) as label:
            found.update(color for _, color in label.convert("RGB").getcolors(MANY_COLORS) or [])  # type: ignore[misc]
    return found


def python_line(path: Path, expression: str) -> str:
    """A shell's line that writes ``expression``, of pixels ``a``, as PNGs for all files of a kind beside ``path``."""
    return (
        'python -c "import numpy as np; from pathlib import Path; from PIL import Image; '
        f"[Image.fromarray({expression}).save(f.with_suffix('.png')) "
        f"for f in Path({str(path.parent)!r}).glob('*{path.suffix}') for a in [np.asarray(Image.open(f))]]\""
    )


def orientation(image: Image.Image) -> int:
    """An opened image's EXIF orientation: 1 if it is not turned, 5 and above if its sides are exchanged."""
    with suppress(Exception):  # damaged EXIF data can fail in any way, and the image itself is whole
        return int(image.getexif().get(ORIENTATION, 1))
    return 1


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as :func:`read_image` returns it, by the header of its file."""
    with readable(path), Image.open(path) as image:
        return turned_size(image)


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once it is turned."""
    exchanged = orientation(image) > 4 and image.format != "TIFF"  # whose size Pillow has exchanged already
    return (image.height, image.width) if exchanged else image.size


@contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Open an image file; one that does not fit into memory, as a damaged header may say, is a :class:`UserError`."""
    with readable(path), Image.open(path) as image:
        pixels = image.width * image.height
        if pixels > LARGE and pixels * PIXEL_BYTES > available_memory():
            raise MemoryError
        yield image


def _load_turned(image: Image.Image) -> None:
    image.load()
    with suppress(Exception):  # as above
        ImageOps.exif_transpose(image, in_place=True)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of an image decoder, which can fail in any way, into a :class:`UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"image {path} takes more memory than there is; make it smaller, or cut it up.") from error
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError) and path.is_file() and path.stat().st_size
        hint = f"replace the file, or {conversion(path)}" if unknown else "replace the file."  # if it is damaged
        raise UserError(f"image {path} cannot be read ({error}); {hint}") from error


def conversion(path: Path) -> str:
    """Shell line that converts the files of a kind that lie beside ``path``."""
    return f"convert such files with ImageMagick: magick mogrify -format png '{path.parent}/*{path.suffix}'"
