"""The synthetic data set: drawn, not downloaded, identical on every machine, in VOC's layout.

It is made so that the paper's mechanisms matter in seconds of training:

- rings and rods are a few pixels thin, and discs and crates range from tiny to half the image (output stride,
  multi-scale inference);
- a pond is water in summer and ice in winter, which look the same; the season shows in the frame around the image,
  up to seven features of output stride 16 away on every side (deeper cascades, larger rates);
- a lamp is dark by day and lit by night, and close by the two look the same; only the sun or the moon in one of the
  other three corners tells (image-level features).

Objects overlap, backgrounds are textured, and a thin void border surrounds each object.

Only integer arithmetic and numpy's frozen ``RandomState`` draw the pixels, so that no platform rounds differently.
"""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from deeplabv3.config import VOID
from deeplabv3.data.voc import palette_png, short_hash, stated_hash
from deeplabv3.errors import UserError

DISC, RING, ROD, CRATE, SUN, MOON, DARK_LAMP, LIT_LAMP, WATER, ICE = range(1, 11)

VERSION = 3
"""Raise it, and state the new hashes, with any change of the pixels: records of other pixels are other records."""

HASHES = {
    (600, 400): "33f6db780f3ebc782bd093e05c98c0b81d3b8ca7cb21df5ad2624ca0cd3b34d2",
    (16, 6): "979f4b9dc350b36f76da59e031e922e3fc173de6fda8e79cd809c90358ad3b20",
}
"""SHA-256 of all pixels of the profiles' data sets, by their numbers of training and validation images."""

SIZES = ((256, 256), (208, 256), (256, 208), (232, 256))
"""Height and width of images; the crop of the offline profile, 257, holds each of them whole."""

LAMP_COLOR = (160, 70, 180)
SKY_COLORS = {SUN: (255, 225, 60), MOON: (80, 210, 235)}
LAMP_UNDER = {SUN: DARK_LAMP, MOON: LIT_LAMP}
FRAME_COLORS = {WATER: (250, 220, 90), ICE: (40, 50, 150)}
FRAME = 12


def make(root: Path, train: int, val: int) -> Path:
    """Write the data set of ``train`` + ``val`` images to ``root`` unless it is there already; return ``root``.

    The folder appears whole or not at all: it is written beside ``root`` and renamed.
    """
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as folder:
            partial = Path(folder) / root.name
            _write(partial, train, val)
            with suppress(OSError):  # another process may have been faster
                os.replace(partial, root)
    pixels = HASHES.get((train, val)) or stated_hash(root)
    description = root / "dataset.json"
    if not description.is_file() or description.read_text(errors="replace") != _description(train, val, pixels):
        raise UserError(f"data set {root} is damaged or of another version; delete that folder, it is drawn again.")
    return root


def fingerprint(train: int, val: int, list_name: str) -> str | None:
    """Return :func:`deeplabv3.data.voc.fingerprint` of a data set that need not be drawn; None if it is unknown."""
    pixels, names = HASHES.get((train, val)), _lists(train, val).get(list_name)
    return short_hash(pixels, list_name, *names) if pixels and names else None


def _lists(train: int, val: int) -> dict[str, list[str]]:
    names = [f"{number:06d}" for number in range(train + val)]
    return {"train": names[:train], "val": names[train:], "trainval": names}


def _description(train: int, val: int, pixels: str | None) -> str:
    """Text of ``dataset.json``; ``pixels`` is the hash of all images and labels."""
    values = {"name": "synthetic", "version": VERSION, "train": train, "val": val, "seed": 0, "sha256": pixels}
    return json.dumps(values, indent=2) + "\n"


def _write(root: Path, train: int, val: int) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    digest = hashlib.sha256()
    lists = _lists(train, val)
    for number, name in enumerate(lists["trainval"]):
        image, label = draw(number)
        digest.update(image.tobytes() + label.tobytes())
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.png", compress_level=1)
        (root / "SegmentationClass" / f"{name}.png").write_bytes(palette_png(label))
    for list_name, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        (root / "ImageSets" / "Segmentation" / f"{list_name}.txt").write_text(text)
    (root / "dataset.json").write_text(_description(train, val, digest.hexdigest()))


def draw(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image ``number``: ``(H, W, 3)`` uint8 and its label ``(H, W)`` uint8 of classes, 255 on void borders."""
    random = np.random.RandomState([seed, number])
    height, width = SIZES[random.randint(len(SIZES))]
    image = _texture(random, height, width)
    label = np.zeros((height, width), dtype=np.uint8)

    season = (WATER, ICE)[random.randint(2)]
    if random.randint(8) < 7:
        _draw_pond(random, image, label, season)
    for kind in _kinds(random):
        mask = _shape(random, kind, height, width)
        _paint(image, label, mask, kind, _surface(random, kind, height, width))
    if random.randint(8) < 7:
        _draw_lamp(random, image, label)
    for array, value in ((image, FRAME_COLORS[season]), (label, 0)):
        for edge in (array[:FRAME], array[-FRAME:], array[:, :FRAME], array[:, -FRAME:]):
            edge[:] = value
    noise = random.randint(-12, 13, size=image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8), label


def _kinds(random: np.random.RandomState) -> list[int]:
    """Two to five objects, large kinds first so that thin ones are seldom hidden."""
    kinds = [(DISC, CRATE, RING, ROD, RING, ROD)[random.randint(6)] for _ in range(random.randint(2, 6))]
    return sorted(kinds, key=(CRATE, DISC, RING, ROD).index)


def _size(random: np.random.RandomState, smallest: int, largest: int) -> int:
    """Small sizes as likely as large ones: the ratio is uniform over four octave-like steps."""
    bounds = [smallest + (largest - smallest) * step // 15 for step in (0, 1, 3, 7, 15)]
    octave = random.randint(4)
    return random.randint(bounds[octave], bounds[octave + 1] + 1)


def _shape(random: np.random.RandomState, kind: int, height: int, width: int) -> np.ndarray:
    """Mask ``(H, W)`` of one object."""
    y, x = np.mgrid[:height, :width]
    center_y, center_x = random.randint(12, height - 12), random.randint(12, width - 12)
    dy, dx = y - center_y, x - center_x
    if kind == DISC:
        return dy * dy + dx * dx <= _size(random, 4, 64) ** 2
    if kind == RING:
        radius, thickness = _size(random, 8, 52), random.randint(4, 7)
        squared = dy * dy + dx * dx
        return (squared <= radius**2) & (squared > (radius - thickness) ** 2)
    if kind == CRATE:
        return (abs(dy) <= _size(random, 4, 60)) & (abs(dx) <= _size(random, 4, 60))
    return _rod(random, dy, dx)


def _rod(random: np.random.RandomState, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """A straight line of four to six pixels through the center, in any direction."""
    across, along = ((0, 1), (1, 0), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1))[random.randint(8)]
    distance = abs(dy * along - dx * across)
    position = abs(dy * across + dx * along)
    squared = across * across + along * along
    width, half_length = random.randint(4, 7), random.randint(20, 96)
    return (4 * distance**2 <= width**2 * squared) & (position**2 <= half_length**2 * squared)


def _draw_pond(random: np.random.RandomState, image: np.ndarray, label: np.ndarray, season: int) -> None:
    """A gray pond near the middle, under everything else; its surface is the same in summer and winter."""
    height, width = label.shape
    y, x = np.mgrid[:height, :width]
    radius = random.randint(24, 81)
    center_y, center_x = height // 2 + random.randint(-40, 41), width // 2 + random.randint(-40, 41)
    dy, dx = y - center_y, x - center_x
    gray = 120 + _value_noise(random, height, width, cell=40, strength=20)
    _paint(image, label, dy * dy + dx * dx <= radius**2, season, np.repeat(gray[..., None], 3, axis=2))


def _draw_lamp(random: np.random.RandomState, image: np.ndarray, label: np.ndarray) -> None:
    """A lamp near one corner, and in another the sun or the moon, which tells whether it is dark or lit."""
    height, width = label.shape
    sky = (SUN, MOON)[random.randint(2)]
    y, x = np.mgrid[:height, :width]
    if random.randint(2):
        y = y[::-1]
    if random.randint(2):
        x = x[:, ::-1]

    radius = random.randint(20, 41)
    dy, dx = y - random.randint(radius, height // 3), x - random.randint(radius, width // 3)
    stripes = 24 * (((x + y) // 3) % 2)[..., None]
    _paint(image, label, abs(dy) + abs(dx) <= radius, LAMP_UNDER[sky], np.array(LAMP_COLOR) + stripes)

    radius = random.randint(22, 36)
    margin = FRAME + 2 + radius
    above, beside = ((False, False), (True, False), (False, True))[random.randint(3)]
    dy, dx = y - (margin if above else height - margin), x - (margin if beside else width - margin)
    surface = np.broadcast_to(np.array(SKY_COLORS[sky]), image.shape)
    _paint(image, label, dy * dy + dx * dx <= radius**2, sky, surface)


def _paint(image: np.ndarray, label: np.ndarray, mask: np.ndarray, kind: int, surface: np.ndarray) -> None:
    """Put an object on top, and a void border of one pixel around it."""
    image[mask] = surface[mask]
    padded = np.pad(mask, 1)
    neighbors = padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]
    label[np.logical_or.reduce(neighbors)] = VOID
    label[mask] = kind


def _surface(random: np.random.RandomState, kind: int, height: int, width: int) -> np.ndarray:
    """Color ``(H, W, 3)`` of an object: discs and crates share their reds, only a crate's stripes tell them apart."""
    base = random.randint(30, 110, size=3)
    base[{DISC: 0, CRATE: 0, RING: 1, ROD: 2}[kind]] = random.randint(170, 240)
    if kind != CRATE:
        return np.broadcast_to(base, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    stripes = (((x, y)[random.randint(2)] // 4) % 2)[..., None]
    return base - stripes * random.randint(50, 90)


def _texture(random: np.random.RandomState, height: int, width: int) -> np.ndarray:
    """A soft background ``(H, W, 3)``: coarse and fine value noise over one color."""
    base = random.randint(80, 160) + random.randint(-20, 21, size=3)
    coarse = _value_noise(random, height, width, cell=40, strength=40)
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
