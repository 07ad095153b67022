"""The walkthrough's figures: arrays in, figure out. A figure is a row of data and one drawing function."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""

STYLE = {
    "figure.dpi": 110,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "legend.frameon": False,
}
plt.rcParams.update(STYLE)  # for whoever imports this module: one look for the whole walkthrough


def _axes(columns: int = 1, width: float = 4.2, height: float = 2.4, rows: int = 1) -> tuple[Figure, np.ndarray]:
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")


def pictures(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), size: float = 1.6) -> Figure:
    """A grid of pictures ``(H, W, 3)`` uint8 or maps ``(H, W)``, with one title a column."""
    columns = max(len(row) for row in rows)
    figure, axes = _axes(columns, size, size, rows=len(rows))
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, picture in zip(line, row, strict=False):
            axis.imshow(picture, interpolation="nearest")
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title)
    return figure


def legend(names: Sequence[str], colours: np.ndarray) -> Figure:
    """The classes' colours: ``colours`` is ``(K, 3)`` uint8."""
    figure, axes = _axes(width=6.4, height=0.32 * -(-len(names) // 5))
    axes[0, 0].axis("off")
    patches = [Patch(color=colour / 255, label=name) for name, colour in zip(names, colours, strict=True)]
    figure.legend(handles=patches, ncols=5, loc="center")
    return figure


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str = "",
    marker: str = "",
) -> Figure:
    """Named curves of (x, y) on one pair of axes."""
    figure, axes = _axes()
    axis = axes[0, 0]
    for name, (x, y) in series.items():
        axis.plot(x, y, marker=marker, label=name)
    axis.set(xlabel=x_label, ylabel=y_label, title=title)
    if len(series) > 1:
        axis.legend()
    return figure


def points(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], x_label: str, y_label: str) -> Figure:
    """Named clouds of (x, y) points, each with a marker of its own."""
    figure, axes = _axes(width=4.2, height=3.0)
    for (name, (x, y)), marker in zip(series.items(), "osD^v*", strict=False):
        axes[0, 0].plot(x, y, marker, label=name)
    axes[0, 0].set(xlabel=x_label, ylabel=y_label)
    axes[0, 0].legend()
    return figure


def beside(
    labels: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[float]]], y_label: str = "mIoU %"
) -> Figure:
    """The same categories in several panels (paper, ours), each with its own scale: what to compare is the shape.

    ``panels`` maps a panel's title to named rows of values; NaN leaves a gap.
    """
    figure, axes = _axes(len(panels), width=3.2, height=2.4)
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        for name, values in rows.items():
            axis.plot(range(len(labels)), values, marker="o", markersize=4, label=name)
        axis.set_xticks(range(len(labels)), labels)
        axis.set(title=title, ylabel=y_label)
        if len(rows) > 1:
            axis.legend()
    return figure


def bars(panels: Mapping[str, Mapping[str, float]], digits: int = 1) -> Figure:
    """One panel of horizontal bars for each title, with the value at each bar's end; the categories are the same."""
    figure, axes = _axes(len(panels), width=2.8, height=0.6 + 0.28 * len(next(iter(panels.values()))))
    for column, (axis, (title, values)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        drawn = axis.barh(range(len(values)), list(values.values()), color=COLOURS[column % len(COLOURS)])
        axis.bar_label(drawn, fmt=f"%.{digits}f", padding=3)
        axis.set_yticks(range(len(values)), list(values) if column == 0 else [""] * len(values))
        axis.set_title(title)
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.set_xticks([])
        axis.spines["bottom"].set_visible(False)
    return figure


def taps(picture: np.ndarray, rates: Sequence[int], centre: tuple[int, int], size: float = 2.2) -> Figure:
    """Fig. 1: where the nine weights of a 3x3 atrous convolution fall on a picture, one panel a rate."""
    figure, axes = _axes(len(rates), size, size)
    height, width = picture.shape[:2]
    for axis, rate in zip(axes[0], rates, strict=True):
        axis.imshow(picture)
        for dy in (-rate, 0, rate):
            for dx in (-rate, 0, rate):
                y, x = centre[0] + dy, centre[1] + dx
                inside = 0 <= y < height and 0 <= x < width
                axis.plot(x, y, "s", markersize=5, clip_on=False, markeredgecolor="white",
                          color=COLOURS[1] if inside else "#999999")  # fmt: skip
        axis.set_title(f"rate {rate}")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        axis.axis("off")
    return figure


def grids(maps: Mapping[str, np.ndarray], size: float = 2.0) -> Figure:
    """Counts on small square grids, white where zero: which inputs an output position sees, and how often."""
    figure, axes = _axes(len(maps), size, size)
    for axis, (title, values) in zip(axes[0], maps.items(), strict=True):
        axis.imshow(np.where(values > 0, values, np.nan), cmap="viridis", interpolation="nearest")
        axis.set_title(title)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(True)
    return figure
