"""Figures of measured results: sizes of differences, bootstrap draws, cost against accuracy, times, gradients."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from walkthrough.figures.charts import BLUE, COLORS, GRAY, new_axes


def sizes(values: ArrayLike, marks: Mapping[str, float], x_label: str, y_label: str) -> Figure:
    """Number of ``values`` up to each size, with a named vertical line at each of ``marks``; NaN is left out."""
    figure, axes = new_axes(width=6.4, height=2.6)
    axis, ordered = axes[0, 0], np.sort(np.asarray(values, dtype=float))
    axis.step(ordered, np.arange(1, len(ordered) + 1), where="post", color=BLUE)
    for (name, mark), color in zip(marks.items(), ("black", *COLORS[1:]), strict=False):
        if np.isfinite(mark):
            axis.axvline(mark, color=color, linewidth=1, linestyle="--", label=f"{name}: {mark:.2f}")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=f"{x_label} (logarithmic)", ylabel=y_label)
    figure.legend(loc="outside right upper", title="smaller is within chance")
    return figure


def draws(panels: Mapping[str, Mapping[str, np.ndarray]], x_label: str) -> Figure:
    """Histograms of named draws ``(draws,)`` in each panel; of the last ones the ends that 95 % of them span."""
    figure, axes = new_axes(len(panels), width=3.6, height=2.4)
    for axis, (title, series) in zip(axes[0], panels.items(), strict=True):
        together = np.concatenate(list(series.values()))
        edges = np.linspace(together.min() - 1e-9, together.max() + 1e-9, 50)
        for values, color, alpha in zip(series.values(), (GRAY, BLUE), (0.7, 0.6), strict=True):
            axis.hist(values, edges, histtype="stepfilled", color=color, alpha=alpha)
        low, high = np.quantile(values, (0.025, 0.975))
        for end in (low, high):
            axis.axvline(end, color="black", linewidth=1, linestyle="--")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=f"{title}\n95 %: {low:+.2f} to {high:+.2f}", xlabel=x_label, ylabel="draws")
    names = list(next(iter(panels.values())))
    handles = axes[0, 0].patches[: len(names)]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def front_of(costs: ArrayLike, values: ArrayLike) -> np.ndarray:
    """Positions, cheapest first, of the rows that no row of equal or smaller cost reaches (the Pareto front)."""
    costs, values = np.asarray(costs, dtype=float), np.asarray(values, dtype=float)
    order = np.lexsort((-values, costs))
    best = np.concatenate([[-np.inf], np.maximum.accumulate(values[order])[:-1]])
    return order[values[order] > best]


def front(costs: ArrayLike, estimates: ArrayLike, x_label: str, span: float = 25.0) -> Figure:
    """Costs ``(n,)`` against mIoU with the ends of its interval ``(3, n)``, down to ``span`` points below the best.

    The front has steps, intervals and numbers from the cheapest on; other rows are dashes.
    """
    figure, axes = new_axes(width=6.8, height=3.6)
    axis, work, values = axes[0, 0], np.asarray(costs, dtype=float), np.asarray(estimates, dtype=float)
    lowest = values[0].max() - span
    chosen = front_of(work, values[0])
    others = np.setdiff1d(np.arange(len(work)), chosen)
    x, (y, low, high) = work[chosen], values[:, chosen]
    axis.plot(work[others], values[0, others], "_", color=GRAY, markersize=7, label="not on the front")
    axis.step(x, y, where="post", color=BLUE, linewidth=1, alpha=0.6)
    axis.plot(x, y, "o", color=BLUE, markersize=3.5, label="front, with 95 % interval")
    axis.vlines(x, low, high, color=BLUE, linewidth=1.5)
    for number, place in enumerate(zip(x, high, strict=True), start=1):
        if place[1] > lowest:
            axis.annotate(str(number), place, (0, 3), textcoords="offset points", ha="center", va="bottom", color=BLUE)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel=f"{x_label} (logarithmic)", ylabel="mIoU %")
    if below := int((values[0] < lowest).sum()):
        axis.set_ylim(bottom=lowest)
        axis.set_title(f"{below} more, on the front or not, lie below the axis", loc="right", color=GRAY)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def variants(panels: Mapping[str, Mapping[str, float]]) -> Figure:
    """Bars ``{panel's title: {variant: ratio}}`` below each other, on one axis with a line at 1, values written."""
    counts = [len(rows) for rows in panels.values()]
    size = (7.0, 0.4 + 0.2 * sum(counts) + 0.4 * len(panels))
    figure, axes = plt.subplots(
        len(panels), figsize=size, squeeze=False, layout="constrained", sharex=True, height_ratios=counts
    )
    for axis, color, (title, rows) in zip(axes[:, 0], cycle(COLORS), panels.items(), strict=False):
        drawn = axis.barh(list(rows), list(rows.values()), color=color, height=0.7)
        axis.axvline(1, color="black", linewidth=0.8, linestyle="--", zorder=0)
        for text in axis.bar_label(drawn, fmt="%.2f", padding=3):
            text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        axis.set_title(title, loc="left")
        axis.invert_yaxis()
        axis.tick_params(axis="y", length=0)
        axis.margins(x=0.1)
    return figure


def fields(maps: Mapping[str, np.ndarray], sides: Sequence[int]) -> Figure:
    """Maps ``(H, W)`` of how strongly the middle reacts to each pixel: means of 4 x 4 pixels, on a logarithmic scale.

    The squares around the middle have the given ``sides`` in pixels.
    """
    figure, axes = new_axes(len(maps), width=1.8, height=2.2)
    for axis, (name, values), side in zip(axes[0], maps.items(), sides, strict=True):
        height, width = (4 * (length // 4) for length in values.shape)
        means = values[:height, :width].reshape(height // 4, 4, width // 4, 4).mean(axis=(1, 3))
        extent = (-width / 2, width / 2, height / 2, -height / 2)
        shown = axis.imshow(means / means.max(), extent=extent, norm=LogNorm(1e-4, 1), cmap="magma")
        corner = (-side / 2, -side / 2)
        axis.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="white", linestyle="--"))
        axis.set(title=name, xticks=(-200, 0, 200), yticks=(-200, 0, 200), xlabel="pixels", ylabel="pixels")
        axis.label_outer()
    figure.colorbar(shown, ax=axes, label="gradient, largest = 1\n(logarithmic)", shrink=0.6, aspect=12, extend="min")
    return figure


def shares(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], baseline: str, x_label: str, y_label: str) -> Figure:
    """Named curves ``(x, y)``, the one named ``baseline`` dashed, with the legend beside them."""
    figure, axes = new_axes(width=6.4, height=2.8)
    colors = cycle(COLORS)
    for name, (x, y) in curves.items():
        style = {"color": "black", "linestyle": "--"} if name == baseline else {"color": next(colors)}
        axes[0, 0].plot(x, y, label=name, **style)
    axes[0, 0].set(xlabel=x_label, ylabel=y_label)
    figure.legend(loc="outside right upper")
    return figure
