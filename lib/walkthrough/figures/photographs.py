"""Photographs with the classes that a network found, side by side at one height."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from walkthrough.figures.charts import COLORS
from walkthrough.figures.segmentation import draw_classes

ANIMAL_COLORS = np.array(
    [(0, 0, 0), *([int(COLORS[k][i : i + 2], 16) for i in (1, 3, 5)] for k in (5, 2, 1, 4, 3, 0))], dtype=np.uint8
)
"""A color for each class of the network that comes with the library, ``(7, 3)``; VOC's own are dark."""

Panel = tuple[str, np.ndarray | None, np.ndarray | None]
"""A title, an image ``(H, W, 3)`` uint8, and class indices ``(H, W)`` to paint over it; one of the two may be None."""


def photographs(
    rows: Sequence[Sequence[Panel]], colors: np.ndarray, names: Sequence[str], text: int = 11, outlines: bool = True
) -> Figure:
    """Rows of panels of equal height; the classes' names are written with ``text`` points, and have outlines or not."""
    width = 8.8  # inches
    ratios = [[_ratio(panel) for panel in row] for row in rows]
    heights = [width / sum(row) + 0.25 for row in ratios]
    figure = plt.figure(figsize=(width, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), height_ratios=heights, squeeze=False)[:, 0]
    for part, row, widths in zip(parts, rows, ratios, strict=True):
        axes = part.subplots(1, len(row), width_ratios=widths, squeeze=False)[0]
        for axis, (title, image, classes) in zip(axes, row, strict=True):
            axis.set_title(title)
            axis.axis("off")
            if classes is None:
                axis.imshow(image)
            else:
                draw_classes(axis, classes, colors, names, image, outlines)
            for written in axis.texts:
                written.set_fontsize(text)
    return figure


def _ratio(panel: Panel) -> float:
    """Width over height."""
    _, image, classes = panel
    shown = image if image is not None else classes
    assert shown is not None
    return shown.shape[1] / shown.shape[0]
