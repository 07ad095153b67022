"""Images of segmentations.

``classes`` are maps ``(H, W)`` of class indices, 255 where void; ``colors`` is ``(K, 3)`` uint8 and ``names`` has the K
classes' names; a class that is called background is neither painted over an image nor named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from deeplabv3.config import VOID
from walkthrough.figures.charts import BLUE, ORANGE
from walkthrough.figures.overlay import background_of, name_places

VOID_COLOR = (160, 160, 160)
REPAIRED, BROKEN = BLUE, ORANGE

SYNTHETIC_COLORS = np.array(
    [(45, 45, 45), (214, 39, 40), (44, 160, 44), (31, 119, 180), (255, 127, 14), (255, 225, 25), (120, 210, 250),
     (125, 60, 165), (250, 160, 240), (0, 128, 128), (255, 255, 255)],
    np.uint8,
)  # fmt: skip
"""A color ``(3,)`` for each class of the synthetic data set, in which VOC's first ones are hard to tell apart."""


@dataclass(frozen=True)
class Example:
    """An image ``(H, W, 3)`` with a name, its true and its predicted classes ``(H, W)``."""

    name: str
    image: np.ndarray
    ground_truth: np.ndarray
    prediction: np.ndarray


def draw_classes(
    axis: Axes,
    classes: np.ndarray,
    colors: np.ndarray,
    names: Sequence[str],
    image: np.ndarray | None = None,
    outlines: bool = True,
) -> None:
    """Draw a class map into ``axis`` with names.

    Args:
        axis: to draw into.
        classes: class indices ``(H, W)``, 255 where void.
        colors: of the classes, ``(K, 3)``.
        names: of the classes.
        image: ``(H, W, 3)`` that lies under the classes; None: nothing does.
        outlines: white lines around the classes, which hide a narrow rim of void.
    """
    shown, background = _painted(classes, colors), background_of(names)
    if image is not None:
        shown = image // 2 + shown // 2
        hidden = np.isin(classes, background)
        shown[hidden] = image[hidden]
    axis.imshow(shown, interpolation="nearest")
    for found in np.setdiff1d(classes, (*background, VOID)):
        if outlines and min(classes.shape) > 1:
            axis.contour(classes == found, [0.5], colors="white", linewidths=0.7)
    for found, y, x in name_places(classes, background):
        # Near the rim a centered name would reach out of the image.
        across, down = x / classes.shape[1], y / classes.shape[0]
        ha = "left" if across < 0.15 else "right" if across > 0.85 else "center"
        va = "top" if down < 0.05 else "bottom" if down > 0.95 else "center"
        text = axis.text(x, y, names[found], fontsize=6.5, color="white", ha=ha, va=va)
        text.set_path_effects([withStroke(linewidth=1.6, foreground="black")])


def _painted(classes: np.ndarray, colors: np.ndarray) -> np.ndarray:
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    table[VOID] = VOID_COLOR
    return table[classes]


def error_map(image: np.ndarray, ground_truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8: the image in pale gray where the prediction is right, orange where wrong, void gray."""
    shown = _pale(image)
    shown[ground_truth == VOID] = VOID_COLOR
    shown[(prediction != ground_truth) & (ground_truth != VOID)] = _rgb(BROKEN)
    return shown


def change_map(image: np.ndarray, ground_truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``(H, W, 3)`` uint8: blue where only ``after`` is right, orange where only ``before`` is, else pale gray."""
    shown = _pale(image)
    shown[(after == ground_truth) & (before != ground_truth)] = _rgb(REPAIRED)
    shown[(before == ground_truth) & (after != ground_truth)] = _rgb(BROKEN)
    return shown


def _pale(image: np.ndarray) -> np.ndarray:
    gray = image.mean(axis=2, keepdims=True) / 255
    return np.repeat((255 * (0.8 + 0.2 * gray)).astype(np.uint8), 3, axis=2)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def _grid(rows: Sequence[Sequence[np.ndarray]], columns: int, size: float, extra: float) -> tuple[Figure, np.ndarray]:
    """Axes for rows of images, ``columns`` each; a row is as high as its tallest image at the common width."""
    heights = [size * min(1.3, max(image.shape[0] / image.shape[1] for image in row)) for row in rows]
    heights = [max(height, 0.3 * size) for height in heights]
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(size * columns, sum(heights) + extra),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def _drop_colliding_names(figure: Figure) -> None:
    """Remove each name that overlaps one of a larger region in the same axes, at the sizes that the layout gives."""
    figure.draw_without_rendering()
    for axis in figure.axes:
        kept: list[Bbox] = []
        for text in list(axis.texts):  # large regions come first
            box = text.get_window_extent().padded(1)  # for the outline of its letters
            if any(box.overlaps(other) for other in kept):
                text.remove()
            else:
                kept.append(box)


def _class_legend(figure: Figure, seen: Sequence[int], colors: np.ndarray, names: Sequence[str], *more: Patch) -> None:
    patches = [Patch(facecolor=tuple(colors[k] / 255), edgecolor="black", linewidth=0.5, label=names[k]) for k in seen]
    figure.legend(handles=[*patches, *more], loc="outside lower center", ncols=6)


def comparison(examples: Sequence[Example], colors: np.ndarray, names: Sequence[str], size: float = 1.7) -> Figure:
    """One row an example: image, ground truth, prediction and errors, with a legend of the classes that occur."""
    seen = sorted(
        set().union(*(np.unique([*np.unique(e.ground_truth), *np.unique(e.prediction)]) for e in examples)) - {VOID}
    )
    figure, axes = _grid([[example.image] for example in examples], 4, size, 0.6)
    for row, example in zip(axes, examples, strict=True):
        row[0].imshow(example.image, interpolation="nearest")
        row[0].set_ylabel(example.name)
        draw_classes(row[1], example.ground_truth, colors, names)
        draw_classes(row[2], example.prediction, colors, names)
        row[3].imshow(error_map(example.image, example.ground_truth, example.prediction), interpolation="nearest")
    for axis, title in zip(axes[0], ("image", "ground truth", "prediction", "errors (orange)"), strict=True):
        axis.set_title(title)
    void = Patch(facecolor=tuple(np.array(VOID_COLOR) / 255), edgecolor="black", linewidth=0.5, label="void")
    _class_legend(figure, seen, colors, names, void)
    _drop_colliding_names(figure)
    return figure


def class_maps(
    rows: Mapping[str, Sequence[np.ndarray]],
    titles: Sequence[str],
    colors: np.ndarray,
    names: Sequence[str],
    size: float = 1.4,
) -> Figure:
    """Images ``(H, W, 3)`` and class maps ``(H, W)``, one named row an image and one title a column, with a legend."""
    figure, axes = _grid(list(rows.values()), len(titles), size, 0.6)
    maps = [shown for row in rows.values() for shown in row if shown.ndim == 2]
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, shown in zip(line, row, strict=True):
            axis.imshow(shown if shown.ndim == 3 else _painted(shown, colors), interpolation="nearest")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    seen = sorted(set().union(*map(np.unique, maps)) - {VOID})
    _class_legend(figure, seen, colors, names)
    return figure


def changes(
    rows: Mapping[str, tuple[Example, np.ndarray]], colors: np.ndarray, names: Sequence[str], size: float = 1.7
) -> Figure:
    """Pixels that a strategy repairs and breaks, one named row an image.

    A row has an example, which holds the prediction before, and the class map after. Below the last map are the numbers
    of pixels repaired and broken; void counts as neither.
    """
    figure, axes = _grid([[before.image] for before, _ in rows.values()], 5, size, 0.6 + 0.2 * len(rows))
    for line, (name, (before, after)) in zip(axes, rows.items(), strict=True):
        image, ground_truth, prediction = before.image, before.ground_truth, before.prediction
        line[0].imshow(image, interpolation="nearest")
        line[0].set_ylabel(name)
        for axis, classes in zip(line[1:], (ground_truth, prediction, after), strict=False):
            draw_classes(axis, classes, colors, names)
        line[4].imshow(change_map(image, ground_truth, prediction, after), interpolation="nearest")
        repaired = ((after == ground_truth) & (prediction != ground_truth)).sum()
        broken = ((prediction == ground_truth) & (after != ground_truth)).sum()
        line[4].set_xlabel(f"+{repaired}  −{broken}", fontsize=8)
    for axis, title in zip(axes[0], ("image", "ground truth", "before", "after", "change"), strict=True):
        axis.set_title(title)
    patches = [Patch(color=REPAIRED, label="repaired"), Patch(color=BROKEN, label="broken")]
    figure.legend(handles=patches, loc="outside lower center", ncols=2)
    _drop_colliding_names(figure)
    return figure


def gallery(
    rows: Mapping[str, Sequence[Example]], colors: np.ndarray, names: Sequence[str], size: float = 1.5
) -> Figure:
    """Fig. 6: pairs of an image and its prediction, several in a named row."""
    images = [[example.image for example in row] for row in rows.values()]
    figure, axes = _grid(images, 2 * max(map(len, images)), size, 0.2 * len(rows))
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for (left, right), example in zip(line.reshape(-1, 2), row, strict=False):
            left.imshow(example.image, interpolation="nearest")
            draw_classes(right, example.prediction, colors, names, example.image)
            right.set_title(example.name, fontsize=8)
    _drop_colliding_names(figure)
    return figure


def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Confusion matrix ``counts (K, K)``, rows the ground truth, in percent of the true class's pixels.

    The diagonal (right) is left white, so that mistakes stand out; numbers below 1 are not written.
    """
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(names), dtype=bool), np.nan, shares)
    side = 1.6 + 0.36 * len(names)
    figure, axis = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    strongest = max(float(np.nanmax(wrong, initial=0)), 1.0)
    axis.imshow(wrong, cmap="Oranges", vmin=0, vmax=strongest)
    for row, column in np.argwhere(shares >= 1):
        color = "#888888" if row == column else "white" if shares[row, column] > 0.6 * strongest else "black"
        axis.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="predicted", ylabel="ground truth", title="percent of the pixels of a row")
    axis.spines[:].set_visible(False)
    return figure


def photo(image: np.ndarray, classes: np.ndarray, colors: np.ndarray, names: Sequence[str]) -> Figure:
    """An image, the same with its classes over it, and each class's share of the pixels."""
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), width_ratios=(1.2, 1.2, 1), layout="constrained")
    axes[0].imshow(image, interpolation="nearest")
    draw_classes(axes[1], classes, colors, names, image)
    for axis in axes[:2]:
        axis.axis("off")
    shares = 100 * np.bincount(classes.ravel(), minlength=len(names)) / classes.size
    order = [k for k in np.argsort(-shares) if shares[k] > 0]
    bars = axes[2].barh(range(len(order)), shares[order], color=colors[order] / 255, edgecolor="black", linewidth=0.5)
    axes[2].bar_label(bars, fmt="%.1f %%", padding=3)
    axes[2].set_yticks(range(len(order)), [names[k] for k in order])
    axes[2].set(xticks=[], xlim=(0, 1.35 * shares.max()))
    axes[2].invert_yaxis()
    axes[2].spines["bottom"].set_visible(False)
    return figure
