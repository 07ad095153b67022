"""The walkthrough's figures: arrays in, figure out. A figure is a row of data and one drawing function."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

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
    for (name, (x, y)), marker in zip(series.items(), cycle("osD^v*"), strict=False):
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


def taps(
    picture: np.ndarray,
    rates: Sequence[int],
    centre: tuple[int, int],
    responses: Sequence[np.ndarray] = (),
    kernel: int = 3,
    size: float = 2.2,
) -> Figure:
    """Fig. 1: where the weights of an atrous convolution fall on a picture, one column a rate.

    ``responses``, one ``(H, W)`` map a rate, come below: blue where the filter answers above zero, orange below.
    """
    figure, axes = _axes(len(rates), size, size, rows=2 if len(responses) else 1)
    height, width = picture.shape[:2]
    reach = kernel // 2
    for column, rate in zip(axes.T, rates, strict=True):
        axis = column[0]
        axis.imshow(picture)
        extent = 2 * reach * rate
        corner = (centre[1] - reach * rate - 0.5, centre[0] - reach * rate - 0.5)
        axis.add_patch(Rectangle(corner, extent + 1, extent + 1, fill=False, color="white", linewidth=0.8))
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                y, x = centre[0] + dy * rate, centre[1] + dx * rate
                inside = 0 <= y < height and 0 <= x < width
                axis.plot(x, y, "s", markersize=4 if rate > 2 else 1.5, clip_on=False, markeredgecolor="white",
                          markeredgewidth=0.5, color="black" if inside else "#999999")  # fmt: skip
        axis.set_title(f"rate {rate}: {extent + 1} x {extent + 1}")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for axis, response in zip(axes[-1], responses, strict=False):
        strongest = np.abs(response).max()
        axis.imshow(response, cmap="PuOr", vmin=-strongest, vmax=strongest, interpolation="nearest")
    for axis in axes.flat:
        axis.axis("off")
    return figure


def valid_weights(along: np.ndarray, curves: Mapping[int, Sequence[float]], rate: int) -> Figure:
    """Fig. 4: where on a square feature map how many weights are valid at ``rate``, and the shares at every rate.

    ``along[i]`` counts the valid taps along one side at position ``i``; ``curves`` maps a number of valid weights to
    the shares of the positions at rate 1, 2, 3 …
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.7), width_ratios=(1, 1.8), layout="constrained")
    axes[0].imshow(np.multiply.outer(along, along), cmap="Blues", vmin=0, vmax=14, interpolation="nearest")
    starts = np.flatnonzero(np.diff(along, prepend=-1))
    runs = [(a, b) for a, b in zip(starts, [*starts[1:], len(along)], strict=True) if b - a >= len(along) / 14]
    for top, bottom in runs:
        for left, right in runs:
            axes[0].text((left + right - 1) / 2, (top + bottom - 1) / 2, str(along[top] * along[left]),
                         ha="center", va="center")  # fmt: skip
    axes[0].set(title=f"valid weights at rate {rate}", xticks=[], yticks=[])
    axes[0].spines[:].set(visible=True, color="#999999")
    for (number, shares), colour in zip(curves.items(), COLOURS, strict=False):
        # The paper draws 1, 4 and 9; the thin ones make the shares add up.
        style = {} if number in (1, 4, 9) else {"linestyle": "--", "linewidth": 1}
        axes[1].plot(range(1, len(shares) + 1), shares, label=str(number), color=colour, **style)
    axes[1].axvline(rate, color="#999999", linewidth=0.8)
    axes[1].set(xlabel="atrous rate", ylabel="share of the positions", title=f"Figure 4: {len(along)} x {len(along)}")
    figure.legend(*axes[1].get_legend_handles_labels(), title="valid", loc="outside right center")
    return figure


def gridding(columns: Sequence[tuple[str, np.ndarray, np.ndarray]], size: float = 2.4) -> Figure:
    """Above, which inputs four neighbouring outputs see; below, what comes out: ``(title, seen, output)`` a column.

    ``seen`` is ``(4, h, w)``, one map an output. An input has the colour of the output that sees it, is grey where
    several do and white where none does.
    """
    anywhere = np.any([seen.any(0) for _, seen, _ in columns], axis=0)
    rows, places = (np.flatnonzero(anywhere.any(axis)) for axis in (1, 0))
    window = np.s_[:, max(0, rows[0] - 1) : rows[-1] + 2, max(0, places[0] - 1) : places[-1] + 2]
    figure, axes = _axes(len(columns), size, size * 0.85, rows=2)
    for (above, below), (title, seen, output) in zip(axes.T, columns, strict=True):
        views = seen[window]
        shown = np.ones((*views.shape[1:], 3))
        for view, colour in zip(views, COLOURS, strict=False):
            shown[view] = to_rgb(colour)
        shown[views.sum(0) > 1] = 0.7
        above.imshow(shown, interpolation="nearest")
        above.set(title=title, xticks=[], yticks=[])
        above.spines[:].set(visible=True, color="#999999")
        below.imshow(output, cmap="viridis", interpolation="nearest")
        below.axis("off")
    return figure


def connections(panels: Mapping[str, Sequence[tuple[int, int]]], length: int) -> Figure:
    """Which features a stack of convolutions with three weights reads, along one side of ``length`` inputs.

    ``panels`` maps a title to layers of (stride, rate), the input at the bottom. Orange are the features that the
    first panel has too and what they read, blue those in between.
    """
    figure, axes = _axes(len(panels), 2.5, 1.9)
    rows_of_first = _positions(next(iter(panels.values())), length)
    for axis, (title, layers) in zip(axes[0], panels.items(), strict=True):
        rows = _positions(layers, length)
        spacing = 1
        for height, (stride, rate) in enumerate(layers, start=1):
            for position in rows[height]:
                first = position in rows_of_first[height]
                for tap in (-1, 0, 1):
                    source = position + tap * rate * spacing
                    if 0 <= source < length:
                        axis.plot([source, position], [height - 1, height], color=COLOURS[1] if first else COLOURS[5],
                                  linewidth=1.2 if first else 0.6, zorder=2 if first else 1)  # fmt: skip
            spacing *= stride
        for height, positions in enumerate(rows):
            colours = [COLOURS[1] if position in rows_of_first[height] else COLOURS[0] for position in positions]
            axis.scatter(positions, [height] * len(positions), s=22, c=colours, zorder=3)
        names = [f"stride {stride}\nrate {rate}" for stride, rate in layers]
        axis.set_yticks(range(len(rows)), ["input", *names], fontsize=8)
        axis.set(title=title, xticks=[])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


def _positions(layers: Sequence[tuple[int, int]], length: int) -> list[range]:
    """The inputs that stand below the features of each layer, the input's own first."""
    rows = [range(length)]
    for stride, _ in layers:
        rows.append(range(0, length, rows[-1].step * stride))
    return rows


def dense_features(picture: np.ndarray, maps: Mapping[int, np.ndarray], size: float = 3.2) -> Figure:
    """A picture and one channel of its features at several output strides ``{stride: (h, w)}``, in the same place.

    A feature is drawn as the square of pixels that it stands for, and a dot marks the ones of the coarsest map.
    """
    height, width = picture.shape[:2]
    figure, axes = _axes(2, size, size * height / width + 0.2, rows=-(-(1 + len(maps)) // 2))
    for axis in axes.flat:
        axis.axis("off")
    places = axes.flat
    next(places).imshow(picture)
    coarsest, highest = max(maps), max(values.max() for values in maps.values())
    y, x = np.mgrid[0:height:coarsest, 0:width:coarsest]
    area = min(10.0, (72 * size / x.shape[1] / 5) ** 2)  # dots leave room between them on a large picture too
    for axis, (stride, values) in zip(places, maps.items(), strict=False):
        rows, columns = values.shape
        extent = (-stride / 2, (columns - 0.5) * stride, (rows - 0.5) * stride, -stride / 2)
        axis.imshow(values, cmap="viridis", vmin=0, vmax=highest, extent=extent, interpolation="nearest")
        axis.scatter(x, y, s=area, color=COLOURS[1], edgecolors="white", linewidths=area / 25)
        axis.set(title=f"output stride {stride}: {rows} x {columns}")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure


def stacked(rows: Mapping[str, Mapping[str, float]], x_label: str) -> Figure:
    """Horizontal bars of named parts, one bar a row, with the value in every part that has room for it."""
    figure, axes = _axes(1, width=7.2, height=0.9 + 0.35 * len(rows))
    axis = axes[0, 0]
    longest = max(sum(parts.values()) for parts in rows.values())
    for number, parts in enumerate(rows.values()):
        left = 0.0
        for (name, value), colour in zip(parts.items(), cycle(COLOURS), strict=False):
            axis.barh(number, value, left=left, color=colour, height=0.7, label=name if number == 0 else None)
            if value > longest / 18:
                written = "white" if sum(to_rgb(colour)) < 1.3 else "black"
                axis.text(left + value / 2, number, f"{value:.0f}", ha="center", va="center", color=written)
            left += value
        axis.text(left + longest / 100, number, f"{left:.0f}", va="center")
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set(xlabel=x_label, xlim=(0, longest * 1.07))
    axis.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(COLOURS))
    return figure


def mosaic(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Pictures ``(H, W, 3)``, each cut to the smallest height and width of all, side by side in one picture."""
    height, width = (min(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    cut = [picture[:height, :width] for picture in pictures]
    rows = [np.concatenate(cut[first : first + columns], axis=1) for first in range(0, len(cut), columns)]
    return np.concatenate(rows)
