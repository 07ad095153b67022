"""Records as a table: a row an evaluation, with the cells that it fills."""

import csv
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from walkthrough.cli import main
from walkthrough.paper import tables
from walkthrough.records.cells import cell_job
from walkthrough.records.rows import as_csv, rows

COUNTS = np.array([[[5, 1, 0], [0, 3, 0], [0, 0, 0]], [[7, 0, 0], [2, 2, 0], [0, 0, 0]]])


@pytest.fixture
def recorded(profile):
    """Both evaluations of Table 6's first rows with two seeds, and one that is damaged."""
    for seed in (0, 1):
        for cell in tables.load(6).cells[:2]:
            run, settings = cell_job(cell, replace(profile, seed=seed))
            run.write_training_record(90.0)
            run.write_evaluation_record(settings, run.evaluation_values(settings, COUNTS, 2.0), COUNTS)
    run, settings = cell_job(tables.load(1).cells[0], profile)
    run.write_evaluation_record(settings, run.evaluation_values(settings, COUNTS, 2.0), COUNTS)
    (run.record_folder() / f"{run.evaluation_name(settings)}.npz").write_bytes(b"damaged")
    return profile


def test_csv_has_a_row_per_usable_evaluation(recorded):
    found = pd.read_csv(io.StringIO(as_csv(recorded)))
    assert len(found) == 4 and found["seed"].tolist().count(1) == 2
    assert found.groupby("evaluation")["miou"].mean().to_dict() == {"os16": 71.25, "os8": 71.25}
    assert found["iou.background"].eq(80.0).all() and found["iou.disc"].isna().all()
    assert found.groupby("model.multi_grid").size().to_dict() == {"[1, 2, 4]": 4}
    assert found["training.lr"].eq(0.05).all() and found["made here"].all()
    assert set(found["evaluation.output_stride"]) == {8, 16}
    (cells,) = set(found.loc[found["seed"] == 0, "cells"])
    assert cells.startswith("Table 5 (1,2,4) (6,12,18) image pooling; Table 6 output stride 16")


def test_command_prints_the_same_rows(recorded, profile_file, capsys):
    command = ["records", "list", "--profile", str(profile_file), "--format", "csv"]
    assert main(command) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["run"] for row in found] == [row["run"] for row in rows(recorded)]
    assert {row["miou"] for row in found} == {"71.25"} and found[0]["training.iterations"] == "3"
    assert main([*command, "--stale"]) == 1
    assert "--format csv leaves out; give one of them" in capsys.readouterr().err


def test_without_records_there_is_nothing(profile, profile_file, capsys):
    assert rows(profile) == []
    assert main(["records", "list", "--profile", str(profile_file), "--format", "csv"]) == 0
    assert capsys.readouterr().out == ""
