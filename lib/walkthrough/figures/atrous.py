"""Figures of atrous convolution: its samples, valid weights, gridding, feature maps (Figs. 1 and 4)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from walkthrough.figures.charts import BLUE, COLORS, GRAY, ORANGE, SMALL_TEXT, new_axes


def sampling(x: np.ndarray, outputs: Mapping[int, np.ndarray], positions: Sequence[int]) -> Figure:
    """Equation (1) in frames: the values of ``x`` that one output reads; one row a rate, one column an output.

    ``outputs`` maps a rate to the output ``(n,)`` of a filter with three weights on ``x (n,)``, padded with ``rate``
    zeros at both ends. Values that no frame has computed yet are left out.
    """
    figure, axes = new_axes(len(positions), 2.8, 0.95, rows=len(outputs))
    margin = max(outputs)
    for line, (rate, y) in zip(axes, outputs.items(), strict=True):
        for axis, position in zip(line, positions, strict=True):
            read = [position + rate * k for k in (-1, 0, 1)]
            for place in range(-rate, len(x) + rate):
                inside = 0 <= place < len(x)
                _cell(axis, place, 0, f"{x[place]:.0f}" if inside else "0", place in read, BLUE if inside else GRAY)
            for place, value in enumerate(y):
                _cell(axis, place, 1.8, f"{value:.0f}" if place <= position else "", place == position, BLUE)
            for place in read:
                axis.plot([place, position], [0.45, 1.35], color=ORANGE, linewidth=1)
            axis.set(xlim=(-margin - 0.6, len(x) + margin - 0.4), ylim=(-0.6, 2.4), xticks=[], aspect="equal")
            axis.set_yticks([0, 1.8], ["x, padded", "y"] if position == positions[0] else ["", ""])
            axis.tick_params(length=0, labelsize=SMALL_TEXT)
            axis.spines[:].set_visible(False)
            axis.set_title(f"rate {rate}, output y[{position}]", fontsize=SMALL_TEXT)
    return figure


def _cell(axis: Axes, x: float, y: float, text: str, marked: bool, color: str) -> None:
    """Draw one value in a square around ``(x, y)``."""
    face = ORANGE if marked else color
    axis.add_patch(Rectangle((x - 0.45, y - 0.45), 0.9, 0.9, facecolor=face, alpha=0.45 if marked else 0.15))
    axis.text(x, y, text, ha="center", va="center", fontsize=6)


def kernel_positions(
    image: np.ndarray,
    rates: Sequence[int],
    center: tuple[int, int],
    responses: Sequence[np.ndarray],
    kernel: int = 3,
    size: float = 2.3,
) -> Figure:
    """Fig. 1: positions of an atrous convolution's weights on an image, one column a rate, and its output below.

    Args:
        image: ``(H, W, 3)`` uint8.
        rates: one a column.
        center: ``(y, x)`` of the kernel, in pixels.
        responses: one map ``(H, W)`` a rate; all share one scale, blue above zero and orange below.
        kernel: weights a side.
        size: width of a column, in inches.
    """
    figure, axes = new_axes(len(rates), size, size, rows=2)
    height, width = image.shape[:2]
    reach = kernel // 2
    for axis, rate in zip(axes[0], rates, strict=True):
        axis.imshow(image)
        extent = 2 * reach * rate
        corner = (center[1] - reach * rate - 0.5, center[0] - reach * rate - 0.5)
        axis.add_patch(Rectangle(corner, extent + 1, extent + 1, fill=False, color="white", linewidth=0.8))
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                y, x = center[0] + dy * rate, center[1] + dx * rate
                inside = 0 <= y < height and 0 <= x < width
                axis.plot(x, y, "s", markersize=4 if rate > 2 else 1.5, clip_on=False, markeredgecolor="white",
                          markeredgewidth=0.5, color="black" if inside else GRAY)  # fmt: skip
        axis.set_title(f"rate {rate}: {extent + 1} x {extent + 1} pixels")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    # One pixel in a hundred may be out of the scale, or a few strong ones would make all others pale.
    strongest = np.quantile(np.abs(responses), 0.99)
    for axis, response in zip(axes[1], responses, strict=True):
        shown = axis.imshow(response, cmap="PuOr", vmin=-strongest, vmax=strongest, interpolation="nearest")
    figure.colorbar(shown, ax=axes[1], aspect=12, shrink=0.9).set_label("output", fontsize=SMALL_TEXT)
    _label_rows(axes, (f"the {kernel**2} weights", "output of the filter"))
    return figure


def _label_rows(axes: np.ndarray, names: Sequence[str]) -> None:
    """Name each row of images at its left, and draw no ticks."""
    for line, name in zip(axes, names, strict=True):
        line[0].set_ylabel(name)
        for axis in line:
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color=GRAY)


def valid_weights(along: np.ndarray, curves: Mapping[int, Sequence[float]], rate: int) -> Figure:
    """Fig. 4: numbers of valid weights on a square feature map at ``rate``, and their shares at every rate.

    ``along[i]`` counts the valid weights along one side at position ``i``; ``curves`` maps a number of valid weights
    to the shares of the positions at rate 1, 2, 3 …
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.7), width_ratios=(1, 1.8), layout="constrained")
    axes[0].imshow(np.multiply.outer(along, along), cmap="Blues", vmin=0, vmax=14, interpolation="nearest")
    starts = np.flatnonzero(np.diff(along, prepend=-1))
    runs = [(a, b) for a, b in zip(starts, [*starts[1:], len(along)], strict=True) if b - a >= len(along) / 14]
    for top, bottom in runs:
        for left, right in runs:
            axes[0].text((left + right - 1) / 2, (top + bottom - 1) / 2, str(along[top] * along[left]),
                         ha="center", va="center")  # fmt: skip
    ends = [0, len(along) - 1]
    axes[0].set(title=f"valid weights at rate {rate}", xlabel="position", xticks=ends, yticks=ends)
    axes[0].spines[:].set(visible=True, color=GRAY)
    for (number, shares), color in zip(curves.items(), COLORS, strict=False):
        # The paper draws 1, 4 and 9; the thin ones make the shares add up.
        style = {} if number in (1, 4, 9) else {"linestyle": "--", "linewidth": 1}
        axes[1].plot(range(1, len(shares) + 1), shares, label=str(number), color=color, **style)
    axes[1].axvline(rate, color=GRAY, linewidth=0.8)
    axes[1].set(xlabel="atrous rate", ylabel="share of the positions",
                title=f"Figure 4: {len(along)} x {len(along)} features")  # fmt: skip
    figure.legend(*axes[1].get_legend_handles_labels(), title="valid", loc="outside right center")
    return figure


def gridding(columns: Sequence[tuple[str, np.ndarray, np.ndarray]], rows: tuple[str, str], size: float = 2.4) -> Figure:
    """Inputs that four neighboring outputs see, above, and a map, below: ``(title, seen, map)`` a column.

    ``seen`` is ``(4, h, w)``, one map an output. An input has the color of the output that sees it, is gray where
    several do and white where none does. ``rows`` names the two rows.
    """
    anywhere = np.any([seen.any(0) for _, seen, _ in columns], axis=0)
    used, places = (np.flatnonzero(anywhere.any(axis)) for axis in (1, 0))
    window = np.s_[:, max(0, used[0] - 1) : used[-1] + 2, max(0, places[0] - 1) : places[-1] + 2]
    figure, axes = new_axes(len(columns), size, size, rows=2)
    for (above, below), (title, seen, values) in zip(axes.T, columns, strict=True):
        views = seen[window]
        shown = np.ones((*views.shape[1:], 3))
        for view, color in zip(views, COLORS, strict=False):
            shown[view] = to_rgb(color)
        shown[views.sum(0) > 1] = 0.7
        above.imshow(shown, interpolation="nearest")
        above.set_title(title)
        colors = below.imshow(values, cmap="viridis", vmin=0, interpolation="nearest")
        figure.colorbar(colors, ax=below, location="bottom", aspect=15, shrink=0.8)
    _label_rows(axes, rows)
    return figure


def receptive_paths(panels: Mapping[str, Sequence[tuple[int, int]]], length: int) -> Figure:
    """Features that a stack of convolutions with three weights reads, along one side of ``length`` inputs.

    ``panels`` maps a title to layers of (stride, rate), the input at the bottom. Orange are the features that the
    first panel has too and what they read, blue those in between.
    """
    figure, axes = new_axes(len(panels), 2.5, 1.9)
    rows_of_first = _positions(next(iter(panels.values())), length)
    for axis, (title, layers) in zip(axes[0], panels.items(), strict=True):
        rows = _positions(layers, length)
        spacing = 1
        for height, (stride, rate) in enumerate(layers, start=1):
            for position in rows[height]:
                first = position in rows_of_first[height]
                for offset in (-rate, 0, rate):
                    source = position + offset * spacing
                    if 0 <= source < length:
                        axis.plot([source, position], [height - 1, height], color=COLORS[1] if first else COLORS[5],
                                  linewidth=1.2 if first else 0.6, zorder=2 if first else 1)  # fmt: skip
            spacing *= stride
        for height, positions in enumerate(rows):
            colors = [COLORS[1] if position in rows_of_first[height] else COLORS[0] for position in positions]
            axis.scatter(positions, [height] * len(positions), s=22, c=colors, zorder=3)
        names = [f"stride {stride}\nrate {rate}" for stride, rate in layers]
        axis.set_yticks(range(len(rows)), ["input", *names], fontsize=8)
        axis.set(title=title, xticks=[])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    return figure


def _positions(layers: Sequence[tuple[int, int]], length: int) -> list[range]:
    """Inputs below the features of each layer, the input's own first."""
    rows = [range(length)]
    for stride, _ in layers:
        rows.append(range(0, length, rows[-1].step * stride))
    return rows


def dense_features(image: np.ndarray, maps: Mapping[int, np.ndarray], size: float = 3.2) -> Figure:
    """An image and one channel of its features at several output strides ``{stride: (h, w)}``, in the same place.

    A feature is drawn as the square of pixels that it stands for, and a dot marks the ones of the coarsest map.
    """
    height, width = image.shape[:2]
    figure, axes = new_axes(2, size, size * height / width + 0.2, rows=-(-(1 + len(maps)) // 2))
    for axis in axes.flat:
        axis.axis("off")
    places = axes.flat
    first = next(places)
    first.imshow(image)
    first.set_title("image")
    coarsest, highest = max(maps), max(values.max() for values in maps.values())
    y, x = np.mgrid[0:height:coarsest, 0:width:coarsest]
    area = min(10.0, (72 * size / x.shape[1] / 5) ** 2)  # dots leave room between them on a large image too
    for axis, (stride, values) in zip(places, maps.items(), strict=False):
        rows, columns = values.shape
        extent = (-stride / 2, (columns - 0.5) * stride, (rows - 0.5) * stride, -stride / 2)
        shown = axis.imshow(values, cmap="viridis", vmin=0, vmax=highest, extent=extent, interpolation="nearest")
        axis.scatter(x, y, s=area, color=COLORS[1], edgecolors="white", linewidths=area / 25)
        axis.set(title=f"output stride {stride}: {rows} x {columns}")
        axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    figure.colorbar(shown, ax=axes, aspect=30, shrink=0.7).set_label("feature", fontsize=SMALL_TEXT)
    return figure


def lattices(panels: Mapping[str, np.ndarray], step: int, size: float = 1.55) -> Figure:
    """Inputs that one output sees through a block whose rates are multiples of ``step``, and by how many paths.

    ``panels`` maps titles to counts ``(n, n)`` around the output in the middle. A dot is an input that is seen, the
    darker the more paths lead to it; a ring is one on the same lattice, inside the field, that no path leads to.
    """
    figure, axes = plt.subplots(1, len(panels), squeeze=False, figsize=(size * len(panels), size + 0.25),
                                layout="constrained")  # fmt: skip
    for axis, (title, counts) in zip(axes[0], panels.items(), strict=True):
        middle, reach = len(counts) // 2, np.abs(np.argwhere(counts) - len(counts) // 2).max()
        along = range(middle - reach, middle + reach + 1, step)
        y, x = (places.ravel() for places in np.meshgrid(along, along, indexing="ij"))
        paths = counts[y, x]
        seen = paths > 0
        shades = plt.get_cmap("Blues")(0.35 + 0.65 * np.log(paths[seen]) / np.log(max(2, counts.max())))
        axis.scatter(x[seen], y[seen], s=7, c=shades, linewidths=0)
        axis.scatter(x[~seen], y[~seen], s=6, facecolors="none", edgecolors=ORANGE, linewidths=0.6)
        axis.set(title=title, aspect="equal", xticks=[], yticks=[])
        axis.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5))
        axis.spines[:].set(visible=True, color=GRAY)
    return figure


def feature_maps(rows: Mapping[str, Sequence[np.ndarray]], titles: Sequence[str], size: float = 1.5) -> Figure:
    """Feature maps ``(h, w)`` of values from zero up, one row a kind; a row shares its scale, white is zero."""
    figure, axes = plt.subplots(len(rows), len(titles), squeeze=False, layout="constrained",
                                figsize=(size * len(titles) + 0.8, size * len(rows) + 0.2))  # fmt: skip
    for number, (line, (name, values)) in enumerate(zip(axes, rows.items(), strict=True)):
        colors = ("Blues", "Oranges", "Greens")[number % 3]
        highest = max(value.max() for value in values)
        for axis, value in zip(line, values, strict=True):
            image = axis.imshow(value, cmap=colors, vmin=0, vmax=highest, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(visible=True, color=GRAY)
        figure.colorbar(image, ax=line[-1]).set_label(name, fontsize=SMALL_TEXT)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    return figure
