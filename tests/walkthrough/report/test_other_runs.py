"""Runs with other settings are named below a table, with the command that shows them."""

from dataclasses import replace

import pytest

from walkthrough.cli import main
from walkthrough.paper import tables
from walkthrough.records.cells import cell_job
from walkthrough.records.run import Run
from walkthrough.report import other_runs

BEST = tables.load(6).cells[0]


@pytest.fixture
def run(profile) -> Run:
    return cell_job(BEST, profile)[0]


def test_runs_of_tables_are_not_named(profile, run):
    run.write_training_record(1.0)
    cell_job(BEST, replace(profile, seed=7))[0].write_training_record(1.0)
    cell_job(tables.load(9).cells[0], profile)[0].write_training_record(1.0)
    assert other_runs.notes(6, profile) == []


def test_other_training_is_named_with_its_command(profile, profile_file, capsys):
    other = replace(profile, training=replace(profile.training, lr=0.5, scales=(1.0, 2.0)))
    run = cell_job(BEST, other)[0]
    run.write_training_record(1.0)
    title, line = other_runs.notes(6, profile)
    assert title == "Runs of profile tiny-tests with other settings, which its tables do not show:"
    command = "--set training.lr=0.5 --set 'training.scales=[1.0, 2.0]'"
    assert line.startswith(f"  {run.name} (training.lr 0.5, here 0.05; training.scales [1.0, 2.0], here [0.5, ")
    assert line.endswith(f"shown by: deeplabv3 table 6 --profile tiny-tests.yaml {command}")
    assert main(["table", "6", "--profile", str(profile_file)]) == 0
    assert line in capsys.readouterr().out
    shown = ["--set", "training.lr=0.5", "--set", "training.scales=[1.0, 2.0]"]
    assert main(["table", "6", "--profile", str(profile_file), *shown]) == 0
    assert run.name not in capsys.readouterr().out
    assert main(["table", "6", "--profile", str(profile_file), "--format", "csv"]) == 0
    assert run.name not in capsys.readouterr().out


def test_other_network_is_named_as_in_no_cell(profile):
    run = Run.of(profile, profile.model_config(multi_grid=(2, 2, 4)))
    run.write_training_record(1.0)
    line = other_runs.notes(6, profile)[1]
    assert f"{run.name} (model.multi_grid [2, 2, 4], here [1, 2, 4]), in no cell of this table" in line
    assert line.endswith(f"deeplabv3 records show {run.name} --profile tiny-tests.yaml")


def test_many_runs_are_counted(profile):
    for steps in range(10, 17):
        other = replace(profile, training=replace(profile.training, iterations=steps))
        cell_job(BEST, other)[0].write_training_record(1.0)
    lines = other_runs.notes(6, profile)
    assert len(lines) == 7 and lines[-1] == "  and 2 more: deeplabv3 records list"


def test_without_images_nothing_is_said(profile, run):
    run.write_training_record(1.0)
    assert other_runs.notes(6, replace(profile, data=replace(profile.data, root="/nowhere", train_list="x"))) == []
