"""Records that several processes write: a reader sees a complete one or none."""

import io
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import read_until
from record_helpers import PROFILE, counts_of, make_old, process, run_of, write

from walkthrough.records import catalogue, prune, store
from walkthrough.records.run import Run


@pytest.fixture
def run(profile) -> Run:
    return run_of(profile)


def test_concurrent_writers_leave_complete_records(run, profile, profile_file):
    """Without any lock: the JSON and the counts that a reader gets were written together."""
    first, second = 1000, 2000
    with process(profile_file, "write_often", first) as one, process(profile_file, "write_often", second) as two:
        for writer in (one, two):
            read_until(writer.stdout, b"ready")
        for writer in (one, two):
            writer.stdin.write(b"\n")
            writer.stdin.flush()
        marks, deadline = set(), time.monotonic() + 300
        while len({mark // 1000 for mark in marks}) < 2 or len(marks) < 20:  # both were seen at work
            assert one.poll() is None and two.poll() is None and time.monotonic() < deadline
            if evaluation := run._evaluation(profile.evaluation):
                values, path, content = evaluation
                assert np.array_equal(store.read_counts(path, content), counts_of(values["mark"]))
                marks.add(values["mark"])
        for writer in (one, two):
            writer.communicate(b"\n", timeout=60)
            assert writer.returncode == 0
    write(run, 7)
    assert run.evaluation_record(profile.evaluation)["mark"] == 7
    assert {path.suffix for path in run.record_folder().iterdir()} == {".npz", ".json"}, "no leftovers"


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize("before", [None, 5], ids=["first", "again"])
def test_killed_writer_leaves_complete_record_or_none(run, profile, profile_file, suffix, before):
    """Before the counts have their name, or between them and the JSON; prune deletes what it leaves."""
    if before:
        write(run, before)
    with process(profile_file, "write_until", 6, suffix) as writer:
        assert writer.wait(timeout=300) == -signal.SIGKILL
    record = run.evaluation_record(profile.evaluation)
    counts = run.confusion_counts(profile.evaluation)
    if before and suffix == ".npz":
        assert record["mark"] == before and np.array_equal(counts, counts_of(before))
    else:
        assert record is None and counts is None
        evaluations = [one for record in catalogue.run_records(PROFILE) for one in record.evaluations]
        assert all(one.problem.startswith("damaged") for one in evaluations)
    (leftover,) = run.record_folder().glob(".*.partial*")
    assert leftover not in prune.plan(PROFILE).delete, "it might still be written to"
    make_old(leftover)
    assert prune.plan(PROFILE).delete[leftover] == "its writer was killed"
    write(run, 7)
    assert run.evaluation_record(profile.evaluation)["mark"] == 7
    assert np.array_equal(run.confusion_counts(profile.evaluation), counts_of(7))
    prune.delete(prune.plan(PROFILE))
    assert not leftover.exists() and run.evaluation_record(profile.evaluation)["mark"] == 7


@pytest.mark.parametrize("largest", [1, 255, 70_000, 2**31])
def test_packed_counts_are_read_back(largest):
    confusions = np.random.default_rng(0).integers(0, largest, (7, 3, 3), endpoint=True)
    confusions[2:, 1] = 0
    found = store.read_counts(Path("eval.npz"), store.pack_counts(confusions))
    assert np.array_equal(found, confusions) and found.dtype == np.int64
    assert store.read_counts(Path("eval.npz"), store.pack_counts(confusions * 0)).sum() == 0


def test_packed_counts_are_smaller_than_matrices():
    """Three of eleven classes an image, as in the synthetic data set."""
    random = np.random.default_rng(0)
    confusions = np.zeros((200, 11, 11), dtype=np.int32)
    for matrix in confusions:
        chosen = random.choice(11, 3, replace=False)
        matrix[np.ix_(chosen, chosen)] = random.integers(0, 9000, (3, 3))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, confusion=confusions)
    assert len(store.pack_counts(confusions)) < 0.7 * len(buffer.getvalue())
