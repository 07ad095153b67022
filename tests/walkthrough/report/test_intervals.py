"""Bootstrap intervals against closed forms, the jackknife and scipy, and their coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from deeplabv3.evaluation.metrics import class_iou, mean_iou
from walkthrough.report import intervals
from walkthrough.report.intervals import DRAWS, Estimate, bootstrap, combine_seeds, small_list_warning, weighted_sum


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
    wide = 50 * stats.norm.ppf(1 - 0.025 / 19) * np.sqrt(0.7 * 0.3 / 400)
    assert found.interval(1 - 0.05 / 19) == pytest.approx((35 - wide, 35 + wide), abs=0.2)


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


def jackknife_error(confusions: np.ndarray) -> float:
    """Standard error of mIoU from its gradient by each image's weight (the infinitesimal jackknife)."""
    total = confusions.sum(axis=0)
    diagonal = np.einsum("nii->ni", confusions)
    union = confusions.sum(axis=1) + confusions.sum(axis=2) - diagonal
    all_unions = total.sum(axis=0) + total.sum(axis=1) - np.diag(total)
    gradient = 100 * ((diagonal - class_iou(total) * union) / all_unions).mean(axis=1)
    return float(np.sqrt((gradient**2).sum()))


@pytest.mark.parametrize("seed", range(4))
def test_bootstrap_error_is_that_of_jackknife(seed):
    confusions = some_confusions(seed, images=200)
    assert bootstrap(confusions).draws.std() == pytest.approx(jackknife_error(confusions), rel=0.05)


@pytest.mark.parametrize("images", [12, 120])
def test_interval_has_nominal_coverage(images):
    random = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        low, high = bootstrap(right_or_wrong(random.random(images) < 0.6)).interval()
        held += low <= 30 <= high
    assert 0.93 <= held / 400 <= 0.98


def test_small_list_widens_interval_by_student():
    draws = stats.norm.ppf((np.arange(DRAWS) + 0.5) / DRAWS)[None]
    for level in (0.95, 0.99):
        half = stats.t.ppf((1 + level) / 2, 9) * np.sqrt(10 / 9)
        assert Estimate(np.zeros(1), draws, 10).interval(level) == pytest.approx((-half, half), rel=0.005)


def test_joint_level_does_not_rest_on_extreme_draws():
    """The 0.13 % quantile of 2,000 draws is the third: one odd draw must not move it."""
    found = bootstrap(some_confusions(5, images=200))
    odd = Estimate(found.values, np.where(np.arange(DRAWS) < 3, found.draws - 20, found.draws), 200)
    assert odd.interval(1 - 0.05 / 19) == pytest.approx(found.interval(1 - 0.05 / 19), abs=0.1)


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


def test_class_without_truth_in_draw_is_left_out():
    """Where the rare class is not drawn, a network that predicts it elsewhere is not scored on another mean."""
    confusions = np.zeros((40, 3, 3), dtype=np.int64)
    confusions[:, 0, 0], confusions[:, 1, 1], confusions[0, 2, 2] = 100, 100, 50
    shy, bold = confusions, confusions.copy()
    bold[1:, 0, 2] = 1
    draws = (bootstrap(bold).draws - bootstrap(shy).draws)[0]
    absent = bootstrap(shy).draws[0] == 100
    assert absent.all() and draws.min() > -30  # its own IoU falls, 50 of 89 pixels, by a third of 44 points
    lacking = np.concatenate([np.delete(bold, 0, axis=0), bold[1:2]])
    assert bootstrap(lacking).value == pytest.approx(mean_iou(lacking.sum(axis=0)))  # no truth in the list: as recorded


def test_small_list_is_warned_of():
    many = np.tile(np.eye(2, dtype=np.int64), (100, 1, 1))
    assert small_list_warning(many) == ""
    assert "99 images (fewer than 100)" in small_list_warning(many[1:])
    rare = many.copy()
    rare[4:, 1] = 0
    assert small_list_warning(rare).endswith("they rest on 4 of a class (fewer than 5).")


def test_draw_without_class_leaves_it_out():
    confusions = np.zeros((3, 3, 3), dtype=np.int64)
    confusions[:, 0, 0], confusions[0, 2, 2] = 10, 5  # every class that occurs is perfect
    assert bootstrap(confusions).interval() == (100, 100)


def test_seed_variance_widens_interval_by_student():
    """Seeds that differ while images do not: Student's interval of their mean."""
    values = np.array([50.0, 52.0, 51.0, 57.0])
    seeds = [Estimate(np.array([value]), np.full((1, DRAWS), value), 100) for value in values]
    found = combine_seeds(seeds)
    assert found.value == values.mean()
    wanted = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    assert found.interval() == pytest.approx(wanted)
    assert seeds[0].interval() == (50, 50)


@pytest.fixture
def few_draws(monkeypatch):
    """A quarter of the draws, for simulations of thousands of bootstraps."""
    monkeypatch.setattr(intervals, "DRAWS", 500)
    intervals.draws_of_images.cache_clear()
    yield
    intervals.draws_of_images.cache_clear()


def trainings(random: np.random.Generator, seeds: int, images: int = 60) -> Estimate:
    """A difference of two settings that do not differ: images, seeds, and how each seed takes each image, drawn anew.

    An image has 1,000 pixels, of which a network has as many right as the image is easy, the seed is good, and both go
    together.
    """
    easy = random.normal(size=images)
    differences = []
    for _ in range(seeds):
        pair = []
        for _ in range(2):
            quality = 1 + easy + 0.3 * random.normal() + 0.5 * random.normal(size=images)
            right = (1000 / (1 + np.exp(-quality))).astype(np.int64)
            pair.append(bootstrap(np.stack([[right, 1000 - right], [1000 - right, right]]).transpose(2, 0, 1)))
        differences.append(weighted_sum([(1, pair[0]), (-1, pair[1])]))
    return combine_seeds(differences)


def coverage(seeds: int, trials: int, interval=Estimate.interval) -> float:
    random = np.random.default_rng(11)
    ends = [interval(trainings(random, seeds)) for _ in range(trials)]
    return np.mean([low <= 0 <= high for low, high in ends])


@pytest.mark.parametrize(("seeds", "trials"), [(3, 400), (5, 300), (8, 250)])
@pytest.mark.usefixtures("few_draws")
def test_interval_of_several_seeds_has_nominal_coverage(seeds, trials):
    assert 0.93 <= coverage(seeds, trials) <= 0.985


@pytest.mark.usefixtures("few_draws")
def test_one_seed_covers_no_setting():
    """Why one seed decides no claim."""
    assert coverage(1, 300) < 0.7


@pytest.mark.usefixtures("few_draws")
def test_resampled_seeds_would_cover_too_little():
    """Why the hierarchical bootstrap is not used: it draws seeds with repetition, too."""
    random = np.random.default_rng(12)

    def hierarchical(estimate: Estimate) -> np.ndarray:
        seeds = random.integers(3, size=(3, intervals.DRAWS))
        return np.quantile(estimate.draws[seeds, np.arange(intervals.DRAWS)].mean(axis=0), (0.025, 0.975))

    assert coverage(3, 300, hierarchical) < 0.88


def test_p_value_is_level_that_excludes_bound():
    estimate = trainings(np.random.default_rng(1), 3)
    bound = estimate.value - 1
    level = 1 - estimate.p_value(bound)
    assert estimate.interval(level)[0] == pytest.approx(bound, abs=1e-3)
    assert estimate.p_value(estimate.value + 0.1) == 1
    assert bootstrap(right_or_wrong(np.arange(200) < 100)).p_value(-50) < 1e-6


@pytest.mark.usefixtures("few_draws")
def test_detectable_difference_is_found_four_times_in_five():
    """Images alone: 2.8 standard errors. With seeds: by simulation."""
    one = bootstrap(right_or_wrong(np.arange(400) < 200))
    assert one.detectable() == pytest.approx(2.8 * 50 * 0.5 / 20, rel=0.05)
    random, found = np.random.default_rng(2), []
    for _ in range(200):
        estimate = trainings(random, 5)
        found.append((estimate.detectable(), estimate.value - estimate.interval()[0], estimate.value))
    detectable, below, values = map(np.array, zip(*found, strict=True))
    assert 0.72 <= np.mean(values + np.median(detectable) > below) <= 0.9


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


@pytest.mark.parametrize(("seeds", "new", "level"), [(3, 1, 0.95), (8, 1, 0.95), (8, 4, 0.95), (5, 1, 0.99)])
def test_prediction_holds_further_seeds_at_its_level(seeds, new, level):
    random = np.random.default_rng(0)
    inside = []
    for _ in range(4000):
        values = random.normal(60, 2, seeds + new)
        low, high = intervals.prediction(values[:seeds], new, level)
        inside.append(low <= values[seeds:].mean() <= high)
    assert np.mean(inside) == pytest.approx(level, abs=0.012)


def test_prediction_from_one_seed_is_nan():
    assert np.isnan(intervals.prediction(np.array([60.0]))).all()
