"""Records made here beside those that ship: equal, rounded, another seed's kind, outside, another recipe, or broken."""

import json
from dataclasses import replace

import numpy as np
import pytest

from walkthrough.notebooks import book
from walkthrough.paper import tables
from walkthrough.profiles import load_profile
from walkthrough.records.cells import cell_job, cell_jobs
from walkthrough.records.run import Run
from walkthrough.report import reproduction as outcomes
from walkthrough.report import reproduction_page as page
from walkthrough.report import tables as report

CELL = tables.load(1).cell(output_stride="16")
SHIPPED = [29_000, 30_000, 31_000, 30_500]
"""Wrong pixels of the second class, by seed."""


def counts_of(wrong: int) -> np.ndarray:
    """Two images of a million pixels, with ``wrong`` ones of 300,000 in the second class."""
    one = np.array([[600_000, 0, 0], [wrong, 300_000 - wrong, 0], [0, 0, 100_000]])
    return np.stack([one, one])


def write(run: Run, settings, wrong: int) -> None:
    run.write_training_record(5.0)
    run.write_evaluation_record(settings, run.evaluation_values(settings, counts_of(wrong), 1.0), counts_of(wrong))


@pytest.fixture
def shipped(profile, ship):
    """Four seeds of one cell."""
    for wrong, (run, settings) in zip(SHIPPED, cell_jobs(CELL, replace(profile, seeds=len(SHIPPED))), strict=True):
        write(run, settings, wrong)
    ship()
    return profile


def outcome(profile) -> tuple[str, str]:
    """Outcome and detail of the only run that was made here."""
    view = page.runs_view(profile)
    (row,) = view.rows + view.others
    assert (row.outcome == outcomes.OTHER) == bool(view.others)
    return row.outcome, row.detail


def interval_of(*shipped: int) -> float:
    """Half the prediction interval of one more seed, in wrong pixels."""
    return 3.182 * np.std(shipped, ddof=1) * np.sqrt(1 + 1 / len(shipped))


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (29_000, outcomes.SAME),
        (29_008, outcomes.ROUNDING),
        (29_020, outcomes.SPREAD),
        (32_500, outcomes.SPREAD),
        (34_500, outcomes.OUTSIDE),
        (26_000, outcomes.OUTSIDE),
    ],
)
def test_other_counts_are_told_by_their_size(shipped, wrong, found):
    assert 2500 < interval_of(*SHIPPED) < 3500  # around 30,125
    write(*cell_job(CELL, shipped), wrong)
    assert outcome(shipped)[0] == found
    view = page.runs_view(shipped)
    assert view.failed == (found == outcomes.OUTSIDE)
    reproduced = int(found != outcomes.OUTSIDE)
    assert view.summary() == f"Reproduced {reproduced} of 1 run: 1 {found}."


def test_seed_that_does_not_ship_has_the_spread(shipped):
    write(*cell_job(CELL, replace(shipped, seed=9)), 31_500)
    assert outcome(shipped)[0] == outcomes.SPREAD


def test_one_shipped_seed_tells_no_spread(profile, ship):
    run, settings = cell_job(CELL, profile)
    write(run, settings, 30_000)
    ship()
    write(run, settings, 34_000)
    found, detail = outcome(profile)
    assert found == outcomes.UNKNOWN and not page.runs_view(profile).failed
    assert detail == "0.4% of the pixels have another class; machine and versions are the same"


def test_changed_recipe_is_named_by_its_setting(shipped):
    changed = replace(shipped, training=replace(shipped.training, lr=0.07))
    write(*cell_job(CELL, changed), 29_000)
    found, detail = outcome(shipped)
    assert found == outcomes.OTHER
    assert detail == "the shipped run that is most like it differs: training.lr is 0.07, there 0.05."
    view = page.runs_view(shipped)
    assert view.summary() == "Reproduced 0 of 0 runs." and "Not counted, as another recipe: 1 run, such as" in str(view)
    write(*cell_job(CELL, shipped), 29_000)
    assert page.runs_view(shipped).summary() == "Reproduced 1 of 1 run: 1 same to the last digit."


def test_record_of_other_code_is_another_recipe(shipped, monkeypatch):
    run, settings = cell_job(CELL, shipped)
    path = next(path for path in run._find("run.json").parents[1].glob(f"{run.name}/run.json"))
    values = json.loads(path.read_text())
    values["settings"]["results_version"] = 0
    path.write_text(json.dumps(values))
    write(run, settings, 29_000)
    found, detail = outcome(shipped)
    assert found == outcomes.OTHER and detail.startswith("stale: it was made by version 0 of the code's results")


@pytest.mark.parametrize(
    ("whose", "spoil"),
    [*((whose, spoil) for whose in ("made", "shipped") for spoil in ("counts", "miou", "json")), ("made", "truth")],
)
def test_broken_record_is_told_from_another_result(shipped, spoil, whose):
    run, settings = cell_job(CELL, shipped)
    stem = run.evaluation_name(settings)
    theirs = run._find(f"{stem}.json")
    write(run, settings, 29_000)
    path = theirs if whose == "shipped" else run._find(f"{stem}.json")
    if spoil == "counts":
        path.with_suffix(".npz").write_bytes(b"damaged")
    elif spoil == "json":
        path.write_text("{")
    elif spoil == "miou":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"miou": 99.0}))
    else:  # other labels: a complete record of other pixels
        other = counts_of(29_000)[:, ::-1]
        run.write_evaluation_record(settings, run.evaluation_values(settings, other, 1.0), other)
    found, detail = outcome(shipped)
    assert found == outcomes.BROKEN and page.runs_view(shipped).failed
    assert {"truth": "another ground truth", "miou": "not that of its counts"}.get(spoil, "damaged") in detail


def test_many_comparisons_widen_the_interval(profile, ship):
    """A value that is outside alone may be so by chance among three."""
    three = tables.load(1).cells[:3]
    for cell in three:
        for wrong, job in zip(SHIPPED, cell_jobs(cell, replace(profile, seeds=len(SHIPPED))), strict=True):
            write(*job, wrong)
    ship()
    write(*cell_job(three[0], profile), 34_500)
    assert page.runs_view(profile).counts == {outcomes.OUTSIDE: 1}
    for cell in three[1:]:
        write(*cell_job(cell, profile), 29_000)
    assert page.runs_view(profile).counts == {outcomes.SAME: 2, outcomes.OUTSIDE: 1}, "equal ones cost no certainty"
    for cell in three[1:]:
        write(*cell_job(cell, profile), 29_500)
    assert page.runs_view(profile).counts == {outcomes.SPREAD: 3}


def test_run_has_the_worst_of_its_evaluations(profile, ship):
    rows = [cell_job(cell, profile) for cell in tables.load(6).cells[:2]]
    for run, settings in rows:
        write(run, settings, 30_000)
    ship()
    for wrong, (run, settings) in zip((31_000, 30_000), rows, strict=True):
        write(run, settings, wrong)
    (row,) = page.runs_view(profile).rows
    assert row.outcome == outcomes.UNKNOWN
    assert row.unit.label.startswith("Table 5 (1,2,4) (6,12,18) image pooling; Table 6 output stride 16,")


def test_further_strategy_of_a_shipped_run_is_left_out(shipped):
    run, settings = cell_job(CELL, shipped)
    write(run, replace(settings, flip=True), 29_000)
    assert page.runs_view(shipped) is None


def test_nothing_to_compare_leaves_no_page(profile, shipped, tmp_path):
    (tmp_path / "reproduction.md").write_text("of an earlier walkthrough")
    assert page.runs_view(shipped) is None
    page.write_comparison(shipped, tmp_path)
    assert not list(tmp_path.glob("reproduction.*"))


def test_start_page_says_how_much_was_reproduced(shipped, tmp_path):
    write(*cell_job(CELL, shipped), 29_000)
    output = tmp_path / "output"
    page.write_comparison(shipped, output)
    (output / "summary.md").write_text("| 00_first | 1.0 | done |")
    start = book.start_page(output, [])
    assert start.count("Reproduced 1 of 1 run: 1 same to the last digit.") == 2, "above the claims, and in the report"
    assert "| Table 1 output stride 16" in start


def test_cells_are_compared_over_all_seeds(shipped, tmp_path):
    """Three seeds whose mean stays where it was, though one of them is far off; another cell was not made."""
    three = replace(shipped, seeds=3)
    for wrong, job in zip((34_000, 28_000, 28_500), cell_jobs(CELL, three), strict=True):
        write(*job, wrong)
    view = page.cells_view(three, (1,))
    rows = {row.unit.label: row for row in view.rows}
    row = rows["Table 1 output stride 16"]
    assert row.outcome == outcomes.SPREAD and list(row.made) == [0, 1, 2] and list(row.shipped) == [0, 1, 2, 3]
    assert row.shipped_mean == pytest.approx(np.mean([row.shipped[seed] for seed in range(3)]))
    assert rows["Table 1 output stride 8"].outcome == outcomes.MISSING and view.failed
    page.write_reproduction(view, tmp_path / "report")
    values = json.loads((tmp_path / "report" / "reproduction.json").read_text())
    (cell,) = [cell for cell in values["cells"] if cell["name"] == row.unit.label]
    assert cell["difference"] == pytest.approx(row.difference) and cell["made_by_seed"]["1"] == row.made[1]
    assert values["summary"].startswith("Reproduced 1 of 6 cells: 1 within the seeds' spread, 5 not made")
    assert list(values["machines"]) == ["ships", "made here"] and values["failed"]
    text = (tmp_path / "report" / "reproduction.md").read_text()
    assert "| Table 1 output stride 16 | 0 to 2 |" in text and "torch" in text


def test_changed_verdicts_are_listed(profile, ship, tmp_path):
    """Output stride 8 is better in what ships, and worse in what was made here."""
    cells = {stride: tables.load(1).cell(output_stride=stride) for stride in ("8", "16")}
    for stride, wrong in (("8", 1000), ("16", 30_000)):
        write(*cell_job(cells[stride], profile), wrong)
    ship()
    for stride, wrong in (("8", 30_000), ("16", 1000)):
        write(*cell_job(cells[stride], profile), wrong)
    view = page.cells_view(profile, (1,))
    assert view.changed() == [("output stride 16 costs accuracy", "higher", "lower")]
    assert "Changed: output stride 16 costs accuracy: higher, here lower" in str(view)


def test_table_says_what_was_made_here(shipped):
    assert "made here" not in str(report.view(1, shipped))
    write(*cell_job(CELL, shipped), 29_000)
    text = str(report.view(1, shipped))
    assert "Made here, not taken from what ships: 1 evaluation, 1 of them the same to the last digit." in text
    write(*cell_job(CELL, shipped), 33_000)
    assert "0 of them the same to the last digit, the others within 0.65 points." in str(report.view(1, shipped))


def test_table_of_shipped_records_needs_no_images(monkeypatch, tmp_path):
    for name in ("DEEPLABV3_WORKSPACE", "DEEPLABV3_DATA"):
        monkeypatch.setenv(name, str(tmp_path / "empty"))
    view = report.view(6, load_profile("mobile"))
    assert view.values["ours"].notna().any() and "made here" not in str(view)
