"""Drawings of networks (Figs. 3 and 5): rows of data in, figure out, just as in ``plots``."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deeplabv3.plots import COLOURS


def networks(rows: Mapping[str, Sequence[tuple[str, int, str]]]) -> Figure:
    """Fig. 3: one row a network, one box a block; ``(name, output stride after it, rates)``.

    A box is as high as its features are wide: a network without atrous convolution shrinks to nothing.
    """
    figure, axes = plt.subplots(len(rows), squeeze=False, figsize=(7.6, 1.5 * len(rows)), layout="constrained")
    for axis, (title, blocks) in zip(axes[:, 0], rows.items(), strict=True):
        for position, (name, output_stride, rates) in enumerate(blocks):
            height = (4 / output_stride) ** 0.5
            box = Rectangle(
                (position + 0.12, 0.5 - height / 2), 0.76, height, color=COLOURS[1 if rates else 0], alpha=0.75
            )
            axis.add_patch(box)
            axis.text(position + 0.5, 1.12, name, ha="center", fontsize=8)
            axis.text(position + 0.5, -0.24, f"stride {output_stride}", ha="center", fontsize=8)
            if rates:
                axis.text(position + 0.5, -0.48, f"rate {rates}", ha="center", fontsize=8, color=COLOURS[1])
        axis.set(xlim=(0, len(blocks)), ylim=(-0.6, 1.3), title=title)
        axis.axis("off")
    return figure
