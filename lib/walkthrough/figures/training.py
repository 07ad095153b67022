"""Figures of training runs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from walkthrough.figures.charts import COLORS, new_axes


def training_log(runs: Mapping[str, Mapping[str, ArrayLike]], window: int = 100) -> Figure:
    """Loss above the learning rate, of named runs that follow one another.

    The loss of single steps is pale, its mean over the last ``window`` steps is not.

    Args:
        runs: name to the columns ``loss`` and ``lr`` of its log, each ``(steps,)``.
        window: steps of the running mean; at most as many as the shortest run has.
    """
    figure, axes = new_axes(1, width=7.6, height=1.6, rows=2)
    (losses,), (rates,) = axes
    first = 0
    for (name, log), color in zip(runs.items(), COLORS, strict=False):
        loss, rate = np.asarray(log["loss"]), np.asarray(log["lr"])
        steps = first + np.arange(len(loss))
        mean = np.convolve(loss, np.full(window, 1 / window), "valid")  # (steps - window + 1,)
        losses.plot(steps, loss, color=color, linewidth=0.3, alpha=0.35)
        losses.plot(steps[window - 1 :], mean, color=color, label=name)
        rates.plot(steps, rate, color=color)
        first += len(loss)
    losses.set(ylabel="loss (log axis)", yscale="log")
    losses.set_yticks([0.1, 0.3, 1], ["0.1", "0.3", "1"])
    losses.tick_params(labelbottom=False)
    rates.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    rates.sharex(losses)
    losses.legend()
    return figure
