"""``deeplabv3 reproduce``: everything anew in a workspace of its own, and a report with an exit code."""

import json
from dataclasses import replace

import numpy as np
import pytest

from deeplabv3.errors import UserError
from walkthrough import paths
from walkthrough.cli import main
from walkthrough.experiments import local
from walkthrough.paper import tables
from walkthrough.records import environment
from walkthrough.records.cells import cell_job, table_jobs
from walkthrough.records.run import Run

NUMBER = 5


@pytest.fixture
def shipped(profile, ship, trained):
    """The records of Table 5 ship; the workspace is empty."""
    local.run_table(NUMBER, profile)
    folder = ship()
    trained.clear()
    return folder / profile.name


@pytest.fixture
def reproduce(profile_file, capsys):
    def call(*words: str) -> tuple[int, str, str]:
        code = main(["reproduce", "--profile", str(profile_file), "--tables", str(NUMBER), *words])
        return code, *capsys.readouterr()

    return call


def runs_of(profile) -> list[Run]:
    return list({run: None for run, _ in table_jobs(tables.load(NUMBER), profile)})


def test_reproduction_is_made_anew_and_the_same(shipped, reproduce, trained, profile, workspace):
    code, out, _ = reproduce()
    count = len(tables.load(NUMBER).cells)
    assert code == 0 and f"Reproduced {count} of {count} cells: {count} same to the last digit." in out
    assert sorted(trained) == sorted(run.name for run in runs_of(profile)), "nothing that ships is taken for a result"
    output = workspace / "reproduction"
    assert {path.name for path in (output / profile.name).iterdir()} == {
        f"reproduction.{ending}" for ending in ("md", "csv", "json")
    }
    assert {path.name for path in workspace.iterdir()} == {"runs", "reproduction"}, "runs of the fixture"
    assert json.loads((output / profile.name / "reproduction.json").read_text())["failed"] is False
    assert reproduce()[0] == 0 and len(trained) == len(runs_of(profile)), "done before"
    assert reproduce("--fresh")[0] == 0 and len(trained) == 2 * len(runs_of(profile))
    assert paths.workspace() == workspace


def test_other_result_ends_with_exit_code_1(shipped, reproduce, profile):
    """Four seeds ship of one cell whose spread is far from what is made; another record is broken."""
    cell, broken, *_ = tables.load(NUMBER).cells
    run, settings = cell_job(cell, profile)
    truth = run.confusion_counts(settings).sum(axis=2)
    for seed in range(4):
        run, settings = cell_job(cell, replace(profile, seed=seed))
        counts = truth[:, :, None] * np.eye(3, dtype=np.int64)
        counts[0, 0] += (-seed, seed, 0)
        run.write_training_record(1.0)
        run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 1.0), counts)
        (shipped / run.name).mkdir(exist_ok=True)
        for path in run.record_folder().iterdir():
            path.rename(shipped / run.name / path.name)
    run, settings = cell_job(broken, profile)
    (shipped / run.name / f"{run.evaluation_name(settings)}.npz").write_bytes(b"damaged")
    code, out, _ = reproduce()
    assert (
        code == 1 and "Reproduced 3 of 5 cells: 3 same to the last digit, 1 outside the seeds' spread, 1 broken" in out
    )


def test_failed_run_is_named_and_the_rest_reported(shipped, reproduce, profile, monkeypatch):
    failing = runs_of(profile)[-1]

    def in_processes(function, tasks, *_):
        failures = {task: UserError("its disk is full.") for task in tasks if task.run == failing}
        for task in tasks:
            if task not in failures:
                function(task, lambda *_: None)
        return failures

    monkeypatch.setattr(local, "in_processes", in_processes)
    code, out, error = reproduce()
    assert code == 1 and "1 not made" in out and "same to the last digit" in out
    assert f"failed: {failing.name}, seed 0 (Table 5 " in error and "its disk is full." in error


def test_profile_without_shipped_records_is_refused(reproduce, ship, workspace, trained):
    (workspace / "records").mkdir(parents=True)
    ship()
    code, _, error = reproduce()
    assert code == 1 and not trained
    assert error.startswith("deeplabv3: the project ships no records of profile 'tiny-tests' in ")


def test_runs_of_other_code_are_refused(shipped, reproduce, trained, monkeypatch):
    assert reproduce()[0] == 0
    monkeypatch.setattr(environment, "_commit", lambda: "0123456789ab")
    code, _, error = reproduce()
    assert code == 1 and "and here it is 0123456789ab; give --fresh to begin anew" in error
    assert reproduce("--output", "elsewhere", "--dry-run")[0] == 0
    count = len(trained)
    assert reproduce("--fresh")[0] == 0 and len(trained) == 2 * count


def test_dry_run_lists_what_ships_as_missing(shipped, reproduce, trained, workspace):
    code, out, _ = reproduce("--dry-run")
    assert code == 0 and not trained and "Table 5 (1,2,4)" in out
    assert not (workspace / "reproduction").exists()
