"""Masks whose pixels are colors or gray values: reading them, and which color is which class."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from deeplabv3.config import VOC_CLASSES, VOID
from deeplabv3.data.reading import MANY_COLORS, palette, python_line, read_label_and_colors, readable
from deeplabv3.errors import UserError
from walkthrough.datasets.importing.export import BACKGROUND, NAMES_OF_BACKGROUND, NAMES_OF_VOID

NUMBERS = 64
"""Gray values below this one are numbers of classes; larger ones are so only where most numbers below them occur."""

_KEYS = np.array((1 << 16, 1 << 8, 1))
_GRAYS = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)  # (256, 3)


@dataclass(frozen=True)
class Mask:
    """A decoded mask: values ``(H, W)`` with their colors ``(256, 3)``, or pixels ``(H, W, 3)`` of many colors."""

    values: np.ndarray | None
    colors: np.ndarray

    def keys(self, in_color: bool) -> np.ndarray:
        """``(H, W)`` int: gray values and numbers of colors, or colors as 0xRRGGBB."""
        if self.values is None:
            return self.colors.astype(int) @ _KEYS
        return (self.colors.astype(int) @ _KEYS)[self.values] if in_color else self.values.astype(int)


def read_mask(path: Path) -> Mask:
    """Read a mask of any kind but JPEG, which does not keep colors: that is a :class:`UserError`."""
    with readable(path), Image.open(path) as image:
        many = image.mode in ("RGB", "RGBA", "LA") and image.format not in ("JPEG", "MPO")
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB")) if many else None
    if pixels is not None and (pixels != pixels[..., :1]).any():
        return Mask(None, pixels)
    if pixels is not None:
        return Mask(pixels[..., 0], _GRAYS)
    values, colors = read_label_and_colors(path)  # refuses JPEG, and says what to do
    table = _GRAYS.copy()
    if colors is not None:
        table[: len(colors)] = colors[:256]
    return Mask(values, table)


def count(path: Path) -> tuple[bool, Counter[int], Counter[int]]:
    """Whether a mask is in color, and its pixels by values and by colors; soft borders are a :class:`UserError`."""
    mask = read_mask(path)
    keys, numbers = np.unique(mask.keys(in_color=True), return_counts=True)
    if mask.values is None and len(keys) > MANY_COLORS:
        raise UserError(f"mask {path} has {len(keys)} colors; export it as PNG, without soft borders.")
    by_color = Counter(dict(zip(keys.tolist(), numbers.tolist(), strict=True)))
    if mask.values is None:
        return True, Counter(), by_color
    counts = np.bincount(mask.values.ravel(), minlength=256)
    between = counts[1:255]
    if np.count_nonzero(between) > 8 and between.sum() < 0.05 * counts.sum():
        line = python_line(path, "np.uint8((a if a.ndim == 2 else a[..., 0]) > 127)")
        raise UserError(f"mask {path} is black and white with soft borders; make it 0 and 1: {line}")
    return False, Counter(dict(enumerate(counts.tolist()))) - Counter(), by_color


def guess(keys: list[int], in_color: bool, names: list[str]) -> tuple[dict[int, str], dict[int, int]]:
    """Key to class name, and, where keys stand for numbers of classes, key to number.

    ``names`` are those of the values from 0 on, where the export has a file with them.
    """
    if in_color:
        voc = {color: value for value, color in enumerate((palette().astype(int) @ _KEYS).tolist())}
        known = dict(enumerate(VOC_CLASSES)) | {VOID: "void"}
        if all(voc.get(key) in known for key in keys):
            return {key: known[voc[key]] for key in keys}, {key: voc[key] for key in keys}
    elif _are_numbers(keys):
        known = {0: "background"} | dict(enumerate(names)) | {VOID: "void"}
        return {key: known.get(key, f"class_{key}") for key in keys}, {key: key for key in keys}
    shown = [key for key in keys if key != 0]
    numbered = {key: f"class_{number}" for number, key in enumerate(shown, start=1)}
    return {0: "background"} | (numbered if len(shown) > 1 else dict.fromkeys(shown, "object")), {}


def _are_numbers(keys: list[int]) -> bool:
    """True for gray values that are numbers of classes, 255 being void: 0, 1, 2, 255, and not 0, 255 or 0, 128, 255."""
    others = [key for key in keys if key not in (0, VOID)]
    return bool(others) and (max(others) < NUMBERS or max(others) <= 3 * len(others))


def parse_color(text: str) -> int:
    """A key of ``255``, ``255,0,0`` or ``#ff0000``; something else is a :class:`UserError`."""
    parts = [int(part) for part in text.split(",")] if re.fullmatch(r"\d+(,\d+,\d+)?", text) else []
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16)
    if not parts or max(parts) > 255:
        raise UserError(f"--color {text!r} should be a gray value such as 255, or a color such as 255,0,0.")
    return parts[0] if len(parts) == 1 else int(np.array(parts) @ _KEYS)


def show(key: int, in_color: bool) -> str:
    """Text of a key: ``255`` or ``255,0,0``."""
    return ",".join(str(key >> shift & 255) for shift in (16, 8, 0)) if in_color else str(key)


def label_values(table: Mapping[int, str], numbers: Mapping[int, int]) -> tuple[dict[int, int], dict[int, str]]:
    """Key to label value, and label value to name: the key's number where it has one, else 0 or the next from 1 on.

    Numbers are given up where another one than 0 is the background.
    """
    if any(name.lower() in NAMES_OF_BACKGROUND and numbers.get(key) for key, name in table.items()):
        numbers = {}
    values: dict[int, int] = {}
    classes: dict[int, str] = {}
    for key, name in table.items():
        value = next((value for value, other in classes.items() if other == name), None)  # merged with an earlier one
        if name.lower() in NAMES_OF_VOID:
            value = VOID
        elif value is None:
            first = BACKGROUND if name.lower() in NAMES_OF_BACKGROUND else max([0, *classes]) + 1
            value = numbers.get(key, first)
            classes[value] = name
        values[key] = value
    return values, dict(sorted(classes.items()))


def as_label(path: Path, values: Mapping[int, int], in_color: bool) -> Callable[[tuple[int, int]], np.ndarray]:
    """Function that reads a mask as a label of the given width and height; a key without a value is an error."""
    keys = np.array(sorted(values))
    targets = np.array([values[key] for key in keys.tolist()], dtype=np.uint8)

    def label(size: tuple[int, int]) -> np.ndarray:
        found = read_mask(path).keys(in_color)
        if found.shape != size[::-1]:
            raise UserError(
                f"mask {path} is {found.shape[1]} x {found.shape[0]} pixels and its image {size[0]} x {size[1]}; "
                "they must have one size."
            )
        places = np.searchsorted(keys, found).clip(max=len(keys) - 1)
        if (unknown := keys[places] != found).any():
            raise UserError(f"mask {path} has the color {show(int(found[unknown][0]), in_color)}, which has no class.")
        return targets[places]

    return label
