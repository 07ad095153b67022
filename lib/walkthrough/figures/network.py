"""The whole network of Fig. 5, from image to logits, drawn from the shapes of its layers."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from walkthrough.figures.architecture import Layer, arrow
from walkthrough.figures.charts import BLUE, GRAY, GREEN, ORANGE, SMALL_TEXT

HEIGHT = 2.6
"""Of the image; another map is lower by the root of the ratio of their sides."""


def network(layers: Sequence[Layer], size: tuple[int, int]) -> Figure:
    """Feature maps of a ResNet with head aspp as boxes, with channels and height x width below, rates above.

    ``layers`` are all its convolutions in order, such as :func:`deeplabv3.model.cost.layer_costs` lists them for an
    image of ``size`` (h, w). A box is the wider, the more channels it has; ASPP's branches are drawn smaller. Orange is
    what atrous convolutions give.
    """
    figure, axis = plt.subplots(figsize=(9.2, 2.9), layout="constrained")
    drawing = _Drawing(axis, size)
    drawing.box("image", 3, size, GRAY)
    stem, *blocks = _blocks(layers).items()
    pooled = blocks[0][1][0]  # block1's first 1x1 convolution keeps the size that the stem's max pooling leaves
    drawing.box(stem[0], pooled.in_channels, _size(pooled), BLUE)
    for name, block in blocks:
        rates = [layer.rate for layer in block if layer.kernel == 3]
        atrous = max(rates) > 1
        above = f"{name}\nrates {', '.join(map(str, rates))}" if atrous else name
        drawing.box(above, block[-1].out_channels, _size(block[-1]), ORANGE if atrous else BLUE)
    head = [layer for layer in layers if layer.name.startswith("head.")]
    branches = [layer for layer in head if layer.name.startswith(("head.branches.", "head.image_pooling."))]
    features = _size(branches[0])
    drawing.branches(branches, features)
    drawing.box("concat", sum(layer.out_channels for layer in branches), features, GREEN)
    for layer in head[len(branches) :]:
        last = layer is head[-1]
        drawing.box(f"{'logits, ' if last else ''}{layer.kernel}x{layer.kernel}", layer.out_channels, features, GREEN)
    drawing.box("upsampled", head[-1].out_channels, size, GRAY)
    axis.set(xlim=(-0.1, drawing.right + 0.1), ylim=(-HEIGHT / 2 - 0.5, HEIGHT / 2 + 0.35), aspect="equal")
    axis.axis("off")
    return figure


def _blocks(layers: Sequence[Layer]) -> dict[str, list[Layer]]:
    """The backbone's layers by the names of their blocks, in order; what comes before block1 is the stem."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        module, block, *_ = layer.name.split(".")
        if module == "backbone":
            found.setdefault(block if block.startswith("block") else "stem", []).append(layer)
    return found


def _size(layer: Layer) -> tuple[int, int]:
    return layer.height, layer.width


class _Drawing:
    """Boxes from left to right, with an arrow in front of each but the first."""

    def __init__(self, axis: Axes, size: tuple[int, int]):
        self.axis, self.side = axis, max(size)
        self.right = 0.0

    def box(self, above: str, channels: int, size: tuple[int, int], color: str) -> None:
        """Draw a feature map around the middle line."""
        width, gap = 0.1 + 0.035 * channels**0.4, 0.0 if self.right == 0 else 0.5
        if gap:
            arrow(self.axis, (self.right + 0.06, 0), (self.right + gap - 0.06, 0))
        self._map(self.right + gap, 0, width, self._height(size), color)
        middle = self.right + gap + width / 2
        shape = f"{channels}\n{size[0]} x {size[1]}"
        below, top = -self._height(size) / 2 - 0.08, self._height(size) / 2 + 0.08
        self.axis.text(middle, below, shape, ha="center", va="top", fontsize=SMALL_TEXT)
        self.axis.text(middle, top, above, ha="center", va="bottom", fontsize=SMALL_TEXT)
        self.right += gap + width

    def branches(self, layers: Sequence[Layer], features: tuple[int, int]) -> None:
        """Draw the parallel branches of ASPP above each other, with an arrow to each."""
        width, height, pitch = 0.24, 0.36, 0.56
        for row, layer in enumerate(layers):
            y = pitch * ((len(layers) - 1) / 2 - row)
            arrow(self.axis, (self.right + 0.06, 0), (self.right + 0.74, y))
            self._map(self.right + 0.8, y, width, height, ORANGE if layer.rate > 1 else GREEN)
            text = f"{layer.kernel}x{layer.kernel}" + (f", rate {layer.rate}" if layer.kernel > 1 else "")
            text = "image pooling" if "image_pooling" in layer.name else text
            self.axis.text(self.right + 0.86 + width, y, text, va="center", fontsize=SMALL_TEXT)
            arrow(self.axis, (self.right + 2.2, y), (self.right + 2.54, 0))
        shape = f"{len(layers)} times {layers[0].out_channels}\n{features[0]} x {features[1]}"
        below = -pitch * (len(layers) - 1) / 2 - height / 2 - 0.08
        self.axis.text(self.right + 1.1, below, shape, ha="center", va="top", fontsize=SMALL_TEXT)
        self.right += 2.1

    def _height(self, size: tuple[int, int]) -> float:
        return HEIGHT * (max(size) / self.side) ** 0.5

    def _map(self, left: float, middle: float, width: float, height: float, color: str) -> None:
        corner = (left, middle - height / 2)
        self.axis.add_patch(Rectangle(corner, width, height, facecolor=color, edgecolor="white", alpha=0.75))
