"""Claims and verdicts: the paper's numbers support each claim, and only records decide on ours."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from walkthrough.paper import claims, tables
from walkthrough.paper.comparisons import DELTA, MUCH, Claim
from walkthrough.records.cells import cell_jobs
from walkthrough.report import verdicts
from walkthrough.report.intervals import Estimate
from walkthrough.report.results import CellResults
from walkthrough.report.verdicts import (
    CONTRADICTED,
    HIGHER,
    LOWER,
    MISSING,
    NOT_DECIDED,
    NOT_RUN,
    OPEN,
    OTHER_QUESTION,
    SUPPORTED,
    Verdict,
)

IMAGES = 100
BY_NAME = {claim.name: claim for claim in claims.load()}


def record(profile, cell, share: float, order: int = 0) -> None:
    """Write a record of ``cell`` for each seed in which a ``share`` of the images is right, and the others wrong."""
    right = np.roll(np.arange(IMAGES) < share * IMAGES, order)
    counts = np.zeros((IMAGES, 3, 3), dtype=np.int64)
    counts[:, 1, 1], counts[:, 1, 2] = right, ~right
    for run, settings in cell_jobs(cell, profile):
        run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)


@pytest.fixture
def three(profile):
    """Three seeds; crop and batch are large enough for every row of Tables 8 to 10 to differ."""
    return replace(profile, seeds=3, training=replace(profile.training, crop_size=97, batch_size=8))


def evaluate_claim(profile, name: str) -> verdicts.Verdict:
    return verdicts.evaluate_claim(BY_NAME[name], CellResults(profile))


def test_papers_numbers_support_every_claim():
    assert len(BY_NAME) == len(claims.load()) == 37
    assert sum(claim.counted for claim in BY_NAME.values()) == 34
    below = []
    for claim in BY_NAME.values():
        assert claim.sentence.endswith(".")
        assert len({comparison.is_run for comparison in claim.comparisons}) <= 1
        for comparison in claim.comparisons:
            assert sum(weight for weight, _ in comparison.terms) == pytest.approx(0)
            if not np.isnan(comparison.paper) and comparison.paper <= comparison.bound:
                below.append(comparison.name)
            if comparison.is_run:
                assert not comparison.refuted_below > comparison.paper
    assert below == ["32 replicas over 1"]  # by 0.02: the paper calls a drop of 0.52 none
    unprinted = {claim.name for claim in BY_NAME.values() if any(np.isnan(one.paper) for one in claim.comparisons)}
    assert unprinted == {"mainly by batch norm", "both models beat DeepLabv2's head"}


def test_comparisons_use_cells_of_the_claim():
    papers = {name: [round(one.paper, 2) for one in claim.comparisons] for name, claim in BY_NAME.items()}
    assert papers["atrous convolution is essential"] == [54.89, 53.59, 49.77, 39.7, 22.05]
    assert papers["a finer output stride is better"] == [1.3, 3.82, 10.07, 17.65, 22.05]
    assert papers["output stride 16 costs accuracy"] == [1.3]
    assert papers["more blocks help"] == [7.33, 9.48, 9.07, 2.15, 4.82, 6.95, 7.37, 2.13]
    assert papers["ResNet-101 beats ResNet-50"] == [3.58, 1.07, 1.05, 1.88]
    assert papers["multi-grid helps the cascade"] == [1.49, 2.07, 2.09]
    assert papers["doubling the unit rates does not help"] == [0.89, 1.48, 1.5, 0.64, 1.14]
    assert papers["deeper helps with multi-grid"] == [3.46, 0.24, 0.3, 3.99]
    assert papers["multi-grid at block4 grows with the grid"] == [1.84, 2.91, 0.31]
    assert len(papers["block7 with (1,2,1) is best"]) == len(papers["block7 with (1,2,1) is strictly best"]) == 19
    assert papers["output stride 8 at inference adds"] == [1.39, 1.3]
    assert papers["multi-scale inputs add"] == [0.88, 0.94]
    assert papers["flipped inputs add"] == [0.42, 0.32]
    assert papers["pre-training on COCO adds"] == [2.93]
    assert papers["multi-grid helps ASPP"] == [0.57, 0.65]
    assert papers["a fourth rate does not help"] == [0.12]
    assert papers["image-level features help"] == [0.63]
    assert papers["ASPP beats the cascade"] == [0.42]
    assert papers["ASPP beats the cascade before, too"] == [0.55, 0.46, 0.52]
    assert papers["both models beat DeepLabv2"] == [1.66, 2.08]
    assert papers["the gain shrinks block by block"] == [5.18, 2.56, 2.69, 1.71]
    assert papers["the test set agrees"] == [6.0, 1.2]
    assert papers["a larger batch is better"] == [11.33, 0.73, 0.72]
    assert papers["training at 16 beats training at 8"] == [2.76, 2.89]
    assert papers["trained at 32, output stride 8 does not help"] == [1.17, 1.3, 0.15]
    assert papers["more replicas do not drop"] == [-0.06, -0.42, -0.19, -0.03, -0.52]
    assert papers["Cityscapes agrees"] == [0.59, 1.24, 0.24]


def test_margins_are_the_papers():
    replicas = [cell.miou for cell in tables.load(11).cells]
    assert round(max(replicas) - min(replicas), 2) == 0.52 > DELTA
    bounds = {name: {one.bound for one in claim.comparisons} for name, claim in BY_NAME.items()}
    assert [name for name, found in bounds.items() if -DELTA in found] == [
        "block7 does not help ResNet-50",
        "doubling the unit rates does not help",
        "block7 with (1,2,1) is best",
        "a fourth rate does not help",
        "trained at 32, output stride 8 does not help",
        "more replicas do not drop",
    ]
    assert [name for name, found in bounds.items() if MUCH in found] == ["atrous convolution is essential"]
    refuted = {name: [one.refuted_below for one in claim.comparisons] for name, claim in BY_NAME.items()}
    assert refuted["multi-scale inputs add"] == pytest.approx([0.44, 0.47])  # half the paper's
    assert refuted["both models beat DeepLabv2"] == [DELTA, DELTA]
    assert refuted["a fourth rate does not help"] == [-DELTA]
    assert refuted["both models beat DeepLabv2's head"] == [0, 0]


def test_paper_scatter_is_that_of_table_11():
    """Of the nine claims that statistics.md names, whose cells are the same, and those that came later."""
    assert verdicts.paper_scatter() == pytest.approx(0.80, abs=0.005)
    within = {claim.name for claim in BY_NAME.values() if any(map(verdicts.within_paper_scatter, claim.comparisons))}
    nine = {
        "block7 does not help ResNet-50",
        "block7 still helps ResNet-101",
        "block7 with (1,2,1) is best",
        "flipped inputs add",
        "a fourth rate does not help",
        "image-level features help",
        "ASPP beats the cascade",
        "a larger batch is better",
        "trained at 32, output stride 8 does not help",
    }
    more = {
        "doubling the unit rates does not help",
        "deeper helps with multi-grid",
        "multi-grid at block4 grows with the grid",
        "multi-grid helps ASPP",
        "block7 with (1,2,1) is strictly best",
        "ASPP beats the cascade before, too",
    }
    assert within == nine | more


@pytest.mark.parametrize(
    ("shares", "several", "one"),
    [
        ((0.8, 0.5, 0), SUPPORTED, HIGHER),
        ((0.5, 0.8, 0), CONTRADICTED, LOWER),
        ((0.62, 0.6, 30), NOT_DECIDED, OPEN),
        ((0.6, 0.6, 0), CONTRADICTED, LOWER),
    ],
)
def test_interval_and_seeds_determine_verdict(three, shares, several, one):
    """``shares`` of right images with and without pooling, and by how many images the latter's are shifted.

    Equal networks contradict: their difference is surely below half the paper's.
    """
    better, worse, order = shares
    record(three, tables.load(5).cell(image_pooling="yes"), better)
    record(three, tables.load(5).cell(multi_grid="(1,2,4)", rates="(6,12,18)", image_pooling="no"), worse, order)
    found = evaluate_claim(three, "image-level features help")
    assert found.verdict == several and found.label.startswith(several)
    assert found.complete and found.agree == (3 * (better > worse), 3)
    _, ours = found.weakest
    assert ours.value == pytest.approx(100 * (better - worse) / 2, abs=1e-6)  # two classes occur, one is never right
    single = evaluate_claim(replace(three, seeds=1), "image-level features help")
    assert single.verdict == one and single.label.startswith(f"this network: {one}")
    assert ("(sees " in found.label) == (several == NOT_DECIDED) == ("(sees " in single.label)


@pytest.mark.parametrize(
    ("fourth", "order", "label"),
    [
        (0.6, 0, SUPPORTED),
        (0.4, 0, f"{SUPPORTED}, not slightly"),
        (0.8, 0, CONTRADICTED),
        (0.61, 0, NOT_DECIDED),
        (0.6, 20, NOT_DECIDED),
    ],
)
def test_no_gain_is_a_gain_below_margin(three, fourth, order, label):
    record(three, tables.load(5).cell(multi_grid="(1,2,4)", rates="(6,12,18)", image_pooling="no"), 0.6)
    record(three, tables.load(5).cell(rates="(6,12,18,24)"), fourth, order)
    assert evaluate_claim(three, "a fourth rate does not help").label.split(" (")[0] == label


def test_best_allows_equals_strictly_best_does_not(three):
    for cell in tables.load(3).cells:
        record(three, cell, 0.6)
    assert evaluate_claim(three, "block7 with (1,2,1) is best").verdict == SUPPORTED
    assert evaluate_claim(three, "block7 with (1,2,1) is strictly best").verdict == CONTRADICTED
    record(three, tables.load(3).cell(multi_grid="(2,2,2)"), 0.9)
    assert evaluate_claim(three, "block7 with (1,2,1) is best").verdict == CONTRADICTED


@pytest.mark.parametrize(("coarsest", "verdict"), [(0.3, SUPPORTED), (0.6, NOT_DECIDED), (0.9, CONTRADICTED)])
def test_much_worse_is_ten_points(three, coarsest, verdict):
    """15 points with the 95 % interval of images, 4 to each side, are not surely more than 10 here."""
    *finer, without = tables.load(1).cells
    for cell in finer:
        record(three, cell, 0.84)
    record(three, without, coarsest)
    assert evaluate_claim(three, "atrous convolution is essential").verdict == verdict


def test_profile_that_compares_otherwise_is_not_asked(three):
    """From scratch frozen batch norm is none; a profile with one network for both ResNets cannot compare them."""
    for cell in (*tables.load(2).cells, *tables.load(8).cells):
        record(three, cell, 0.5)
    names = {one.claim.name for one in verdicts.evaluate_claims(three) if one.verdict == OTHER_QUESTION}
    assert names == {
        "ResNet-101 beats ResNet-50",
        "fine-tuned batch norm helps",
        "both models beat DeepLabv2",
        "mainly by batch norm",
    }
    assert evaluate_claim(three, "fine-tuned batch norm helps").label == OTHER_QUESTION
    assert evaluate_claim(three, "crop 513 matters").verdict == CONTRADICTED


def test_verdict_without_records_is_missing_or_not_run(profile):
    found = verdicts.evaluate_claims(profile)
    assert {verdict.label for verdict in found} == {MISSING, NOT_RUN, OTHER_QUESTION}
    for verdict in found:
        assert not verdict.found and verdict.weakest is None and not verdict.several_seeds
        assert verdict.summary() == f"{verdict.label}: {verdict.claim.sentence}"
    not_run = [verdict.claim.name for verdict in found if verdict.label == NOT_RUN]
    assert not_run == [
        "pre-training on COCO adds",
        "bootstrapping helps hard classes",
        "the test set agrees",
        "more replicas do not drop",
        "Cityscapes agrees",
    ]


def test_supported_claim_needs_all_comparisons(three):
    batches = tables.load(9).cells
    for cell, share in zip(batches, (0.3, 0.5, 0.7, 0.9), strict=True):
        assert evaluate_claim(three, "a larger batch is better").verdict in (MISSING, SUPPORTED)
        record(three, cell, share)
    assert evaluate_claim(three, "a larger batch is better").verdict == SUPPORTED
    record(three, batches[2], 0.89)  # nearly as good as batch 16
    assert evaluate_claim(three, "a larger batch is better").verdict == NOT_DECIDED
    record(three, batches[2], 1.0)
    verdict = evaluate_claim(three, "a larger batch is better")
    assert verdict.verdict == CONTRADICTED
    assert verdict.weakest[0].name == "batch 16 over 12"
    assert "the weakest of 3" in verdict.summary() and "0 of 3 seeds agree" in verdict.summary()


def test_label_counts_measured_comparisons(three):
    best = tables.load(6).cells
    record(three, best[0], 0.5)
    record(three, best[1], 0.8)
    verdict = evaluate_claim(three, "output stride 8 at inference adds")
    assert verdict.label == "supported in 1 of 2"
    assert not verdict.complete


def test_contradiction_corrects_for_many_comparisons(three):
    """One of nineteen rivals is better by as much as chance makes one in forty: that contradicts nothing."""
    cells = tables.load(3)
    for cell in cells.cells:
        record(three, cell, 0.6)
    rival = cells.cell(multi_grid="(1,2,4)", last_block="block7")
    record(three, rival, 0.73, 8)
    verdict = evaluate_claim(three, "block7 with (1,2,1) is best")
    _low, high = verdict.weakest[1].interval()
    assert high < -DELTA
    assert verdict.weakest[1].interval(1 - 0.05 / 19)[1] > -DELTA
    assert verdict.verdict == NOT_DECIDED


def test_comparison_uses_common_seeds(three):
    table = tables.load(5)
    record(three, table.cell(image_pooling="yes"), 0.8)
    plain = table.cell(multi_grid="(1,2,4)", rates="(6,12,18)", image_pooling="no")
    record(replace(three, seed=1, seeds=2), plain, 0.5)
    verdict = evaluate_claim(three, "image-level features help")
    assert len(verdict.weakest[1].values) == 2 and verdict.verdict == SUPPORTED
    assert evaluate_claim(replace(three, seeds=1), "image-level features help").verdict == MISSING


def test_one_seed_among_several_decides_nothing(three):
    """Where one comparison of a claim has one seed and the other three."""
    for number, seeds in ((4, 1), (6, 3)):
        for cell, share in zip(tables.load(number).cells, (0.3, 0.6), strict=False):
            record(replace(three, seeds=seeds), cell, share)
    assert evaluate_claim(three, "output stride 8 at inference adds").label == "this network: higher"


def test_holm_stops_at_first_failure():
    """P values 0.01, 0.02 and 0.2 of four claims against 0.0125, 0.0167, 0.025: one holds."""
    comparison = BY_NAME["image-level features help"].comparisons[0]
    claim = Claim("a claim", "A sentence.", "4", (5,), (comparison,))
    quantiles = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)

    def verdict(p_value: float, counted: bool = True) -> Verdict:
        value = stats.norm.isf(p_value / 2)
        ours = Estimate(np.full(3, value), np.tile(value + quantiles, (3, 1)), 10**6)
        assert ours.p_value() == pytest.approx(p_value, rel=0.05)
        return Verdict(replace(claim, counted=counted), ((comparison, ours),))

    found = [verdict(p_value) for p_value in (0.2, 0.02, 0.01, 0.02)]
    assert verdicts.holm([*found, verdict(1e-5, counted=False)]) == (1, 4)
    assert verdicts.holm(found[1:]) == (3, 3)
    assert verdicts.holm([Verdict(claim, ((comparison, None),))]) == (0, 0)
