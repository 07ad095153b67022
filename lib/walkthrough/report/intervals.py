"""Uncertainty of a measured mIoU, and of a difference of two: bootstrap over images, and over seeds.

mIoU comes from one confusion matrix over all images, so the images are what chance has drawn. A draw takes as many of
them as there are, with repetition, and adds up their confusion matrices. Every evaluation of one list takes the *same*
images in its n-th draw: differences between rows are paired, and an image that is hard for both cancels.

Another seed is another draw of the training. With several seeds the interval holds both sources of chance: that of the
images, from the draws of the mean over the seeds, and Student's interval for the mean of so few seeds, added in
quadrature. Resampling the seeds would not do: with three, one resample in 27 consists of the worst seed alone. With
one seed the interval holds the images alone.
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
    """mIoU in percent, or a weighted sum of several: ``values (seeds,)``, and bootstrap draws ``(seeds, DRAWS)``."""

    values: np.ndarray
    draws: np.ndarray

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return float(self.values.mean())

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the confidence interval, at ``level``, of the mIoU expected over other images and other seeds."""
        tail = (1 - level) / 2
        low, high = np.quantile(self.draws.mean(axis=0), (tail, 1 - tail))
        below, above = max(self.value - low, 0.0), max(high - self.value, 0.0)
        seeds = len(self.values)
        if seeds > 1:
            scatter = stats.t.ppf(1 - tail, seeds - 1) * self.values.std(ddof=1) / np.sqrt(seeds)
            below, above = np.hypot(below, scatter), np.hypot(above, scatter)
        return float(self.value - below), float(self.value + above)


def bootstrap(confusions: np.ndarray) -> Estimate:
    """mIoU of one seed's evaluation, from its images' confusion matrices ``(images, K, K)``."""
    images, classes, _ = confusions.shape
    totals = (draws_of_images(images) @ confusions.reshape(images, -1)).reshape(-1, classes, classes)
    miou = _mean_iou(np.concatenate([confusions.sum(axis=0)[None], totals]))
    return Estimate(miou[:1], miou[None, 1:])


def combine_seeds(seeds: Sequence[Estimate]) -> Estimate:
    """One estimate of a cell from those of its seeds."""
    return Estimate(np.concatenate([one.values for one in seeds]), np.concatenate([one.draws for one in seeds]))


def weighted_sum(terms: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Sum of ``weight * estimate``, seed by seed and draw by draw: (1, a) and (-1, b) are a paired difference."""
    values = sum((weight * part.values for weight, part in terms), np.zeros(()))
    return Estimate(values, sum((weight * part.draws for weight, part in terms), np.zeros(())))


def _mean_iou(confusions: np.ndarray) -> np.ndarray:
    """mIoU in percent ``(N,)`` of matrices ``(N, K, K)``, each over the classes that it has; NaN where it has none."""
    ious = class_iou(confusions)
    present = np.isfinite(ious).sum(axis=-1)
    total = np.nansum(ious, axis=-1)
    return 100 * np.divide(total, present, out=np.full(len(ious), np.nan), where=present > 0)


@lru_cache(maxsize=4)
def draws_of_images(images: int) -> np.ndarray:
    """Times that each draw takes each image, ``(DRAWS, images)``; the same for every evaluation of a list."""
    shares = np.full(images, 1 / images)
    return np.random.default_rng(0).multinomial(images, shares, size=DRAWS).astype(float)
