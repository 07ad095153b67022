"""The embedded data set: drawn, not downloaded, identical on every machine, in VOC's layout.

It is made so that the paper's mechanisms matter in seconds of training. Rings and rods are two or three pixels thin and
discs and crates range from tiny to half the picture (output stride, ASPP, multi-scale inference). A lamp is "lit" or
"dark" only by a small signal in the far corner of the picture, warm or cold; close by the two look the same (large rates,
image-level features). Objects overlap, backgrounds are textured, and a thin void border surrounds each object.

Only integer arithmetic and numpy's frozen ``RandomState`` draw the pixels, so that no platform rounds differently.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from deeplabv3.data.voc import VOID, palette
from deeplabv3.errors import UserError

CLASSES = ("background", "disc", "ring", "rod", "crate", "lit lamp", "dark lamp")
DISC, RING, ROD, CRATE, LIT_LAMP, DARK_LAMP = range(1, 7)

VERSION = 1
"""Raise it with any change of the pixels: records of other pixels are other records."""

SIZES = ((96, 96), (72, 96), (96, 72), (80, 96))
"""Height and width of pictures; the crop of the offline profile, 97, holds each of them whole."""

LAMP_COLOUR = (188, 188, 96)
SIGNALS = {LIT_LAMP: (250, 120, 40), DARK_LAMP: (40, 130, 250)}
SIGNAL_SIZE = 8


def make(root: Path, train: int, val: int, seed: int = 0) -> Path:
    """Write the data set of ``train`` + ``val`` pictures below ``root`` unless it is there already; returns ``root``.

    The folder appears whole or not at all: it is written beside ``root`` and renamed.
    """
    description = {"name": "embedded", "version": VERSION, "train": train, "val": val, "seed": seed}
    if (root / "dataset.json").is_file():
        found = json.loads((root / "dataset.json").read_text())
        if {key: found.get(key) for key in description} == description:
            return root
        raise UserError(f"data set {root} was made by another version; delete that folder, it is drawn again.")
    root.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        description["sha256"] = _write(partial, train, val, seed)
        (partial / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")
        os.replace(partial, root)
    except OSError:
        if not (root / "dataset.json").is_file():  # a process beside us may have been faster with the same folder
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _write(root: Path, train: int, val: int, seed: int) -> str:
    lists = {"train": range(train), "val": range(train, train + val), "trainval": range(train + val)}
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    digest = hashlib.sha256()
    colours = palette().flatten().tolist()
    for number in range(train + val):
        picture, label = draw(number, seed)
        digest.update(picture.tobytes() + label.tobytes())
        Image.fromarray(picture).save(root / "JPEGImages" / f"{number:06d}.png", compress_level=1)
        palette_image = Image.fromarray(label, mode="P")
        palette_image.putpalette(colours)
        palette_image.save(root / "SegmentationClass" / f"{number:06d}.png")
    for name, numbers in lists.items():
        text = "".join(f"{number:06d}\n" for number in numbers)
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(text)
    return digest.hexdigest()


def draw(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Picture ``number``: ``(H, W, 3)`` uint8 and its label ``(H, W)`` uint8 of classes, 255 on void borders."""
    random = np.random.RandomState([seed, number])
    height, width = SIZES[random.randint(len(SIZES))]
    picture = _texture(random, height, width)
    label = np.zeros((height, width), dtype=np.uint8)

    for kind in _kinds(random):
        mask = _shape(random, kind, height, width)
        _paint(picture, label, mask, kind, _surface(random, kind, height, width))
    if random.randint(3):  # two pictures in three have a lamp
        _draw_lamp(random, picture, label)
    noise = random.randint(-12, 13, size=picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8), label


def _kinds(random: np.random.RandomState) -> list[int]:
    """One to four objects, large kinds first so that thin ones are seldom hidden."""
    kinds = [(DISC, RING, ROD, CRATE)[random.randint(4)] for _ in range(random.randint(1, 5))]
    return sorted(kinds, key=(CRATE, DISC, RING, ROD).index)


def _size(random: np.random.RandomState, smallest: int, largest: int) -> int:
    """Small sizes as likely as large ones: the ratio is uniform over four octave-like steps."""
    bounds = [smallest + (largest - smallest) * step // 15 for step in (0, 1, 3, 7, 15)]
    octave = random.randint(4)
    return random.randint(bounds[octave], bounds[octave + 1] + 1)


def _shape(random: np.random.RandomState, kind: int, height: int, width: int) -> np.ndarray:
    """Mask ``(H, W)`` of one object."""
    y, x = np.mgrid[:height, :width]
    centre_y, centre_x = random.randint(8, height - 8), random.randint(8, width - 8)
    dy, dx = y - centre_y, x - centre_x
    if kind == DISC:
        return dy * dy + dx * dx <= _size(random, 4, 36) ** 2
    if kind == RING:
        radius, thickness = _size(random, 6, 30), random.randint(2, 4)
        squared = dy * dy + dx * dx
        return (squared <= radius**2) & (squared > (radius - thickness) ** 2)
    if kind == CRATE:
        return (abs(dy) <= _size(random, 4, 32)) & (abs(dx) <= _size(random, 4, 32))
    return _rod(random, dy, dx)


def _rod(random: np.random.RandomState, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """A straight line of two or three pixels through the centre, in any direction."""
    across, along = ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))[random.randint(8)]
    distance = abs(dy * along - dx * across)
    position = abs(dy * across + dx * along)
    squared = across * across + along * along
    twice_width, half_length = random.randint(2, 4), random.randint(10, 46)
    return (4 * distance**2 <= twice_width**2 * squared) & (position**2 <= half_length**2 * squared)


def _draw_lamp(random: np.random.RandomState, picture: np.ndarray, label: np.ndarray) -> None:
    """A lamp, lit or dark alike, near one corner and the signal that tells which in the opposite one."""
    height, width = label.shape
    kind = (LIT_LAMP, DARK_LAMP)[random.randint(2)]
    radius = random.randint(8, 15)
    bottom, right = random.randint(2), random.randint(2)
    centre_y = random.randint(radius, height // 3)
    centre_x = random.randint(radius, width // 3)
    centre_y = height - 1 - centre_y if bottom else centre_y
    centre_x = width - 1 - centre_x if right else centre_x
    y, x = np.mgrid[:height, :width]
    mask = abs(y - centre_y) + abs(x - centre_x) <= radius
    surface = np.broadcast_to(np.array(LAMP_COLOUR), picture.shape) + 24 * (((x + y) // 3) % 2)[..., None]
    _paint(picture, label, mask, kind, surface)

    top = 2 if bottom else height - SIGNAL_SIZE - 2
    left = 2 if right else width - SIGNAL_SIZE - 2
    corner = (slice(top, top + SIGNAL_SIZE), slice(left, left + SIGNAL_SIZE))
    picture[corner] = SIGNALS[kind]
    label[corner] = 0


def _paint(picture: np.ndarray, label: np.ndarray, mask: np.ndarray, kind: int, surface: np.ndarray) -> None:
    """Put an object on top, and a void border of one pixel around it."""
    picture[mask] = surface[mask]
    grown = mask.copy()
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        shifted = np.roll(mask, step, axis)
        edge = [slice(None), slice(None)]
        edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
        shifted[tuple(edge)] = False
        grown |= shifted
    label[grown] = VOID
    label[mask] = kind


def _surface(random: np.random.RandomState, kind: int, height: int, width: int) -> np.ndarray:
    """Colour ``(H, W, 3)`` of an object: any hue, since shape and texture tell the classes apart, not colour."""
    base = random.randint(40, 216, size=3)
    if kind == CRATE:
        y, x = np.mgrid[:height, :width]
        stripes = (((x, y)[random.randint(2)] // 4) % 2)[..., None]
        return base + stripes * random.randint(30, 60) * (1 if base.sum() < 384 else -1)
    return np.broadcast_to(base, (height, width, 3))


def _texture(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """A soft background ``(H, W, 3)``: coarse and fine value noise over one colour."""
    base = random.randint(70, 186, size=3)
    coarse = _value_noise(random, height, width, cell=24, strength=40)
    fine = _value_noise(random, height, width, cell=6, strength=24)
    return base + (coarse + fine)[..., None]


def _value_noise(random: np.random.RandomState, height: int, width: int, cell: int, strength: int) -> np.ndarray:
    """Random values on a grid of ``cell`` pixels, interpolated linearly in whole numbers, ``(H, W)``."""
    lattice = random.randint(-strength, strength + 1, size=(height // cell + 2, width // cell + 2))
    y, fy = np.divmod(np.arange(height), cell)
    x, fx = np.divmod(np.arange(width), cell)
    fy = fy[:, None]
    rows = lattice[y] * (cell - fy) + lattice[y + 1] * fy
    return (rows[:, x] * (cell - fx) + rows[:, x + 1] * fx) // (cell * cell)
