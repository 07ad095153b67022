"""Locks: one process at a time trains or evaluates a run, and a dead process blocks nobody."""

import errno
import fcntl
import os
import re
import signal
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace

import pytest
from conftest import read_until
from record_helpers import make_trained, process, run_of

from deeplabv3.distributed import ProcessGroup
from deeplabv3.model.checkpoint import load_checkpoint
from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.records import lock
from walkthrough.records.lock import LOCK, Locked, is_held, locked
from walkthrough.records.run import Run

BUSY = b"another process is busy with"


@pytest.fixture
def run(profile) -> Run:
    return run_of(profile)


def kill_when_waiting(monkeypatch, holder) -> None:
    """Kill the process ``holder`` as soon as this one waits for a lock."""

    def kill(_: float) -> None:
        holder.kill()
        holder.wait()

    monkeypatch.setattr(lock, "time", SimpleNamespace(sleep=kill))


def test_concurrent_processes_train_run_once(run, profile_file):
    steps = []
    with ExitStack() as stack:

        def report(step: int, loss: float, lr: float) -> None:
            steps.append(step)
            if step == 0:
                second.append(stack.enter_context(process(profile_file, "train")))
                read_until(second[0].stderr, BUSY + f" run {run.name}".encode())

        second = []
        train_run(run, report)
        out, err = second[0].communicate(timeout=90)
    assert steps == [0, 1, 2]
    assert out == b"trained\n"
    assert BUSY not in err, "it says so once"
    assert run.training_record() is not None
    assert not (run.folder / LOCK).exists()


def test_waiting_process_replaces_killed_trainer(run, profile_file, monkeypatch, capsys):
    steps = []
    with process(profile_file, "train") as first:
        read_until(first.stdout, b"step 0.")
        kill_when_waiting(monkeypatch, first)
        train_run(run, lambda step, loss, lr: steps.append(step))
    assert capsys.readouterr().err.count(BUSY.decode()) == 1
    assert steps == [0, 1, 2]
    assert load_checkpoint(run.checkpoint).step == 3


def test_concurrent_processes_count_evaluation_once(run, profile, profile_file):
    make_trained(run)
    with ExitStack() as stack:

        def report(done: int) -> None:
            if done == 2:
                second.append(stack.enter_context(process(profile_file, "evaluate")))
                read_until(second[0].stderr, BUSY + b" eval-")

        second = []
        evaluate_run(run, profile.evaluation, report)
        out, _ = second[0].communicate(timeout=90)
        assert out == b"" and second[0].returncode == 0
    assert run.evaluation_record(profile.evaluation)["images"] == 3
    assert not list(run.record_folder().glob("[.p]*")), "neither locks nor partial counts"


def test_waiting_process_replaces_killed_evaluation(run, profile, profile_file, monkeypatch):
    make_trained(run)
    done = []
    with process(profile_file, "evaluate") as first:
        read_until(first.stdout, b"done 2.")
        kill_when_waiting(monkeypatch, first)
        evaluate_run(run, profile.evaluation, done.append)
    assert done == [2, 3], "from where the other was"
    assert run.evaluation_record(profile.evaluation)["images"] == 3
    assert not list(run.record_folder().glob("[.p]*")), "neither locks nor partial counts"


def test_evaluation_does_not_wait_for_other_work(run, profile):
    """Neither for the training nor for another strategy."""
    make_trained(run)
    name = run.evaluation_name(profile.evaluation)
    with locked(run.folder / LOCK, "the training"), locked(run.record_folder() / f".{name}{LOCK}", "an evaluation"):
        record = evaluate_run(run, replace(profile.evaluation, flip=True))
    assert record["images"] == 3


def test_evaluation_that_did_not_wait_is_repeated(run, profile):
    """A process that waited takes the other's record; otherwise 'deeplabv3 evaluate' is asked to measure."""
    make_trained(run)
    evaluate_run(run, profile.evaluation)
    done = []
    evaluate_run(run, profile.evaluation, done.append)
    assert done == [0, 1, 2, 3]
    evaluate_run(run, profile.evaluation, done.append, wait=False)
    assert done == [0, 1, 2, 3]


def test_held_lock_raises_without_wait(run, profile):
    make_trained(run)
    name = run.evaluation_name(profile.evaluation)
    busy_evaluating = pytest.raises(Locked, match=f"another process is busy with {name} of run {run.name}")
    with locked(run.record_folder() / f".{name}{LOCK}", "an evaluation"), busy_evaluating:
        evaluate_run(run, profile.evaluation, wait=False)
    run.checkpoint.unlink()
    with locked(run.folder / LOCK, "the training"), pytest.raises(Locked, match=f"busy with run {run.name}"):
        train_run(run, wait=False)


def test_lock_ends_with_holder_despite_forked_children(run, profile_file, tmp_path):
    path = tmp_path / "folder" / LOCK
    with process(profile_file, "hold", path) as holder:
        out = b""
        while b"." not in out:
            out += os.read(holder.stdout.fileno(), 100)
        child = int(re.search(rb"child (\d+)", out)[1])
        assert is_held(path)
        holder.kill()
        holder.wait()
        try:
            os.kill(child, 0)  # it lives
            assert not is_held(path)
            with locked(path, "what was held") as waited:
                assert not waited
        finally:
            os.kill(child, signal.SIGKILL)
    assert not path.exists()


def test_lock_in_moved_folder_is_taken_anew(tmp_path):
    """As --no-resume moves it: a process that waited must not hold a lock that nobody else can find."""
    path, archive = tmp_path / "run" / LOCK, tmp_path / "archive"
    release_first = lock._acquire(path)
    assert lock._acquire(path) is None
    path.parent.rename(archive)
    release_second = lock._acquire(path)
    assert release_second is not None and is_held(path) and is_held(archive / LOCK)
    release_first()
    assert path.exists() and is_held(path), "it is the second one's by now"
    release_second()
    assert not path.exists()


def test_lock_moved_while_opened_is_taken_anew(tmp_path, monkeypatch):
    """Between opening the file and locking it: then the lock is on a file that nobody else will find."""
    path, archive, flock = tmp_path / "run" / LOCK, tmp_path / "archive", fcntl.flock

    def move_first(descriptor: int, flags: int) -> None:
        if not archive.exists():
            path.parent.rename(archive)
        flock(descriptor, flags)

    monkeypatch.setattr(fcntl, "flock", move_first)
    release = lock._acquire(path)
    monkeypatch.undo()
    assert is_held(path) and not is_held(archive / LOCK)
    release()


def test_deleted_lock_is_taken_anew(tmp_path):
    path = tmp_path / LOCK
    release_first = lock._acquire(path)
    path.unlink()
    release_second = lock._acquire(path)
    release_first()
    assert is_held(path), "it is the second one's by now"
    release_second()
    assert not path.exists()


def test_process_group_waits_with_main_process(tmp_path, capsys, monkeypatch):
    """The others exchange a word now and then while it waits: one exchange would give up after ten minutes."""
    path, gathered = tmp_path / LOCK, []
    release = lock._acquire(path)

    class Spy(ProcessGroup):
        def all_gather(self, value):
            gathered.append(value)
            if len(gathered) == 3:
                release()
            return [value]

    monkeypatch.setattr(lock, "POLL_S", 0.0)
    with locked(path, "run x", Spy(0, 2)) as waited:
        assert waited
    assert gathered == [True, True, True, False]
    assert capsys.readouterr().err.count("busy with run x") == 1
    with locked(path, "run x", Spy(1, 2)) as waited:
        assert not waited and not path.exists()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK])
def test_file_system_without_locks_locks_nothing(tmp_path, monkeypatch, number):
    path = tmp_path / "folder" / LOCK

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(path, "a"), locked(path, "b") as waited:
        assert not waited and not is_held(path)
