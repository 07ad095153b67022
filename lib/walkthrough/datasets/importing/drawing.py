"""Shapes to pixels: polygons, run lengths, and the order in which shapes that overlap are painted.

A pixel belongs to a polygon if its center lies inside, by the even-odd rule. Pillow's ``ImageDraw.polygon`` paints the
outline besides, which adds 10 % to an object of 30 pixels; pycocotools, whose rule this is to rounding, is no
requirement of the project.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deeplabv3.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Pixels of one value: polygons ``(n, 2)`` of x and y in pixels, or a mask ``(h, w)`` with its corner."""

    value: int
    polygons: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    corner: tuple[int, int] = (0, 0)  # left and top of ``mask``

    def area(self) -> float:
        """Number of pixels; for polygons by the shoelace formula."""
        if self.mask is not None:
            return float(self.mask.sum())
        return sum(abs(_cross(points)) / 2 for points in self.polygons)

    def is_outside(self, size: tuple[int, int]) -> bool:
        """True where no bounding box of the shape's parts touches an image of ``size`` (width, height)."""
        parts = [*self.polygons]
        if self.mask is not None:
            parts.append(np.add(self.corner, [(0, 0), self.mask.shape[::-1]]))
        return all((part.max(axis=0) < 0).any() or (part.min(axis=0) > size).any() for part in parts)


def _cross(points: np.ndarray) -> float:
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def small_on_top(shapes: Sequence[Shape]) -> list[Shape]:
    """The order of painting where the export has none: large objects first, so that a cup on a table stays."""
    return sorted(shapes, key=Shape.area, reverse=True)


def paint(size: tuple[int, int], shapes: Sequence[Shape]) -> np.ndarray:
    """Label ``(H, W)`` uint8 of ``size`` (width, height): background, and the shapes over it, later over earlier.

    Shapes wholly outside of the image are a :class:`UserError`: they are not this image's.
    """
    if outside := sum(shape.is_outside(size) for shape in shapes):
        raise UserError(
            f"{outside} of its {len(shapes)} objects lie outside of the image, {size[0]} x {size[1]} pixels; "
            "correct or remove them in the labeling tool."
        )
    label = np.zeros((size[1], size[0]), dtype=np.uint8)
    for shape in shapes:
        for points in shape.polygons:
            _fill(label, points, shape.value)
        if shape.mask is not None:
            left, top = shape.corner
            x, y = max(0, left), max(0, top)
            target = label[y : top + len(shape.mask), x : left + shape.mask.shape[1]]
            target[shape.mask[y - top :, x - left :][: target.shape[0], : target.shape[1]]] = shape.value
    return label


def _fill(label: np.ndarray, points: np.ndarray, value: int) -> None:
    """Paint the pixels ``(H, W)`` whose centers are in a polygon: an odd number of its edges lies to their left."""
    height, width = label.shape
    rows = np.clip(np.ceil(points[:, 1] - 0.5), 0, height).astype(int)  # first row whose center is below a corner
    top, bottom = rows.min(), rows.max()
    crossings = np.zeros((bottom - top, width + 1), dtype=np.uint16)
    for this in range(len(points)):
        upper, lower = sorted((rows[this - 1], rows[this]))
        if upper < lower:
            (x0, y0), (x1, y1) = points[this - 1], points[this]
            centers = np.arange(upper, lower) + 0.5
            x = x0 + (centers - y0) * (x1 - x0) / (y1 - y0)
            columns = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
            crossings[np.arange(upper, lower) - top, columns] += 1
    inside = np.bitwise_xor.accumulate(crossings[:, :-1] & 1, axis=1).astype(bool)
    label[top:bottom][inside] = value


def polygon(numbers: Sequence[float], what: str) -> np.ndarray:
    """Polygon ``(n, 2)`` of a flat list x, y, x, y …; fewer than three points are a :class:`UserError`."""
    points = np.array(numbers, dtype=float).reshape(-1)
    if len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise UserError(f"{what} is no polygon of at least three points; correct it in the labeling tool.")
    return points.reshape(-1, 2)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Polygon ``(4, 2)`` of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=float)


def run_lengths(counts: Sequence[int], shape: tuple[int, int], order: str, what: str) -> np.ndarray:
    """Mask ``shape`` of run lengths, the first of them outside; ``order`` F runs down the columns, C along the rows."""
    if sum(counts) != shape[0] * shape[1] or min(counts, default=0) < 0:
        raise UserError(f"{what} has run lengths for another size than {shape[1]} x {shape[0]}; export it again.")
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return values.reshape(shape, order="F" if order == "F" else "C")
