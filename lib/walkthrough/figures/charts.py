"""Charts, images and mosaics, and the colors and style that all figures share."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colors, which color-blind readers can tell apart."""

BLUE, ORANGE, GREEN = COLORS[:3]
GRAY = "#999999"
SMALL_TEXT = 8
"""Points of the text inside a drawing."""

# One look for the whole walkthrough, whichever figure is imported.
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=COLORS),
        "legend.frameon": False,
    }
)


def new_axes(columns: int = 1, width: float = 4.2, height: float = 2.4, rows: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure and its axes ``(rows, columns)``; ``width`` and ``height`` of one of them are in inches."""
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")


def images(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = (), size: float = 1.6) -> Figure:
    """Grid of images ``(H, W, 3)`` uint8 or maps ``(H, W)``, with one title a column."""
    columns = max(len(row) for row in rows)
    figure, axes = new_axes(columns, size, size, rows=len(rows))
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image, interpolation="nearest" if image.ndim == 2 else None)  # numbers of classes have no mean
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title)
    return figure


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    title: str = "",
    marker: str = "",
) -> Figure:
    """Named curves ``{name: (x, y)}`` on one pair of axes."""
    figure, axes = new_axes()
    axis = axes[0, 0]
    for name, (x, y) in series.items():
        axis.plot(x, y, marker=marker, label=name)
    axis.set(xlabel=x_label, ylabel=y_label, title=title)
    if len(series) > 4:
        figure.legend(loc="outside right upper")
    elif len(series) > 1:
        axis.legend()
    return figure


def panels(
    labels: Sequence[str] | Mapping[str, Sequence[str]],
    panels: Mapping[str, Mapping[str, ArrayLike]],
    y_label: str = "mIoU %",
    x_label: str = "",
) -> Figure:
    """The same categories in several panels (paper, ours), whose axes span equally many points: slopes can be compared.

    ``panels`` maps a panel's title to named rows of values ``(n,)``, or ``(3, n)`` with the ends of their intervals;
    NaN leaves a gap. Where the panels name the same rows there is one legend. ``labels`` are the categories' names, or
    those of each panel by its title.
    """
    figure, axes = new_axes(len(panels), width=3.2, height=2.4)
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        ticks = labels[title] if isinstance(labels, Mapping) else labels
        for number, (name, given) in enumerate(rows.items()):
            values, *ends = np.atleast_2d(np.asarray(given, dtype=float))
            shift = 0.06 * (number - (len(rows) - 1) / 2) if ends else 0.0  # or intervals would hide each other
            x = np.arange(len(ticks)) + shift
            axis.plot(x, values, marker="o", markersize=4, label=name)
            if ends:
                axis.vlines(x, *ends, color=COLORS[number % len(COLORS)], linewidth=1)
        axis.set_xticks(range(len(ticks)), ticks)
        axis.set(title=title, xlabel=x_label, ylabel=y_label)
    _span_equally(axes[0])
    names = [tuple(rows) for rows in panels.values()]
    if len(set(names)) == 1 and len(names[0]) > 1:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    for axis, shown in zip(axes[0], names, strict=True):
        if len(shown) > 1 and len(set(names)) > 1:
            axis.legend()
    return figure


def _span_equally(axes: Sequence[Axes]) -> None:
    """Give all y axes the length of the longest; each keeps its middle."""
    limits = [axis.get_ylim() for axis in axes]
    half = max(high - low for low, high in limits) / 2
    for axis, (low, high) in zip(axes, limits, strict=True):
        axis.set_ylim((low + high) / 2 - half, (low + high) / 2 + half)


def differences(
    rows: Mapping[str, tuple[float, tuple[float, float, float] | None]], x_label: str, width: float = 6.4
) -> Figure:
    """One line a difference ``{name: (the paper's, ours with the ends of its interval)}``; NaN or None is left out."""
    figure, axes = new_axes(width=width, height=0.75 + 0.32 * len(rows))
    axis = axes[0, 0]
    for y, (paper, ours) in enumerate(rows.values()):
        if y % 2 == 0:
            axis.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0)
        axis.plot(paper, y - 0.16, "D", markersize=4.5, color="black", markerfacecolor="none")
        if ours is not None:
            axis.plot(ours[1:], [y + 0.16] * 2, color=BLUE, linewidth=2)
            axis.plot(ours[0], y + 0.16, "o", markersize=4.5, color=BLUE)
    axis.axvline(0, color=GRAY, linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set(xlabel=x_label, ylim=(len(rows) - 0.5, -0.5))
    axis.tick_params(axis="y", length=0)
    handles = [Line2D([], [], marker="D", color="black", markerfacecolor="none", linestyle="", label="paper")]
    handles += [Line2D([], [], marker="o", color=BLUE, linewidth=2, label="ours, 95 %")]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


def bars(panels: Mapping[str, Mapping[str, float]], digits: int = 1) -> Figure:
    """Horizontal bars ``{panel's title: {category: value}}`` with their values; panels share their categories.

    Values below zero have bars to the left.
    """
    figure, axes = new_axes(len(panels), width=2.8, height=0.6 + 0.28 * len(next(iter(panels.values()))))
    for column, (axis, (title, values)) in enumerate(zip(axes[0], panels.items(), strict=True)):
        drawn = axis.barh(range(len(values)), list(values.values()), color=COLORS[column % len(COLORS)])
        axis.bar_label(drawn, fmt=f"%.{digits}f", padding=3)
        axis.set_yticks(range(len(values)), list(values) if column == 0 else [""] * len(values))
        axis.set_title(title)
        axis.invert_yaxis()
        axis.margins(x=0.25)
        axis.set_xticks([])
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_position("zero")
        axis.spines["bottom"].set_visible(False)
    return figure


def stacked(rows: Mapping[str, Mapping[str, float]], x_label: str) -> Figure:
    """Stacked horizontal bars ``{row: {part: value}}``, with the value in every part that has room for it."""
    figure, axes = new_axes(1, width=7.2, height=0.9 + 0.35 * len(rows))
    axis = axes[0, 0]
    longest = max(sum(parts.values()) for parts in rows.values())
    for number, parts in enumerate(rows.values()):
        left = 0.0
        for (name, value), color in zip(parts.items(), cycle(COLORS), strict=False):
            axis.barh(number, value, left=left, color=color, height=0.7, label=name if number == 0 else None)
            if value > longest / 18:
                written = "white" if sum(to_rgb(color)) < 1.3 else "black"
                axis.text(left + value / 2, number, f"{value:.0f}", ha="center", va="center", color=written)
            left += value
        axis.text(left + longest / 100, number, f"{left:.0f}", va="center")
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set(xlabel=x_label, xlim=(0, longest * 1.07))
    axis.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(COLORS))
    return figure
