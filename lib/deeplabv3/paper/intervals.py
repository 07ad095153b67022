"""How sure a measured mIoU is, and a difference of two: bootstrap over pictures, and over seeds where there are any.

mIoU comes from one confusion matrix over all pictures, so the pictures are what chance has drawn. A draw takes as many
of them as there are, with repetition, and adds up their confusion matrices. Every evaluation of one list takes the
*same* pictures in its n-th draw: differences between rows are paired, and what makes a picture hard for both cancels.

Another seed is another draw of the training. With several seeds a draw also takes as many seeds as there are, with
repetition, and the interval holds both sources of chance. With one seed it holds the pictures alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from deeplabv3.evaluation.metrics import class_iou

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """A mIoU in percent, or a sum of several: ``values (seeds,)``, and the draws' own, ``draws (seeds, DRAWS)``."""

    values: np.ndarray
    draws: np.ndarray

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return float(self.values.mean())

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The bootstrap's percentiles around the mean over the seeds, for instance 2.5 and 97.5 for a level of 0.95."""
        tail = 50 * (1 - level)
        low, high = np.percentile(self._draws_of_mean(), (tail, 100 - tail))
        return float(low), float(high)

    def _draws_of_mean(self) -> np.ndarray:
        seeds = len(self.values)
        mean = self.draws.mean(axis=0)
        if seeds == 1:
            return mean
        chosen = np.random.default_rng(1).integers(seeds, size=self.draws.shape)
        drawn = np.take_along_axis(self.draws, chosen, axis=0).mean(axis=0)
        # The spread of so few seeds around their own mean is too small by (seeds - 1) / seeds (Rao and Wu, 1988).
        return mean + (drawn - mean) * np.sqrt(seeds / (seeds - 1))


def measure(confusions: np.ndarray) -> Measured:
    """The mIoU of one seed's evaluation, from its pictures' confusion matrices ``(pictures, K, K)``."""
    pictures, classes, _ = confusions.shape
    totals = (_weights(pictures) @ confusions.reshape(pictures, -1)).reshape(-1, classes, classes)
    mious = _mean_iou(np.concatenate([confusions.sum(axis=0)[None], totals]))
    return Measured(mious[:1], mious[None, 1:])


def together(seeds: Sequence[Measured]) -> Measured:
    """The evaluations of one cell with several seeds as one."""
    values, draws = zip(*((one.values, one.draws) for one in seeds), strict=True)
    return Measured(np.concatenate(values), np.concatenate(draws))


def weighted_sum(terms: Sequence[tuple[float, Measured]]) -> Measured:
    """The sum of ``weight * measured``, seed by seed and draw by draw: (1, a) and (-1, b) are a paired difference."""
    values = sum(weight * part.values for weight, part in terms)
    return Measured(values, sum(weight * part.draws for weight, part in terms))


def _mean_iou(confusions: np.ndarray) -> np.ndarray:
    """The mIoU in percent of many matrices ``(N, K, K)`` over the classes that each has; NaN where it has none."""
    ious = class_iou(confusions)
    present = np.isfinite(ious).sum(axis=-1)
    total = np.nansum(ious, axis=-1)
    return 100 * np.divide(total, present, out=np.full(len(ious), np.nan), where=present > 0)


@lru_cache(maxsize=4)
def _weights(pictures: int) -> np.ndarray:
    """How often each draw takes each picture, ``(DRAWS, pictures)``: the same for every evaluation of the list."""
    shares = np.full(pictures, 1 / pictures)
    return np.random.default_rng(0).multinomial(pictures, shares, size=DRAWS).astype(float)
