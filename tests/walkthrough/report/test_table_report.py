"""Tables beside measured values: these come from records, and a missing one is never a number."""

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from walkthrough.paper import tables
from walkthrough.records.cells import cell_job, cell_jobs
from walkthrough.report import tables as report


@pytest.fixture
def half_measured(profile):
    """Table 1 with a record for output stride 8 alone: 3 of 4 pixels right, IoU 2/3 and 1/2 and none."""
    run, settings = cell_job(tables.load(1).cell(output_stride="8"), profile)
    counts = np.array([[[2, 0, 0], [1, 1, 0], [0, 0, 0]]])
    run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)
    return profile


def test_ours_and_difference_come_from_record(half_measured):
    values = report.view(1, half_measured).values.set_index("output stride")
    assert values.loc["8", "ours"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2, abs=1e-3)
    assert values.loc["8", "difference"] == pytest.approx(58.333 - 75.18, abs=1e-3)
    assert values["ours"].isna().sum() == 5
    assert values["paper"].tolist() == [75.18, 73.88, 70.06, 59.99, 42.34, 20.29]


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_missing_cell_names_command(half_measured, form):
    text = report.render(1, half_measured, form)
    table, notes = text.split("Paper: mIoU", 1)
    assert table.count("missing") == 5
    assert "58.33" in table
    assert "58.3 to 58.3" in table  # one image: nothing to draw
    assert "missing: mIoU falls with every doubling" in notes
    assert f"deeplabv3 table 1 --profile {half_measured.name}.yaml --run" in text


def test_cells_that_the_profile_leaves_out_are_not_run(profile):
    """They are not missing: no command would fill them."""
    without = replace(profile, model=replace(profile.model, extra_blocks=False))
    text = report.render(3, without)
    assert text.count("not run") == 15 and text.count("missing") >= 5
    for cell in tables.load(3).cells:
        for run, settings in cell_jobs(cell, without):
            run.write_evaluation_record(
                settings, run.evaluation_values(settings, np.eye(3)[None], 1.0), np.eye(3)[None]
            )
    assert "Missing cells" in text and "Missing cells" not in report.render(3, without)
    values = report.view(3, without).values
    assert report.is_half_measured(tables.load(3), without, values)
    assert not report.is_half_measured(tables.load(3), profile, values)


def test_notes_name_substitutes_for_crop_and_batch(profile):
    text = report.render(8, profile)
    assert "In this profile crop 321 is 17, crop 513 is 33." in text
    assert "frozen batch norm is none at all" in text
    pretrained = replace(profile, model=replace(profile.model, backbone_weights="imagenet"))
    assert "frozen batch norm" not in report.render(8, pretrained)
    assert "In this profile batch 6 is 2, batch 16 is 2, batch 24 is 3." in report.render(10, profile)
    assert "In this profile" not in report.render(5, profile)
    papers = replace(profile.training, crop_size=513, batch_size=16)
    assert "In this profile" not in report.render(9, replace(profile, training=papers))


def test_csv_can_be_parsed(half_measured):
    rows = list(csv.DictReader(io.StringIO(report.render(1, half_measured, "csv"))))
    assert [row["ours"] for row in rows] == ["58.333", "", "", "", "", ""]
    assert rows[0]["table"] == "1"


def test_view_is_html_in_notebook_text_in_terminal(half_measured):
    view = report.view(1, half_measured)
    assert pd.read_csv(io.StringIO(view.csv())).shape == (6, 11)
    assert "<table" in view._repr_html_()
    assert "<table" not in repr(view)
    assert "Table 1." in repr(view)


def test_write_tables_writes_every_table(half_measured, tmp_path):
    report.write_tables(half_measured, tmp_path)
    for number in tables.ALL:
        assert f"Table {number}." in (tmp_path / "tables.md").read_text()
        assert (tmp_path / f"table_{number:02d}.csv").is_file()


def test_layout_is_that_of_the_paper(half_measured):
    lines = report.render(3, half_measured).splitlines()
    assert lines[2].split() == ["multi", "grid", "block4", "block5", "block6", "block7"]
    assert lines[3].split() == ["(1,1,1)", "paper", "68.39", "73.21", "75.34", "75.76"]
    assert [line.split()[0] for line in lines[3:18:3]] == ["(1,1,1)", "(1,2,1)", "(1,2,3)", "(1,2,4)", "(2,2,2)"]
    rows = report.render(1, half_measured).splitlines()[2:6]
    assert rows[0].split() == ["8", "16", "32", "64", "128", "256"]
    assert rows[2].split()[:2] == ["ours", "58.33"]


def test_latex_escapes_special_characters(half_measured):
    text = report.render(4, half_measured, "latex")
    assert text.count(r"\\") == 5 and r"95 \%" in text and "_" not in text
    assert r"\caption{Inference with the cascade: block7, multi-grid (1,2,1)}" in text
    assert text.count("missing") == 4


def test_table_without_runs_says_not_run(half_measured):
    text = report.render(13, half_measured)
    assert "81.30" in text and "ours" not in text
    assert "mIoU on Cityscapes test. Not run here." in text
    assert "not run" in report.render(6, half_measured).splitlines()[7]


def test_deeplab_v2_stands_beside_its_number(profile):
    """77.69 had CRF and COCO; where the paper prints nothing there is no number and no difference."""
    for cell in tables.load(14).cells:
        run, settings = cell_job(cell, profile)
        counts = np.array([[[2, 0, 0], [1, 1, 0], [0, 0, 0]]])
        run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)
    lines = report.render(14, profile).splitlines()
    assert " ".join(lines[3].split()) == "DeepLabv2 frozen 8 3 by maximum no yes 77.69 58.33 58.3 to 58.3 -19.36"
    assert " ".join(lines[4].split()) == "DeepLabv2 fine-tuned 8 3 by maximum no no 58.33 58.3 to 58.3"
    assert "77.69 is DeepLabv2 with DenseCRF and pre-training on COCO" in "\n".join(lines)
    assert "nan" not in report.render(14, profile) + report.render(14, profile, "markdown")


def test_several_seeds_have_mean_and_range(profile):
    cell = tables.load(1).cell(output_stride="8")
    counts = np.array([[[2, 0, 0], [1, 1, 0], [0, 0, 0]], [[3, 0, 0], [0, 0, 0], [0, 0, 0]]])
    three = replace(profile, seeds=3)
    for (run, settings), more in zip(cell_jobs(cell, three)[:2], (0, 5), strict=True):
        own = counts + more * np.diag([0, 1, 0])
        run.write_evaluation_record(settings, run.evaluation_values(settings, own, 1.0), own)
    row = report.frame(tables.load(1), three).iloc[0]
    assert row["seeds"] == 2 and row["least"] < row["ours"] < row["most"]
    assert row["ours"] == pytest.approx((row["least"] + row["most"]) / 2)
    text = report.render(1, three)
    assert f"{row['least']:.1f} to {row['most']:.1f}" in text
    assert "--seeds 3 --run" in text  # a third seed is missing
