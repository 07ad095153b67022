"""How sure a measured mIoU is, and a difference of two: bootstrap over images, and over seeds.

mIoU comes from one confusion matrix over all images, so the images are what chance has drawn. A draw takes as many
of them as there are, with repetition, and adds up their confusion matrices. Every evaluation of one list takes the
*same* images in its n-th draw: differences between rows are paired, and what makes a image hard for both cancels.

Another seed is another draw of the training. With several seeds the interval holds both sources of chance: the
images' own, from the draws of the mean over the seeds, and Student's for the mean of so few seeds, added in
quadrature. (To draw seeds as well would not do: of three, all draws are the worst one in 1 of 27.) With one seed it
holds the images alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from deeplabv3.evaluation.metrics import class_iou

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mIoU in percent, or a sum of several: ``values (seeds,)``, and the draws' own, ``draws (seeds, DRAWS)``."""

    values: np.ndarray
    draws: np.ndarray

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return float(self.values.mean())

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Between which values the mean over the seeds lies with a probability of ``level``."""
        tail = (1 - level) / 2
        low, high = np.quantile(self.draws.mean(axis=0), (tail, 1 - tail))
        below, above = max(self.value - low, 0.0), max(high - self.value, 0.0)
        seeds = len(self.values)
        if seeds > 1:
            scatter = stats.t.ppf(1 - tail, seeds - 1) * self.values.std(ddof=1) / np.sqrt(seeds)
            below, above = np.hypot(below, scatter), np.hypot(above, scatter)
        return float(self.value - below), float(self.value + above)


def bootstrap(confusions: np.ndarray) -> Estimate:
    """The mIoU of one seed's evaluation, from its images' confusion matrices ``(images, K, K)``."""
    images, classes, _ = confusions.shape
    totals = (_weights(images) @ confusions.reshape(images, -1)).reshape(-1, classes, classes)
    mious = _mean_iou(np.concatenate([confusions.sum(axis=0)[None], totals]))
    return Estimate(mious[:1], mious[None, 1:])


def combine_seeds(seeds: Sequence[Estimate]) -> Estimate:
    """The evaluations of one cell with several seeds as one."""
    values, draws = zip(*((one.values, one.draws) for one in seeds), strict=True)
    return Estimate(np.concatenate(values), np.concatenate(draws))


def weighted_sum(terms: Sequence[tuple[float, Estimate]]) -> Estimate:
    """The sum of ``weight * measured``, seed by seed and draw by draw: (1, a) and (-1, b) are a paired difference."""
    values = sum(weight * part.values for weight, part in terms)
    return Estimate(values, sum(weight * part.draws for weight, part in terms))


def _mean_iou(confusions: np.ndarray) -> np.ndarray:
    """The mIoU in percent of many matrices ``(N, K, K)`` over the classes that each has; NaN where it has none."""
    ious = class_iou(confusions)
    present = np.isfinite(ious).sum(axis=-1)
    total = np.nansum(ious, axis=-1)
    return 100 * np.divide(total, present, out=np.full(len(ious), np.nan), where=present > 0)


@lru_cache(maxsize=4)
def _weights(images: int) -> np.ndarray:
    """How often each draw takes each image, ``(DRAWS, images)``: the same for every evaluation of the list."""
    shares = np.full(images, 1 / images)
    return np.random.default_rng(0).multinomial(images, shares, size=DRAWS).astype(float)
