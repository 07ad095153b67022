"""Bootstrap intervals against closed forms, against scipy, and their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from deeplabv3.evaluation.metrics import mean_iou
from walkthrough.report import intervals
from walkthrough.report.intervals import Estimate, bootstrap, combine_seeds, weighted_sum


def right_or_wrong(right: np.ndarray) -> np.ndarray:
    """Images of one class, all right or all wrong: IoU is the share of right ones, mIoU of two classes half."""
    confusions = np.zeros((len(right), 2, 2), dtype=np.int64)
    confusions[:, 0, 0], confusions[:, 0, 1] = right, ~right
    return confusions


def some_confusions(seed: int, images: int = 60, classes: int = 4) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 50, (images, classes, classes)) + 80 * np.eye(classes, dtype=np.int64)


def test_estimate_value_is_mean_iou():
    confusions = some_confusions(0)
    assert bootstrap(confusions).value == pytest.approx(mean_iou(confusions.sum(axis=0)))


def test_interval_matches_known_binomial_interval():
    right = np.arange(400) < 280
    found = bootstrap(right_or_wrong(right))
    half = 50 * stats.norm.ppf(0.975) * np.sqrt(0.7 * 0.3 / 400)
    assert found.value == pytest.approx(35)
    assert found.interval() == pytest.approx((35 - half, 35 + half), abs=0.15)
    wide = 50 * stats.norm.ppf(0.995) * np.sqrt(0.7 * 0.3 / 400)
    assert found.interval(0.99) == pytest.approx((35 - wide, 35 + wide), abs=0.3)


def test_interval_matches_scipy_percentile_bootstrap_and_bca():
    ours, theirs = some_confusions(1), some_confusions(2)

    def difference(index, axis=-1):
        index = np.moveaxis(index, axis, -1).astype(int)
        flat = index.reshape(-1, index.shape[-1])
        values = [mean_iou(ours[one].sum(axis=0)) - mean_iou(theirs[one].sum(axis=0)) for one in flat]
        return np.reshape(values, index.shape[:-1])

    found = weighted_sum([(1, bootstrap(ours)), (-1, bootstrap(theirs))])
    for method, tolerance in (("percentile", 0.12), ("BCa", 0.25)):
        wanted = stats.bootstrap(
            (np.arange(len(ours)),), difference, n_resamples=2000, method=method, rng=np.random.default_rng(5)
        ).confidence_interval
        assert found.interval() == pytest.approx((wanted.low, wanted.high), abs=tolerance)


def test_interval_has_nominal_coverage():
    random = np.random.default_rng(3)
    held = 0
    for _ in range(300):
        low, high = bootstrap(right_or_wrong(random.random(120) < 0.6)).interval()
        held += low <= 30 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_difference_is_paired_by_image():
    """A network that is better by the same on every image is surely better, however much the images vary."""
    random = np.random.default_rng(4)
    hard = random.integers(0, 900, 80)
    worse = np.array([[[1000 - h, h], [h, 1000 - h]] for h in hard])
    better = worse + np.array([[30, -30], [-30, 30]]) * (hard > 30)[:, None, None]
    low, high = weighted_sum([(1, bootstrap(better)), (-1, bootstrap(worse))]).interval()
    alone = bootstrap(better).interval()
    assert 0 < low < high < low + 2
    assert alone[1] - alone[0] > 5 * (high - low)
    same = weighted_sum([(1, bootstrap(worse)), (-1, bootstrap(worse))])
    assert same.interval() == (0, 0)


def test_draw_without_class_leaves_it_out():
    confusions = np.zeros((3, 3, 3), dtype=np.int64)
    confusions[:, 0, 0], confusions[0, 2, 2] = 10, 5  # every class that occurs is perfect
    assert bootstrap(confusions).interval() == (100, 100)


def test_seed_variance_widens_interval_by_student():
    """Seeds that differ while images do not: Student's interval of their mean."""
    values = np.array([50.0, 52.0, 51.0, 57.0])
    seeds = [Estimate(np.array([value]), np.full((1, intervals.DRAWS), value)) for value in values]
    found = combine_seeds(seeds)
    assert found.value == values.mean()
    wanted = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert found.interval() == pytest.approx(wanted)
    assert seeds[0].interval() == (50, 50)


@pytest.mark.parametrize("scatter", [0.0, 0.5, 2.0])
def test_interval_of_three_seeds_has_nominal_coverage(scatter):
    """Images that scatter by 1 and seeds that scatter by ``scatter``, around a difference of 0."""
    random, held = np.random.default_rng(7), 0
    for _ in range(600):
        common = random.normal()
        values = common + scatter * random.normal(size=3)
        draws = values[:, None] + random.normal(size=intervals.DRAWS)
        low, high = Estimate(values, draws).interval()
        held += low <= 0 <= high
    assert 0.93 <= held / 600 <= 0.99


def test_equal_seeds_do_not_shrink_image_interval():
    one = bootstrap(some_confusions(6))
    three = combine_seeds([one, one, one])
    assert three.interval() == pytest.approx(one.interval(), abs=1e-9)


def test_disagreeing_seed_leaves_difference_undecided():
    right = np.arange(200) < 150
    better, worse = (
        bootstrap(right_or_wrong(right)),
        bootstrap(right_or_wrong(np.roll(right, 7) & (np.arange(200) < 148))),
    )
    agree = combine_seeds([weighted_sum([(1, better), (-1, worse)])] * 3)
    disagree = combine_seeds([weighted_sum([(sign, better), (-sign, worse)]) for sign in (1, 1, -1)])
    assert agree.interval()[0] > 0
    assert disagree.interval()[0] < 0 < disagree.interval()[1]
