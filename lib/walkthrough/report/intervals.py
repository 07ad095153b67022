"""Uncertainty of a measured mIoU, and of a difference of two: bootstrap over images, and over seeds.

mIoU comes from one confusion matrix over all images, so the images are what chance has drawn. A draw takes as many of
them as there are, with repetition, and adds up their confusion matrices. Every evaluation of one list takes the *same*
images in its n-th draw: differences between rows are paired, and an image that is hard for both cancels.

Another seed is another draw of the training: initial weights, order, crops, dropout. With several seeds the interval
holds both sources of chance: that of the images, from the draws of the mean over the seeds, and Student's interval for
the mean of so few seeds, added in quadrature (MOVER; Howe, Zou and Donner). Resampling the seeds would not do: with
three, one resample in 27 consists of the worst seed alone. With one seed the interval holds the images alone, and other
training images are in no interval.

95 % of the draws make the images' part of the 95 % interval. At another level this part is as much wider or narrower as
Student's quantiles are: the 0.13 % that a claim of nineteen comparisons asks for are three of 2,000 draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
from scipy import optimize, stats

from deeplabv3.evaluation.metrics import class_iou

DRAWS = 2000
LEVEL = 0.95
POWER = 0.8
"""Chance that a difference of the size of :meth:`Estimate.detectable` is seen."""

FEW_IMAGES, FEW_OF_A_CLASS = 100, 5
"""Below these an interval over images is too narrow by several points of its level (coverage 0.89 at 40 images)."""


@dataclass(frozen=True)
class Estimate:
    """mIoU in percent, or a weighted sum of several.

    ``values (seeds,)``, and bootstrap draws ``(seeds, DRAWS)`` of ``images`` images.
    """

    values: np.ndarray
    draws: np.ndarray
    images: int

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return float(self.values.mean())

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Ends of the confidence interval, at ``level``, of the mIoU expected over other images and other seeds."""
        below, above = self._distances((1 - level) / 2)
        return float(self.value - below), float(self.value + above)

    def p_value(self, bound: float = 0.0) -> float:
        """Two-sided p value of the hypothesis ``bound`` against something above: 1 minus the level that excludes it."""

        def excess(tail: float) -> float:
            return float(self.value - self._distances(tail)[0] - bound)

        least = 1e-9
        if self.value <= bound:
            return 1.0
        return 2 * least if excess(least) >= 0 else 2 * float(optimize.brentq(excess, least, 0.5))

    def detectable(self) -> float:
        """Difference, in points, that an interval such as this one excludes 0 for with a chance of :data:`POWER`."""
        error = self._image_distances.mean() / stats.norm.ppf((1 + LEVEL) / 2)
        half_width = float(np.mean(self._distances((1 - LEVEL) / 2)))
        return float(half_width + stats.norm.ppf(POWER) * np.hypot(error, self._seed_error))

    @cached_property
    def _image_distances(self) -> np.ndarray:
        """From the value down and up to the ends of what 95 % of the draws span ``(2,)``."""
        low, high = np.quantile(self.draws.mean(axis=0), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return np.maximum((self.value - low, high - self.value), 0.0)

    @cached_property
    def _seed_error(self) -> float:
        """Standard error of the mean over the seeds; 0 for one, which does not tell it."""
        return float(stats.sem(self.values)) if len(self.values) > 1 else 0.0

    def _distances(self, tail: float) -> np.ndarray:
        """From the value down and up to the ends of the interval that leaves out ``tail`` on either side ``(2,)``."""
        images, seeds = max(self.images, 2), len(self.values)
        # Student's and not the normal quantile, and N - 1 for N, count in small lists alone.
        student = _student(1 - tail, images - 1) / stats.norm.ppf((1 + LEVEL) / 2)
        chance_of_images = self._image_distances * student * np.sqrt(images / (images - 1))
        chance_of_seeds = _student(1 - tail, seeds - 1) * self._seed_error if seeds > 1 else 0.0
        return np.hypot(chance_of_images, chance_of_seeds)


@cache
def _student(probability: float, degrees: int) -> float:
    """Quantile of Student's distribution; SciPy takes a millisecond for one, and reports ask thousands of times."""
    return float(stats.t.ppf(probability, degrees))


def bootstrap(confusions: np.ndarray) -> Estimate:
    """mIoU of one seed's evaluation, from its images' confusion matrices ``(images, K, K)``."""
    images, classes, _ = confusions.shape
    totals = (draws_of_images(images) @ confusions.reshape(images, -1)).reshape(-1, classes, classes)
    miou = _mean_iou(np.concatenate([confusions.sum(axis=0)[None], totals]))
    return Estimate(miou[:1], miou[None, 1:], images)


def prediction(values: np.ndarray, new: int = 1, level: float = LEVEL) -> tuple[float, float]:
    """Interval for the mean of ``new`` further seeds on the same images, from the ``values`` ``(seeds,)`` of others.

    Student's; NaN from a single seed, which tells no spread.
    """
    if (seeds := len(values)) < 2:
        return float("nan"), float("nan")
    error = values.std(ddof=1) * np.sqrt(1 / new + 1 / seeds)
    half_width = stats.t.ppf((1 + level) / 2, seeds - 1) * error
    return float(values.mean() - half_width), float(values.mean() + half_width)


def small_list_warning(confusions: np.ndarray) -> str:
    """Sentence that says why intervals from these images ``(images, K, K)`` are rough; empty where they are many."""
    truth = (confusions.sum(axis=2) > 0).sum(axis=0)  # images with each class
    rarest = truth[truth > 0].min(initial=len(confusions))
    few = [f"{len(confusions)} images (fewer than {FEW_IMAGES})"] if len(confusions) < FEW_IMAGES else []
    few += [f"{rarest} of a class (fewer than {FEW_OF_A_CLASS})"] if rarest < FEW_OF_A_CLASS else []
    return f"The intervals are rough: they rest on {', and on '.join(few)}." if few else ""


def combine_seeds(seeds: Sequence[Estimate]) -> Estimate:
    """One estimate of a cell from those of its seeds."""
    values, draws = (np.concatenate(parts) for parts in zip(*((one.values, one.draws) for one in seeds), strict=True))
    return Estimate(values, draws, seeds[0].images)


def weighted_sum(terms: Sequence[tuple[float, Estimate]]) -> Estimate:
    """Sum of ``weight * estimate``, seed by seed and draw by draw: (1, a) and (-1, b) are a paired difference."""
    values = sum((weight * part.values for weight, part in terms), np.zeros(()))
    draws = sum((weight * part.draws for weight, part in terms), np.zeros(()))
    return Estimate(values, draws, terms[0][1].images)


def _mean_iou(confusions: np.ndarray) -> np.ndarray:
    """mIoU in percent ``(N,)`` of the matrices of a list and of its draws ``(N, K, K)``; NaN of one without pixels.

    A class of the list's ground truth that a draw lacks is not part of its mean, whether it is predicted there or not:
    so the means of two networks are over the same classes.
    """
    ious = class_iou(confusions)
    truth = confusions.sum(axis=2) > 0
    ious[~truth & truth[0]] = np.nan
    present = np.isfinite(ious).sum(axis=-1)
    total = np.nansum(ious, axis=-1)
    return 100 * np.divide(total, present, out=np.full(len(ious), np.nan), where=present > 0)


@lru_cache(maxsize=4)
def draws_of_images(images: int) -> np.ndarray:
    """Times that each draw takes each image, ``(DRAWS, images)``; the same for every evaluation of a list."""
    shares = np.full(images, 1 / images)
    return np.random.default_rng(0).multinomial(images, shares, size=DRAWS).astype(float)
