"""The claims page: texts, numbers and the figure agree with the verdicts."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from deeplabv3.errors import UserError
from walkthrough.cli import main
from walkthrough.figures import forest
from walkthrough.paper import tables
from walkthrough.records.cells import cell_jobs
from walkthrough.report import claims as page
from walkthrough.report.render import FORMATS


def record(profile, cell, right: int) -> None:
    counts = np.zeros((20, 3, 3), dtype=np.int64)
    counts[:right, 1, 1], counts[right:, 1, 2] = 1, 1
    for run, settings in cell_jobs(cell, profile):
        run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)


@pytest.fixture
def measured(profile):
    """Three seeds: output stride 8 over 16 supported, image pooling contradicted, the rest missing or in part."""
    three = replace(profile, seeds=3)
    record(three, tables.load(1).cell(output_stride="8"), 18)
    record(three, tables.load(1).cell(output_stride="16"), 4)
    record(three, tables.load(5).cell(multi_grid="(1,2,4)", image_pooling="no"), 18)
    record(three, tables.load(5).cell(image_pooling="yes"), 2)
    return three


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_claims_page_counts_verdicts(measured, form):
    text = FORMATS[form](page.claims_view(measured))
    assert "Of 34 claims: 1 supported, 1 contradicted, 21 missing, 5 not run, 5 other question, 1 measured in" in text
    assert "1 of 2 measured claims are supported at a family-wise 5 %, too (Holm)." in text
    assert "3 rows are not counted" in text and "they rest on 20 images (fewer than 100)" in text
    assert "+35.00 (" in text and "-40.00 (" in text and "+1.30" in text and "3 of 3" in text and "0 of 3" in text


def test_one_seed_decides_no_claim(measured):
    text = str(page.claims_view(replace(measured, seeds=1)))
    assert "Of 34 claims, with one seed, which decides none: 1 higher, 1 lower, 21 missing" in text
    assert "supported" not in text and "contradicted" not in text and "Holm" not in text and "agree" not in text
    assert "this network: higher" in text and "this network: lower" in text


def test_claim_within_papers_scatter_is_marked(measured):
    texts = page.claims_view(measured).texts().set_index("claim")["paper"]
    assert texts["Augmenting ASPP with image-level features is effective."] == "+0.63*"
    assert texts["A crop of 513 is better than one of 321."] == "+9.99"
    assert texts.filter(like="batch norm's").tolist() == texts.filter(like="hard classes").tolist() == [""]


def test_claims_latex_has_caption_and_label(measured):
    text = FORMATS["latex"](page.claims_view(measured))
    assert r"\caption{The paper's claims, profile" in text and r"\label{tab:claims}" in text


def test_claims_csv_has_every_comparison(measured):
    rows = list(csv.DictReader(io.StringIO(page.claims_view(measured).csv())))
    assert len(rows) == sum(len(one.measured) for one in page.claims_view(measured).verdicts) > 50
    (row,) = [row for row in rows if row["claim"] == "output stride 16 costs accuracy"]
    found = [row[name] for name in ("verdict", "paper", "ours", "seeds", "agree", "bound", "refuted_below")]
    assert found == ["supported", "1.3", "35.0", "3", "3", "0.0", "0.5"]
    assert 0 < float(row["low"]) < 35 < float(row["high"])
    assert 35 - float(row["low"]) < float(row["detectable"]) < 60
    assert {row["ours"] for row in rows if row["verdict"] == "missing"} == {""}


@pytest.mark.parametrize("seeds", [1, 3])
def test_forest_plot_has_one_line_per_claim(measured, tmp_path, seeds):
    view = page.claims_view(replace(measured, seeds=seeds))
    axis = view.figure().axes[0]
    assert next(label.get_text() for label in axis.get_yticklabels()) == "atrous convolution is essential  (Table 1)"
    labels = [text.get_text() for text in axis.texts]
    assert labels == [verdict.label for verdict in view.verdicts if verdict.claim.counted]
    colors = {text.get_text(): text.get_color() for text in axis.texts}
    if seeds == 3:
        assert colors["supported"] == forest.COLORS["supported"] != colors["contradicted"]
    else:
        assert colors["this network: higher"] == forest.COLORS["higher"] != forest.COLORS["supported"]
    page.save_figure(view.figure(), tmp_path / "claims.png")
    assert Image.open(tmp_path / "claims.png").width > 1000
    with pytest.raises(UserError, match=r"should end in \.png, \.svg or \.pdf"):
        page.save_figure(view.figure(), tmp_path / "claims.txt")


def test_write_claims_includes_other_recorded_profiles(measured, tmp_path):
    """Records of several seeds come with the project and are read without its images; those of one decide nothing."""
    page.write_claims(measured, tmp_path)
    text = (tmp_path / "claims.md").read_text()
    assert (
        f"profile {measured.name}, 3 seeds" in text
        and "profile animals, 3 seeds" in text
        and "profile mobile" not in text
    )
    assert (tmp_path / "claims.png").is_file() and (tmp_path / f"claims_{measured.name}.csv").is_file()
    with open(tmp_path / "claims_animals.csv", newline="") as file:
        rows = {row["comparison"]: row for row in csv.DictReader(file)}
    assert float(rows["batch 8 over 4"]["low"]) > 0
    assert rows["cascade: multi-scale inputs add"]["ours"] == ""


def test_one_seed_is_set_beside_those_that_ship(profile, ship):
    """Seed 0 lies within what seeds 1 to 3 spread over in one claim, and outside in another."""
    for seed, (finer, pooled) in enumerate([(12, 2), (14, 18), (12, 17), (15, 18)]):
        one = replace(profile, seed=seed)
        record(one, tables.load(1).cell(output_stride="8"), finer)
        record(one, tables.load(1).cell(output_stride="16"), 4)
        record(one, tables.load(5).cell(multi_grid="(1,2,4)", rates="(6,12,18)", image_pooling="no"), 10)
        record(one, tables.load(5).cell(image_pooling="yes"), pooled)
        for cell in (tables.load(1).cell(output_stride="8"), tables.load(5).cell(image_pooling="yes")):
            cell_jobs(cell, one)[0][0].write_training_record(1.0)
    alone = page.claims_view(profile)
    assert "other seeds" not in alone.texts(), "nothing ships"
    ship()
    view = page.claims_view(profile)
    texts = view.texts().set_index("claim")["other seeds"]
    assert texts["Augmenting ASPP with image-level features is effective."] == "+19.17 (+12.00 to +26.34): outside"
    assert texts.filter(like="several times faster").iloc[0].endswith(": inside")
    numbers = view.numbers().set_index("comparison")
    assert numbers.loc["with image pooling over without", "other_seeds"] == 3
    assert numbers.loc["with image pooling over without", "other_seeds_high"] == pytest.approx(26.34, abs=0.01)
    assert "this seed does not, as one comparison in twenty does by chance" in str(view)
    assert "other seeds" not in page.claims_view(replace(profile, seeds=2)).texts()


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "html"])
def test_claims_command_prints_the_page(workspace, form, capsys):
    assert main(["claims", "--profile", "smoke", "--format", form]) == 0
    assert ("atrous convolution is essential" if form == "csv" else "is better than (1,1,1)") in capsys.readouterr().out
