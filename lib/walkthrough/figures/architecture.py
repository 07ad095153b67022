"""Drawings of network architectures (Figs. 2, 3 and 5)."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from walkthrough.figures.charts import BLUE, GRAY, GREEN, ORANGE, SMALL_TEXT

SHADES = ListedColormap(plt.get_cmap("Blues")([0.1 * step for step in range(9)]), "valid weights")
"""One valid weight is white, nine are dark."""


def bottleneck(in_channels: int, width: int) -> Figure:
    """One residual unit: 1x1, 3x3 and 1x1 convolution around a shortcut, and the channels between them."""
    out_channels = 4 * width
    figure, axis = plt.subplots(figsize=(7.6, 1.9), layout="constrained")
    layers = [("1x1", width, BLUE), ("3x3\nstride s, rate r", width, ORANGE), ("1x1", out_channels, BLUE)]
    left, size = 1.2, "h x w"
    axis.text(0.4, 0, f"x\n{in_channels} channels\nh x w", ha="center", va="center", fontsize=SMALL_TEXT)
    for number, (text, channels, color) in enumerate(layers):
        arrow(axis, (left - 0.15, 0), (left + 0.2, 0))
        norm = "batch norm" + (", ReLU" if number < 2 else "")
        _box(axis, (left + 0.2, 0), (1.5, 1.1), f"{text}\n{norm}", color)
        size = "h/s x w/s" if number else size
        axis.text(left + 2.12, 0.32, f"{channels}\n{size}", ha="center", va="center", fontsize=SMALL_TEXT)
        left += 2.55
    shortcut = "every s-th position" + ("" if in_channels == out_channels else ", 1x1, batch norm")
    axis.plot([1.15, 1.15, 2.7], [0, 1.2, 1.2], color=GRAY, linewidth=0.7)
    _box(axis, (2.7, 1.2), (4.1, 0.5), f"shortcut: {shortcut}", GREEN)
    axis.plot([6.8, left + 0.35], [1.2, 1.2], color=GRAY, linewidth=0.7)
    arrow(axis, (left + 0.35, 1.2), (left + 0.35, 0.22))
    arrow(axis, (left - 0.15, 0), (left + 0.13, 0))
    axis.add_patch(Circle((left + 0.35, 0), 0.22, facecolor="white", edgecolor=GREEN))
    axis.text(left + 0.35, 0, "+", ha="center", va="center")
    arrow(axis, (left + 0.57, 0), (left + 0.85, 0))
    axis.text(
        left + 1.55, 0, f"ReLU\n{out_channels} channels\nh/s x w/s", ha="center", va="center", fontsize=SMALL_TEXT
    )
    axis.set(xlim=(-0.2, left + 2.2), ylim=(-0.7, 1.5), aspect="equal")
    axis.axis("off")
    return figure


def figure3(rows: Mapping[str, Sequence[tuple[str, int, str]]]) -> Figure:
    """Fig. 3: one row a network, one box a block ``(name, output stride after it, rates)``.

    A box is as high as its features are wide: a network without atrous convolution shrinks to nothing.
    """
    figure, axes = plt.subplots(len(rows), squeeze=False, figsize=(7.6, 1.6 * len(rows)), layout="constrained")
    for axis, (title, blocks) in zip(axes[:, 0], rows.items(), strict=True):
        for position, (name, output_stride, rates) in enumerate(blocks):
            height = (4 / output_stride) ** 0.5
            color = ORANGE if rates else BLUE
            axis.add_patch(Rectangle((position + 0.12, 0.5 - height / 2), 0.76, height, color=color, alpha=0.75))
            axis.text(position + 0.5, 1.12, name, ha="center", fontsize=SMALL_TEXT)
            axis.text(position + 0.5, -0.24, str(output_stride), ha="center", fontsize=SMALL_TEXT)
            axis.text(position + 0.5, -0.5, rates, ha="center", fontsize=SMALL_TEXT, color=ORANGE)
        axis.text(-0.05, -0.24, "output stride after it", ha="right", fontsize=SMALL_TEXT)
        axis.text(-0.05, -0.5, "rate" if any(rates for *_, rates in blocks) else "", ha="right", fontsize=SMALL_TEXT,
                  color=ORANGE)  # fmt: skip
        axis.set(xlim=(-1.5, len(blocks)), ylim=(-0.65, 1.3))
        axis.set_title(title, loc="left")
        axis.axis("off")
    return figure


def cascade(rows: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]], title: str = "") -> Figure:
    """The units of every block, one row a network: ``rows[network][block]`` has each unit's (rate, valid weights).

    The rate stands in the unit's box. The fewer of the nine weights of its 3x3 convolution fall on the feature map, on
    average over the positions, the paler is the box.
    """
    figure, axis = plt.subplots(figsize=(7.6, 0.8 + 0.3 * len(rows)), layout="constrained")
    for row, (name, blocks) in enumerate(rows.items()):
        axis.text(-0.2, row + 0.5, name, ha="right", va="center")
        left = 0.0
        for block, units in blocks.items():
            axis.text(left + len(units) / 2, -0.35, block if row == 0 else "", ha="center")
            for rate, valid in units:
                color = SHADES((valid - 1) / 8)
                box = Rectangle((left + 0.03, row + 0.08), 0.94, 0.84, facecolor=color, edgecolor=GRAY, linewidth=0.6)
                axis.add_patch(box)
                axis.text(left + 0.5, row + 0.52, f"{rate}", ha="center", va="center", color="w" if valid > 6 else "k")
                left += 1
            left += 0.35
    axis.set(xlim=(-2, left), ylim=(len(rows), -0.9), title=title)
    axis.axis("off")
    scale = figure.colorbar(plt.cm.ScalarMappable(Normalize(1, 9), SHADES), ax=axis, aspect=8, shrink=0.9)
    scale.set_ticks([1, 5, 9])
    scale.set_label("valid weights", fontsize=SMALL_TEXT)
    return figure


PITCH = 1.16
"""Distance from one branch of a head to the next; a feature map is less than 1 high."""


class Layer(Protocol):
    """One convolution of a network, such as :func:`deeplabv3.model.cost.layer_costs` lists them."""

    name: str
    kernel: int
    rate: int
    in_channels: int
    out_channels: int
    height: int
    width: int


def figure5(panels: Mapping[str, Sequence[Layer]]) -> Figure:
    """Fig. 5: the head; ``panels`` maps titles to all layers of a network with head aspp or v2.

    A square is the feature map, drawn to scale with its rates. On it stand the weights of one output position (nine,
    or one), gray where they fall on the padding; image pooling reads the whole square.
    """
    branches = [[layer for layer in layers if _is_branch(layer)] for layers in panels.values()]
    rows = max(map(len, branches)) * PITCH
    size = (4.3 * len(panels), 0.3 + 0.53 * rows)
    figure, axes = plt.subplots(1, len(panels), squeeze=False, figsize=size, layout="constrained")
    for axis, (title, layers), parallel in zip(axes[0], panels.items(), branches, strict=True):
        tail = [layer for layer in layers if layer.name.startswith("head.") and layer not in parallel]
        _draw_head(axis, parallel, tail, rows)
        axis.set(xlim=(-0.1, 7.8), ylim=(rows + 0.05, -0.05), aspect="equal", title=title)
        axis.axis("off")
    return figure


def _is_branch(layer: Layer) -> bool:
    return layer.name.startswith(("head.branches.", "head.image_pooling.", "head.classifiers."))


def _draw_head(axis: Axes, branches: Sequence[Layer], tail: Sequence[Layer], rows: float) -> None:
    height, width, channels = branches[0].height, branches[0].width, branches[0].in_channels
    middle, top = rows / 2, (rows - PITCH * len(branches)) / 2
    _box(axis, (0, middle), (1.15, 1.1), f"block4\n{channels}\n{width} x {height}", BLUE)
    for row, layer in enumerate(branches):
        y = top + PITCH * (row + 0.5)
        arrow(axis, (1.15, middle), (1.6, y))
        _draw_weights(axis, (1.75, y - 0.43), 0.86, layer, (height, width))
        text = f"{layer.kernel}x{layer.kernel}" + (f", rate {layer.rate}" if layer.kernel > 1 else "")
        text = "mean, " + text if "image_pooling" in layer.name else text
        axis.text(2.8, y, f"{text}\n{layer.out_channels} channels", va="center", fontsize=SMALL_TEXT)
        arrow(axis, (4.4, y), (4.82, middle if not tail else y))
    last = branches[-1] if not tail else tail[-1]
    if tail:
        text = f"concat {len(branches) * branches[0].out_channels}"
        _box(axis, (4.85, middle), (0.4, PITCH * len(branches) - 0.2), text, GREEN, rotation=90)
    else:
        axis.add_patch(Circle((5.05, middle), 0.22, facecolor="white", edgecolor=GREEN))
        axis.text(5.05, middle, "+", ha="center", va="center")
    left = 5.25
    for layer in tail[:-1]:
        arrow(axis, (left, middle), (left + 0.3, middle))
        text = f"{layer.kernel}x{layer.kernel}\n{layer.out_channels}"
        _box(axis, (left + 0.3, middle), (0.7, 0.8), text, BLUE)
        left += 1
    arrow(axis, (left, middle), (left + 0.3, middle))
    text = f"{'1x1, ' if tail else ''}logits\n{last.out_channels}\n{width} x {height}"
    _box(axis, (left + 0.3, middle), (1.2, 1.1), text, ORANGE)


Point = tuple[float, float]


def _draw_weights(axis: Axes, corner: Point, side: float, layer: Layer, size: tuple[int, int]) -> None:
    """Draw the feature map of ``size`` (h, w) as a square of ``side``, and on it the weights of one output position."""
    left, top = corner
    pooled = "image_pooling" in layer.name
    color = ORANGE if pooled else "white"
    axis.add_patch(Rectangle((left, top), side, side, facecolor=color, edgecolor="black", linewidth=0.6))
    if pooled:
        return
    step, place = side / max(size), [2 * length // 5 for length in size]
    offsets = (-layer.rate, 0, layer.rate) if layer.kernel > 1 else (0,)
    for dy in offsets:
        for dx in offsets:
            y, x = place[0] + dy, place[1] + dx
            inside = 0 <= y < size[0] and 0 <= x < size[1]
            # Beyond the border a true distance would run into the neighbors: the padding is drawn as a narrow margin.
            x, y = (min(max(value, -3), length + 2) for value, length in ((x, size[1]), (y, size[0])))
            spot = (left + (x + 0.5) * step, top + (y + 0.5) * step)
            axis.plot(*spot, "s", markersize=2.6, color=ORANGE if inside else GRAY, clip_on=False)


def _box(axis: Axes, place: Point, size: Point, text: str, color: str, rotation: float = 0) -> None:
    """Draw a box with a text in its middle.

    Args:
        axis: the axes of the head.
        place: left end and middle of the height.
        size: width and height.
        text: one or more lines.
        color: of the frame, and pale of the inside.
        rotation: of the text, in degrees.
    """
    (left, middle), (width, height) = place, size
    axis.add_patch(Rectangle((left, middle - height / 2), width, height, facecolor=color, alpha=0.2, edgecolor="none"))
    axis.add_patch(Rectangle((left, middle - height / 2), width, height, fill=False, edgecolor=color))
    axis.text(left + width / 2, middle, text, ha="center", va="center", fontsize=SMALL_TEXT, rotation=rotation)


def arrow(axis: Axes, start: Point, end: Point) -> None:
    style = {"arrowstyle": "->", "color": GRAY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=style)


FIGURE_2: dict[str, tuple[list[tuple[float, float, float, int]], list[tuple[int, int]]]] = {
    "(a) image pyramid": (
        [(1.0, 0, 1.6, 0), (1.0, 1, 1.0, 0), (1.0, 2, 0.6, 0), (2.9, 0, 0.8, 0), (2.9, 1, 0.5, 0), (2.9, 2, 0.3, 0),
         (1.95, 3.4, 0.6, 2)],
        [(0, 1), (1, 2), (3, 4), (4, 5), (2, 6), (5, 6)],
    ),
    "(b) encoder-decoder": (
        [(1.0, 0, 1.6, 0), (1.0, 1, 1.0, 0), (1.0, 2, 0.6, 0), (1.0, 3, 0.3, 0), (2.9, 3, 0.3, 0), (2.9, 2, 0.6, 0),
         (2.9, 1, 1.0, 0), (2.9, 0, 1.6, 2)],
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (2, 5), (1, 6)],
    ),
    "(c) deeper with atrous convolution": (
        [(1.95, 0, 1.6, 0), (1.95, 0.85, 1.0, 0), (1.95, 1.7, 0.6, 0), (1.95, 2.3, 0.6, 1), (1.95, 2.85, 0.6, 1),
         (1.95, 3.4, 0.6, 2)],
        [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)],
    ),
    "(d) spatial pyramid pooling": (
        [(1.95, 0, 1.6, 0), (1.95, 0.85, 1.0, 0), (1.95, 1.7, 0.6, 0), (0.8, 2.55, 0.6, 1), (1.95, 2.55, 0.6, 1),
         (3.1, 2.55, 0.6, 1), (1.95, 3.4, 0.6, 2)],
        [(0, 1), (1, 2), (2, 3), (2, 4), (2, 5), (3, 6), (4, 6), (5, 6)],
    ),
}  # fmt: skip
"""Fig. 2: slabs of features (center, height, width, kind: plain, atrous or output), and arrows between them."""


def figure2() -> Figure:
    """Fig. 2: four ways to multi-scale context, from the image at the bottom to the output; width is resolution."""
    figure, axes = plt.subplots(1, len(FIGURE_2), squeeze=False, figsize=(8.4, 1.9), layout="constrained")
    for axis, (title, (slabs, arrows)) in zip(axes[0], FIGURE_2.items(), strict=True):
        for center, height, width, kind in slabs:
            color = (BLUE, ORANGE, GREEN)[kind]
            axis.add_patch(Rectangle((center - width / 2, height), width, 0.24, color=color, alpha=0.75))
        for start, end in arrows:
            _connect(axis, slabs[start], slabs[end])
        axis.set(xlim=(0, 3.9), ylim=(-0.1, 3.8))
        axis.set_title(title, fontsize=SMALL_TEXT)
        axis.axis("off")
    return figure


def _connect(axis: Axes, start: Sequence[float], end: Sequence[float]) -> None:
    """Draw an arrow from slab to slab: up, down, or across where both are at the same height."""
    (x0, y0, w0, _), (x1, y1, w1, _) = start, end
    if y0 == y1:
        arrow(axis, (x0 + w0 / 2 + 0.05, y0 + 0.12), (x1 - w1 / 2 - 0.05, y1 + 0.12))
    elif y1 > y0:
        arrow(axis, (x0, y0 + 0.24), (x1, y1))
    else:
        arrow(axis, (x0, y0), (x1, y1 + 0.24))
