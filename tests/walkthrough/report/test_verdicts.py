"""Claims and verdicts: the paper's numbers support each claim, and only records decide on ours."""

from dataclasses import replace

import numpy as np
import pytest

from walkthrough.paper import claims, tables
from walkthrough.records.cells import cell_jobs
from walkthrough.report import verdicts
from walkthrough.report.results import CellResults
from walkthrough.report.verdicts import CONTRADICTED, MISSING, NOT_DECIDED, SUPPORTED

IMAGES = 100
BY_NAME = {claim.name: claim for claim in claims.load()}


def record(profile, cell, share: float, order: int = 0) -> None:
    """Write a record of ``cell`` for each seed in which a ``share`` of the images is right, and the others wrong."""
    right = np.roll(np.arange(IMAGES) < share * IMAGES, order)
    counts = np.zeros((IMAGES, 3, 3), dtype=np.int64)
    counts[:, 1, 1], counts[:, 1, 2] = right, ~right
    for run, settings in cell_jobs(cell, profile):
        run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)


def evaluate_claim(profile, name: str) -> verdicts.Verdict:
    return verdicts.evaluate_claim(BY_NAME[name], CellResults(profile))


def test_papers_numbers_support_every_claim():
    assert len(BY_NAME) == len(claims.load()) >= 14
    for claim in BY_NAME.values():
        assert claim.comparisons and claim.sentence.endswith(".")
        for comparison in claim.comparisons:
            assert comparison.paper > 0, comparison.name
            assert sum(weight for weight, _ in comparison.terms) == pytest.approx(0)
            assert all(cell.variant is not None for _, cell in comparison.terms)


def test_comparisons_use_cells_of_the_claim():
    papers = {name: [round(one.paper, 2) for one in claim.comparisons] for name, claim in BY_NAME.items()}
    assert papers["a finer output stride is better"] == [1.3, 3.82, 10.07, 17.65, 22.05]
    assert papers["more blocks help"] == [7.33, 9.48, 9.07, 4.82, 6.95, 7.37]
    assert papers["multi-grid helps the cascade"] == [1.49, 2.07, 2.09]
    assert papers["doubling the unit rates does not"] == [0.89, 1.48, 1.5, 1.14]
    assert len(papers["block7 with (1,2,1) is best"]) == 19
    assert papers["output stride 8 at inference adds"] == [1.39, 1.3]
    assert papers["multi-scale inputs add"] == [0.88, 0.94]
    assert papers["flipped inputs add"] == [0.42, 0.32]
    assert papers["a fourth rate does not help"] == [0.12]
    assert papers["image-level features help"] == [0.63]
    assert papers["ASPP beats the cascade"] == [0.55, 0.46, 0.52, 0.42]
    assert papers["the gain shrinks block by block"] == [5.18, 2.56, 2.69, 1.71]
    assert papers["trained at 32, output stride 8 does not help"] == [0.15]
    assert papers["batch 16 matters"] == [12.78, 1.45, 0.72]
    assert papers["training at 16 beats training at 8"] == [2.76, 2.89]


@pytest.mark.parametrize(
    ("better", "worse", "order", "verdict"),
    [(0.8, 0.5, 0, SUPPORTED), (0.5, 0.8, 0, CONTRADICTED), (0.62, 0.6, 30, NOT_DECIDED), (0.6, 0.6, 0, NOT_DECIDED)],
)  # fmt: skip
def test_interval_determines_verdict(profile, better, worse, order, verdict):
    one = tables.load(1)
    record(profile, one.cell(output_stride="16"), better)
    record(profile, one.cell(output_stride="256"), worse, order)
    found = evaluate_claim(profile, "atrous convolution is essential")
    assert found.verdict == found.label == verdict
    assert found.complete
    _, ours = found.weakest
    assert ours.value == pytest.approx(100 * (better - worse) / 2, abs=1e-6)  # two classes occur, one is never right


def test_verdict_without_records_is_missing(profile):
    for verdict in verdicts.evaluate_claims(profile):
        assert verdict.label == MISSING and not verdict.complete and verdict.weakest is None
        assert verdict.summary() == f"missing: {verdict.claim.sentence}"


def test_supported_claim_needs_all_comparisons(profile):
    profile = replace(profile, training=replace(profile.training, batch_size=8))
    batches = tables.load(9).cells
    for cell, share in zip(batches, (0.3, 0.5, 0.7, 0.9), strict=True):
        assert evaluate_claim(profile, "batch 16 matters").verdict == MISSING
        record(profile, cell, share)
    assert evaluate_claim(profile, "batch 16 matters").verdict == SUPPORTED
    record(profile, batches[2], 0.9)  # as good as batch 16
    assert evaluate_claim(profile, "batch 16 matters").verdict == NOT_DECIDED
    record(profile, batches[2], 1.0)
    verdict = evaluate_claim(profile, "batch 16 matters")
    assert verdict.verdict == CONTRADICTED
    assert verdict.weakest[0].name == "batch 16 over 12"
    assert "the least certain of 3" in verdict.summary()


def test_label_counts_measured_comparisons(profile):
    best = tables.load(6).cells
    record(profile, best[0], 0.5)
    record(profile, best[1], 0.8)
    verdict = evaluate_claim(profile, "output stride 8 at inference adds")
    assert verdict.label == "supported in 1 of 2"
    assert not verdict.complete


def test_contradiction_corrects_for_many_comparisons(profile):
    """One of nineteen rivals is better by as much as chance makes one in forty: that contradicts nothing."""
    three = tables.load(3)
    for cell in three.cells:
        record(profile, cell, 0.6)
    rival = three.cell(multi_grid="(1,2,4)", last_block="block7")
    record(profile, rival, 0.72, 8)
    verdict = evaluate_claim(profile, "block7 with (1,2,1) is best")
    _low, high = verdict.weakest[1].interval()
    assert high < 0
    assert verdict.weakest[1].interval(1 - 0.05 / 19)[1] > 0
    assert verdict.verdict == NOT_DECIDED


def test_comparison_uses_common_seeds(profile):
    one = tables.load(1)
    record(replace(profile, seeds=3), one.cell(output_stride="16"), 0.8)
    record(replace(profile, seed=1, seeds=2), one.cell(output_stride="256"), 0.5)
    verdict = evaluate_claim(replace(profile, seeds=3), "atrous convolution is essential")
    assert len(verdict.weakest[1].values) == 2
    assert evaluate_claim(profile, "atrous convolution is essential").verdict == MISSING
