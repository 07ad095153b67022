"""Records that ship need no work, unless a page wants them made on this machine."""

from dataclasses import replace

import numpy as np

from walkthrough.experiments.local import run_live, run_missing, run_table
from walkthrough.paper import tables
from walkthrough.records.cells import cell_job, table_jobs
from walkthrough.records.naming import LOCAL, SHIPPED, reading

ROW = tables.load(5).cell(image_pooling="yes")


def made_here(job) -> bool:
    run, settings = job
    with reading(LOCAL):
        return run.evaluation_record(settings) is not None


def test_shipped_run_is_made_here_once(profile, ship, trained):
    run, settings = cell_job(ROW, profile)
    run_missing([(run, settings)])
    run.checkpoint.unlink()
    ship()
    run_missing([(run, settings)])
    assert trained == [run.name] and not made_here((run, settings)), "what ships is not missing"
    run_live([(run, settings)])
    assert trained == [run.name] * 2 and made_here((run, settings)) and run.checkpoint.is_file()
    run_live([(run, settings)])
    assert len(trained) == 2
    with reading(SHIPPED):
        shipped = run.confusion_counts(settings)
    assert np.array_equal(run.confusion_counts(settings), shipped)


def test_deleted_network_is_trained_again(profile, trained):
    run, settings = cell_job(ROW, profile)
    run_live([(run, settings)])
    record = run.evaluation_record(settings)
    run.checkpoint.unlink()
    run_missing([(run, settings)])
    assert len(trained) == 1
    run_live([(run, settings)])
    assert run.checkpoint.is_file() and run.evaluation_record(settings) == record, "nothing is evaluated twice"


def test_live_table_makes_its_first_seed(profile, ship, trained):
    """Two seeds ship of Table 5, whose second one lacks a record."""
    two = replace(profile, seeds=2)
    run_table(5, two)
    first, second = (table_jobs(tables.load(5), replace(profile, seed=seed)) for seed in (0, 1))
    broken, settings = second[-1]
    (broken.record_folder() / f"{broken.evaluation_name(settings)}.json").unlink()
    ship()
    trained.clear()
    run_table(5, two, live=True)
    assert sorted(trained) == sorted({run.name for run, _ in first} | {broken.name})
    assert all(map(made_here, first)) and [made_here(job) for job in second].count(True) == 1
