"""Forest plot of the claims: the paper's differences beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from walkthrough.figures.charts import BLUE, GREEN, ORANGE

COLORS = {"supported": GREEN, "contradicted": ORANGE, "not decided": "#777777"}  # of several seeds
COLORS |= {"higher": BLUE, "lower": BLUE, "open": "#777777"}  # of one
COLORS |= {"other question": "#bbbbbb"}
MARKS = {"supported": "o", "contradicted": "X", "not decided": "s", "higher": ">", "lower": "<", "open": "d"}

APART = 0.18
"""Of a line's height: from its middle up to the paper's mark and down to ours, so that neither hides the other."""


@dataclass(frozen=True)
class ForestRow:
    """A claim. Differences are in points of mIoU."""

    name: str
    place: str  # in the paper, such as "Table 1"
    paper: float  # NaN: none is printed
    ours: tuple[float, float, float] | None  # the difference and the ends of its interval; None: nothing was measured
    verdict: str
    label: str  # the verdict as it is printed
    bound: float = 0.0  # that the difference is said to be above
    continues: bool = False  # the claim above, measured elsewhere: ``place`` says where


def forest(rows: Sequence[ForestRow], title: str) -> Figure:
    """One line a claim: its name, the difference that it is about, and the verdict.

    Color and mark both tell the verdict, and a stroke the bound where it is not 0. The axis is linear within a point of
    zero and logarithmic beyond, since the paper's differences reach from a tenth of a point to fifty.
    """
    figure, axis = plt.subplots(figsize=(10.6, 0.9 + 0.29 * len(rows)), layout="constrained")
    claims = np.cumsum([not row.continues for row in rows])
    for y, row in enumerate(rows):
        if claims[y] % 2:
            axis.axhspan(y - 0.5, y + 0.5, color="#f4f4f4", zorder=0)
        axis.plot(row.paper, y - APART, "D", markersize=4.5, markerfacecolor="none", color="black", zorder=2)
        if row.bound:
            axis.plot(row.bound, y, "|", markersize=11, color="black", zorder=2)
        color = COLORS.get(row.verdict, "#bbbbbb")
        if row.ours is not None:
            difference, low, high = row.ours
            axis.plot([low, high], [y + APART] * 2, color=color, linewidth=2, zorder=3)
            axis.plot(difference, y + APART, MARKS.get(row.verdict, "o"), color=color, markersize=6, zorder=4)
        axis.annotate(
            row.label,
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            color=color,
            weight="bold",
            fontsize=9,
        )
    axis.axvline(0, color="black", linewidth=0.8, zorder=1)
    axis.set_xscale("symlog", linthresh=1, linscale=0.6)
    ticks = [-30, -10, -3, -1, 0, 1, 3, 10, 30]
    ends = [end for row in rows for end in (row.paper, *(row.ours or ())) if np.isfinite(end)]
    axis.set_xlim(min(-1.5, *(1.2 * end for end in ends)), max(3, *(1.2 * end for end in ends)))
    shown = [tick for tick in ticks if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
    axis.set_xticks(shown, [f"{tick:+d}" if tick else "0" for tick in shown])
    names = [row.place if row.continues else f"{row.name}  ({row.place})" for row in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set_xlabel(
        "difference in the direction that the paper claims, points of mIoU (axis: linear to 1, logarithmic beyond)"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    handles = [Line2D([], [], marker="D", color="black", markerfacecolor="none", linestyle="", label="paper")]
    handles += [Line2D([], [], marker="|", markersize=11, color="black", linestyle="", label="bound, if not 0")]
    shown_verdicts = {row.verdict for row in rows if row.ours is not None}
    handles += [
        Line2D([], [], marker=MARKS.get(name, "o"), color=color, linewidth=2, label=f"ours, 95 %: {name}")
        for name, color in COLORS.items()
        if name in shown_verdicts
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    return figure
