"""Images of segmentations: arrays in, figure or image out.

Colors alone do not tell classes apart for everybody, and VOC's palette has several dark ones: every region also has an
outline and its name. ``classes`` are maps ``(H, W)`` of class indices, 255 where void; ``colors`` is ``(K, 3)`` uint8
and ``names`` has the K classes' names, of which the first, the background, stays unnamed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from PIL import Image, ImageDraw, ImageFont

from walkthrough.figures.charts import COLORS

VOID = 255
VOID_COLOUR = (160, 160, 160)
REPAIRED, BROKEN = COLORS[0], COLORS[1]


@dataclass(frozen=True)
class Example:
    """One image ``(H, W, 3)`` with its true and its predicted classes ``(H, W)``, and what to call it."""

    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


def outlines(classes: np.ndarray) -> np.ndarray:
    """Where a class begins, ``(H, W)`` bool: pixels whose left or upper neighbor is of another class."""
    edges = np.zeros(classes.shape, dtype=bool)
    edges[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    edges[1:] |= classes[1:] != classes[:-1]
    return edges


def name_places(classes: np.ndarray, smallest: float = 0.01) -> list[tuple[int, int, int]]:
    """Where to write the classes' names: (class, y, x) at the widest place of each region.

    Large regions come first. Regions below ``smallest``, a share of the image, get none, except the largest one of
    each class, and neither do regions where a name would stand on that of a larger one.
    """
    step = -(-max(classes.shape) // 96)  # a hundred pixels are enough to find a place
    small = classes[::step, ::step]
    regions = _regions(small)
    numbers, sizes = np.unique(regions, return_counts=True)
    longest = max(small.shape)
    places: list[tuple[int, int, int]] = []
    for number, size in sorted(zip(numbers, sizes, strict=True), key=lambda region: -region[1]):
        found = int(small.flat[number])
        named = any(found == other for other, _, _ in places)
        if found in (0, VOID) or (named and size < smallest * small.size):
            continue
        y, x = _widest_place(regions == number)
        if all(abs(y - b) > longest / 14 or abs(x - a) > longest / 4 for _, b, a in places):
            places.append((found, y, x))
    return [(found, y * step, x * step) for found, y, x in places]


def _regions(classes: np.ndarray) -> np.ndarray:
    """A number for each connected region of one class: that of its last pixel."""
    numbers = np.arange(classes.size).reshape(classes.shape)
    below, beside = classes[1:] == classes[:-1], classes[:, 1:] == classes[:, :-1]
    while True:
        before = numbers.copy()
        for same, one, other in ((below, np.s_[1:], np.s_[:-1]), (beside, np.s_[:, 1:], np.s_[:, :-1])):
            higher = np.maximum(numbers[one], numbers[other])
            numbers[one] = np.where(same, higher, numbers[one])
            numbers[other] = np.where(same, np.maximum(higher, numbers[other]), numbers[other])
        if (numbers == before).all():
            return numbers


def _widest_place(region: np.ndarray) -> tuple[int, int]:
    """The pixel ``(y, x)`` of a region ``(H, W)`` bool that remains longest when the region is peeled."""
    left = np.pad(region, 1)
    while left.any():
        last, core = left, left[1:-1, 1:-1]
        left = np.pad(core & last[:-2, 1:-1] & last[2:, 1:-1] & last[1:-1, :-2] & last[1:-1, 2:], 1)
    y, x = np.nonzero(last[1:-1, 1:-1])
    return int(y[len(y) // 2]), int(x[len(x) // 2])


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """``mask`` grown by ``pixels`` to all sides."""
    for axis in (0, 1):
        mask = np.moveaxis(mask, axis, 0)
        grown = mask.copy()
        for shift in range(1, pixels + 1):
            grown[shift:] |= mask[:-shift]
            grown[:-shift] |= mask[shift:]
        mask = np.moveaxis(grown, 0, axis)
    return mask


def overlay(image: np.ndarray, classes: np.ndarray, colors: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """``image (H, W, 3)`` with its classes painted over it, outlined and named, at the image's own size."""
    longest = max(classes.shape)
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    painted = (image // 2) + (table // 2)[classes]
    painted[classes == 0] = image[classes == 0]
    edges = _grown(outlines(classes), longest // 800)
    painted[_grown(edges, longest // 400)] = 0  # a dark rim, or the white line is lost on a bright image
    painted[edges] = 255
    canvas = Image.fromarray(painted)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(findfont("DejaVu Sans"), max(10, longest // 25))
    for found, y, x in name_places(classes):
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


def draw_classes(
    axis: Axes, classes: np.ndarray, colors: np.ndarray, names: Sequence[str], image: np.ndarray | None = None
) -> None:
    """Draw a class map into ``axis``, over ``image`` where there is one, with outlines and names."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colors)] = colors
    table[VOID] = VOID_COLOUR
    shown = table[classes]
    if image is not None:
        shown = image // 2 + shown // 2
        shown[classes == 0] = image[classes == 0]
    axis.imshow(shown, interpolation="nearest")
    for found in np.unique(classes[(classes != 0) & (classes != VOID)]):
        if min(classes.shape) > 1:
            axis.contour(classes == found, [0.5], colors="white", linewidths=0.7)
    for found, y, x in name_places(classes):
        # Near the rim a centered name would reach out of the image.
        across, down = x / classes.shape[1], y / classes.shape[0]
        ha = "left" if across < 0.15 else "right" if across > 0.85 else "center"
        va = "top" if down < 0.05 else "bottom" if down > 0.95 else "center"
        text = axis.text(x, y, names[found], fontsize=6.5, color="white", ha=ha, va=va)
        text.set_path_effects([withStroke(linewidth=1.6, foreground="black")])


def error_map(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """``(H, W, 3)``: the image in pale gray where the prediction is right, orange where it is wrong, void gray."""
    shown = _pale(image)
    shown[truth == VOID] = VOID_COLOUR
    shown[(prediction != truth) & (truth != VOID)] = _rgb(BROKEN)
    return shown


def change_map(image: np.ndarray, truth: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """``(H, W, 3)``: blue where only ``after`` is right, orange where only ``before`` is, else the image, pale."""
    shown = _pale(image)
    shown[(after == truth) & (before != truth)] = _rgb(REPAIRED)
    shown[(before == truth) & (after != truth)] = _rgb(BROKEN)
    return shown


def _pale(image: np.ndarray) -> np.ndarray:
    gray = image.mean(axis=2, keepdims=True) / 255
    return np.repeat((255 * (0.8 + 0.2 * gray)).astype(np.uint8), 3, axis=2)


def _rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def _grid(rows: Sequence[Sequence[np.ndarray]], columns: int, size: float, extra: float) -> tuple[Figure, np.ndarray]:
    """Axes for rows of images, ``columns`` each; a row is as high as its tallest image is at the common width."""
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


def _class_legend(figure: Figure, seen: Sequence[int], colors: np.ndarray, names: Sequence[str], *more: Patch) -> None:
    patches = [Patch(facecolor=colors[k] / 255, edgecolor="black", linewidth=0.5, label=names[k]) for k in seen]
    figure.legend(handles=[*patches, *more], loc="outside lower center", ncols=6)


def comparison(examples: Sequence[Example], colors: np.ndarray, names: Sequence[str], size: float = 1.7) -> Figure:
    """A row for each example: image, truth, prediction and errors, with a legend of the classes that occur."""
    seen = sorted(set().union(*(np.unique([*np.unique(e.truth), *np.unique(e.prediction)]) for e in examples)) - {VOID})
    figure, axes = _grid([[example.image] for example in examples], 4, size, 0.6)
    for row, example in zip(axes, examples, strict=True):
        row[0].imshow(example.image, interpolation="nearest")
        row[0].set_ylabel(example.name)
        draw_classes(row[1], example.truth, colors, names)
        draw_classes(row[2], example.prediction, colors, names)
        row[3].imshow(error_map(example.image, example.truth, example.prediction), interpolation="nearest")
    for axis, title in zip(axes[0], ("image", "truth", "prediction", "errors"), strict=True):
        axis.set_title(title)
    void = Patch(facecolor=np.array(VOID_COLOUR) / 255, edgecolor="black", linewidth=0.5, label="void")
    _class_legend(figure, seen, colors, names, void, Patch(color=BROKEN, label="wrong"))
    return figure


def changes(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Mapping[str, Sequence[np.ndarray]],
    size: float = 1.7,
) -> Figure:
    """What each strategy repairs and breaks against the one before it: a row a image, a column a strategy.

    ``predictions`` maps the strategies' names, in order, to their class maps of ``images``. Below each map is how
    many pixels were repaired and broken; void counts as neither.
    """
    steps = list(predictions)
    figure, axes = _grid([[image] for image in images], len(steps), size, 0.5 + 0.2 * len(images))
    for number, (row, image, truth) in enumerate(zip(axes, images, truths, strict=True)):
        row[0].imshow(image, interpolation="nearest")
        for axis, former, latter in zip(row[1:], steps, steps[1:], strict=False):
            before, after = predictions[former][number], predictions[latter][number]
            axis.imshow(change_map(image, truth, before, after), interpolation="nearest")
            repaired = ((after == truth) & (before != truth)).sum()
            broken = ((before == truth) & (after != truth)).sum()
            axis.set_xlabel(f"+{repaired}  −{broken}", fontsize=8)
    for axis, title in zip(axes[0], ("image", *(f"+ {step}" for step in steps[1:])), strict=True):
        axis.set_title(title)
    patches = [Patch(color=REPAIRED, label="repaired"), Patch(color=BROKEN, label="broken")]
    figure.legend(handles=patches, loc="outside lower center", ncols=2)
    return figure


def gallery(
    rows: Sequence[Sequence[Example]], colors: np.ndarray, names: Sequence[str], failures: int = 1, size: float = 1.5
) -> Figure:
    """Fig. 6: pairs of a image and its prediction, several in a row; the last ``failures`` rows are failures."""
    images = [[example.image for example in row] for row in rows]
    figure, axes = _grid(images, 2 * max(map(len, rows)), size, 0.2 * len(rows))
    for number, (line, row) in enumerate(zip(axes, rows, strict=True)):
        for (left, right), example in zip(line.reshape(-1, 2), row, strict=False):
            left.imshow(example.image, interpolation="nearest")
            draw_classes(right, example.prediction, colors, names, example.image)
            right.set_title(example.name, fontsize=8)
        if number >= len(rows) - failures:
            line[0].set_ylabel("failures")
    return figure


def confusion(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """What each class is taken for: ``counts (K, K)``, rows the truth, as percentages of the class's pixels.

    The diagonal, what is right, is left pale, so that the mistakes stand out; numbers below 1 are not written.
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
    axis.set(xlabel="predicted", ylabel="truth")
    axis.spines[:].set_visible(False)
    return figure


def photo(image: np.ndarray, classes: np.ndarray, colors: np.ndarray, names: Sequence[str]) -> Figure:
    """One image, the same with its classes over it, and each class's share of the pixels."""
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
