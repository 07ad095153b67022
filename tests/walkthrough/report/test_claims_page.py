"""The claims page: texts, numbers and the figure agree with the verdicts."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from deeplabv3.errors import UserError
from walkthrough.figures import forest
from walkthrough.paper import tables
from walkthrough.records.cells import cell_job
from walkthrough.report import claims as page


def record(profile, cell, right: int) -> None:
    run, settings = cell_job(cell, profile)
    counts = np.zeros((20, 3, 3), dtype=np.int64)
    counts[:right, 1, 1], counts[right:, 1, 2] = 1, 1
    run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)


@pytest.fixture
def measured(profile):
    """Output stride 16 over 256 supported, multi-grid in ASPP contradicted, everything else missing or in part."""
    record(profile, tables.load(1).cell(output_stride="16"), 18)
    record(profile, tables.load(1).cell(output_stride="256"), 4)
    record(profile, tables.load(5).cell(multi_grid="(1,2,4)", image_pooling="no"), 2)
    record(profile, tables.load(5).cell(multi_grid="(1,1,1)"), 18)
    return profile


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_claims_page_counts_verdicts(measured, form):
    text = page.FORMATS[form](page.claims_view(measured))
    assert "Of 23 claims, with one seed: 1 supported, 1 contradicted, 21 missing." in text
    assert "atrous convolution (output stride 256)" in text
    assert "+35.00 (" in text and "-40.00 (" in text and "+53.59" in text


def test_claims_latex_has_caption_and_label(measured):
    text = page.FORMATS["latex"](page.claims_view(measured))
    assert r"\caption{The paper's claims, profile" in text and r"\label{tab:claims}" in text


def test_claims_csv_has_every_comparison(measured):
    rows = list(csv.DictReader(io.StringIO(page.claims_view(measured).csv())))
    assert len(rows) == sum(len(one.measured) for one in page.claims_view(measured).verdicts) > 50
    (row,) = [row for row in rows if row["claim"] == "atrous convolution is essential"]
    assert (row["verdict"], row["paper"], row["ours"], row["seeds"]) == ("supported", "53.59", "35.0", "1")
    assert 0 < float(row["low"]) < 35 < float(row["high"])
    assert {row["ours"] for row in rows if row["verdict"] == "missing"} == {""}


def test_forest_plot_has_one_line_per_claim(measured, tmp_path):
    view = page.claims_view(measured)
    axis = view.figure().axes[0]
    assert next(label.get_text() for label in axis.get_yticklabels()) == "atrous convolution is essential  (Table 1)"
    labels = [text.get_text() for text in axis.texts]
    assert labels == [verdict.label for verdict in view.verdicts]
    colors = {text.get_text(): text.get_color() for text in axis.texts}
    assert colors["supported"] == forest.VERDICT_COLORS["supported"] != colors["contradicted"]
    page.save_figure(view, tmp_path / "claims.png")
    assert Image.open(tmp_path / "claims.png").width > 1000
    with pytest.raises(UserError, match=r"should end in \.png, \.svg or \.pdf"):
        page.save_figure(view, tmp_path / "claims.txt")


def test_write_claims_includes_other_recorded_profiles(measured, tmp_path):
    """The records of ``mobile`` come with the project and are read without its images."""
    page.write_claims(measured, tmp_path)
    text = (tmp_path / "claims.md").read_text()
    assert f"profile {measured.name}, seed 0" in text and "profile mobile, seed 0" in text
    assert (tmp_path / "claims.png").is_file() and (tmp_path / f"claims_{measured.name}.csv").is_file()
    with open(tmp_path / "claims_mobile.csv", newline="") as file:
        rows = {row["comparison"]: row for row in csv.DictReader(file)}
    assert float(rows["ASPP: multi-scale inputs add"]["low"]) > 0
    assert rows["cascade: multi-scale inputs add"]["ours"] == ""
