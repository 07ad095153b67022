"""Photographs with their classes painted over them; without matplotlib, so that ``deeplabv3 predict`` needs none.

Colors alone do not tell classes apart for everybody, and VOC's palette has several dark ones: every region also has an
outline and its name. ``classes`` are maps ``(H, W)`` of class indices, 255 where void; ``colors`` is ``(K, 3)`` uint8
and ``names`` has the K classes' names; a class that is called background is neither painted nor named.
"""

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import distance_transform_cdt, label, maximum_filter, minimum_filter

from deeplabv3.config import VOID

BACKGROUND = ("background", "_background_", "__background__", "bg")
"""Names of a background, labelme's among them."""


BAND = 1024
"""Rows of an image that are painted at once."""


def background_of(names: Sequence[str]) -> list[int]:
    """Indices of the classes that are a background by their names: none of a data set whose first class is a thing."""
    return [index for index, name in enumerate(names) if name.lower() in BACKGROUND]


def outlines(classes: np.ndarray) -> np.ndarray:
    """``(H, W)`` bool: pixels whose left or upper neighbor is of another class."""
    neighbors = {"footprint": [[0, 1], [1, 1]], "mode": "nearest"}
    return maximum_filter(classes, **neighbors) != minimum_filter(classes, **neighbors)


def name_places(
    classes: np.ndarray, background: Sequence[int] = (0,), smallest: float = 0.01
) -> list[tuple[int, int, int]]:
    """Positions of the classes' names, as (class, y, x): the widest place of each region, large regions first.

    A region below ``smallest``, a share of the image, gets no name unless it is the largest of its class and not below
    a sixth of that; neither does one on which a name would overlap that of a larger region.
    """
    step = -(-max(classes.shape) // 96)  # a hundred pixels are enough to find a place
    small = classes[::step, ::step]
    longest = max(small.shape)
    places: list[tuple[int, int, int]] = []
    for found, region in sorted(_regions(small, background), key=lambda pair: -pair[1].sum()):
        named = any(found == other for other, _, _ in places)
        if region.sum() < (smallest if named else smallest / 6) * small.size:
            continue
        y, x = _widest_place(region)
        if all(abs(y - b) > longest / 14 or abs(x - a) > longest / 4 for _, b, a in places):
            places.append((found, y, x))
    return [(found, y * step, x * step) for found, y, x in places]


def _regions(classes: np.ndarray, background: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    """Connected regions as (class, mask ``(H, W)``), without background and void."""
    found = []
    for index in np.setdiff1d(classes, (*background, VOID)):
        numbers, count = label(classes == index)
        found += [(int(index), numbers == number) for number in range(1, count + 1)]
    return found


def _widest_place(region: np.ndarray) -> tuple[int, int]:
    """The pixel ``(y, x)`` of a region ``(H, W)`` bool that is farthest from its border; the image's border is one."""
    distance = distance_transform_cdt(np.pad(region, 1), "taxicab")[1:-1, 1:-1]
    y, x = np.nonzero(distance == distance.max())
    return int(y[len(y) // 2]), int(x[len(x) // 2])


def overlay(image: np.ndarray, classes: np.ndarray, colors: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """``image (H, W, 3)`` with its classes painted over it, outlined and named, at the image's own size."""
    longest = max(classes.shape)
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    background = background_of(names)
    painted = np.empty_like(image)
    for top in range(0, len(image), BAND):  # indices take eight bytes a pixel
        rows = slice(top, top + BAND)
        hidden = np.isin(classes[rows], background)[..., None]
        painted[rows] = np.where(hidden, image[rows], image[rows] // 2 + (table // 2)[classes[rows]])
    edges = maximum_filter(outlines(classes), 1 + 2 * (longest // 800), mode="constant")
    # A dark rim, or the white line is lost on a bright image.
    painted[maximum_filter(edges, 1 + 2 * (longest // 400), mode="constant")] = 0
    painted[edges] = 255
    canvas = Image.fromarray(painted)
    draw = ImageDraw.Draw(canvas)
    font = _font(max(10, longest // 25), "".join(names))
    for found, y, x in name_places(classes, background):
        _, _, width, height = (side / 2 for side in draw.textbbox((0, 0), names[found], font))
        if 2 * width < classes.shape[1] and 2 * height < classes.shape[0]:
            place = (
                min(max(x, width), classes.shape[1] - width),
                min(max(y, height), classes.shape[0] - height),
            )
            draw.text(
                place, names[found], "white", font, "mm", stroke_width=max(1, longest // 400), stroke_fill="black"
            )
    return np.asarray(canvas)


def written_names(classes: Mapping[int, str]) -> list[str]:
    """The names of classes, label value to name; the value where no font on this machine has the name's letters."""
    font = _font(16, "".join(classes.values()))
    return [name if _has_letters(font, name) else str(value) for value, name in classes.items()]


@cache
def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font that has the letters of ``text``, if there is one.

    First DejaVu Sans, which comes with matplotlib; Pillow's own font where matplotlib is missing or broken.
    """
    try:
        from matplotlib.font_manager import findfont, fontManager

        first = ImageFont.truetype(findfont("DejaVu Sans"), size)
        if _has_letters(first, text):
            return first
        files = [font.fname for font in fontManager.ttflist if "LastResort" not in font.fname]  # boxes for all letters
        others = (ImageFont.truetype(file, size) for file in files)
        return next((font for font in others if _has_letters(font, text)), first)
    except Exception:  # an installation can be broken in any way
        return ImageFont.load_default(size)


def _has_letters(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> bool:
    """Return True if the font draws each letter otherwise than one that does not exist."""
    missing = bytes(font.getmask("\U0010fffd"))
    return all(bytes(font.getmask(letter)) != missing for letter in {*text} - {" "})
