"""Making runs: only what is missing, side by side, one failure not losing the others, stoppable."""

import os
import pickle
import queue
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint
from walkthrough.experiments import local as pool
from walkthrough.experiments import run as experiments
from walkthrough.experiments import task
from walkthrough.experiments.local import run_missing
from walkthrough.experiments.run import Incomplete, evaluate_run, train_run
from walkthrough.experiments.task import Task, missing, tasks_of
from walkthrough.records.run import Run


def forbid_all_work(monkeypatch) -> None:
    def never(*_, **__):
        raise AssertionError("this was measured already")

    monkeypatch.setattr(experiments, "train", never)
    for name in ("train_run", "evaluate_run", "in_processes"):
        monkeypatch.setattr(pool, name, never)


@pytest.mark.parametrize(("side_by_side", "cores", "threads"), [(0, 8, 1), (1, 8, 8), (3, 8, 2), (4, 2, 1)])
def test_a_run_has_the_threads_of_its_share_even_alone(profile, monkeypatch, side_by_side, cores, threads):
    """Alone in its process pool, or trained by the command: another number of threads would round otherwise."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    profile = replace(profile, side_by_side=side_by_side)
    assert task.threads_of(profile) == threads
    run = Run.of(profile, profile.model_config())
    torch.set_num_threads(3)
    experiments.train_run(run)
    assert run.training_record()["threads"] == threads


def test_one_failure_does_not_lose_the_others_and_nothing_is_made_twice(profile, monkeypatch):
    """Three cells of two runs; the first run cannot go on. Then only what failed is made again."""
    profile = replace(profile, side_by_side=1)
    broken = Run.of(profile, profile.model_config(multi_grid=(1, 1, 1)))
    good = Run.of(profile, profile.model_config())
    at_8 = replace(profile.evaluation, output_stride=8)
    broken.folder.mkdir(parents=True)
    broken.checkpoint.write_bytes(b"damaged")
    jobs = [(broken, profile.evaluation), (good, profile.evaluation), (good, at_8), (good, profile.evaluation)]
    assert missing(jobs) == jobs[:3]

    with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged"):
        run_missing(jobs)
    assert missing(jobs) == jobs[:1]
    assert good.training_record()["run"] == good.name
    for settings in (profile.evaluation, at_8):
        assert good.confusion_counts(settings).shape == (3, 3, 3)
    assert broken.training_record() is None

    forbid_all_work(monkeypatch)
    run_missing(jobs[1:])
    run_missing([])


def test_a_run_is_reproducible_and_evaluated_as_it_was_trained(profile, workspace, monkeypatch):
    """The same run in another workspace ends with the same weights and the same counts, bit by bit on a CPU."""
    monkeypatch.setattr(experiments, "device", lambda: torch.device("cpu"))
    run = Run.of(profile, profile.model_config())
    steps = []
    train_run(run, lambda step, loss, lr: steps.append(step))
    assert steps == [0, 1, 2]
    trained = load_checkpoint(run.checkpoint)
    assert trained.step == 3
    record = evaluate_run(run, profile.evaluation)
    assert record["images"] == 3
    counts = run.confusion_counts(profile.evaluation)

    monkeypatch.setenv("DEEPLABV3_WORKSPACE", str(workspace / "other"))
    again = Run.of(profile, profile.model_config())
    assert again.training_record() is None
    train_run(again)
    assert evaluate_run(again, profile.evaluation)["miou"] == record["miou"]
    assert np.array_equal(again.confusion_counts(profile.evaluation), counts)
    weights = load_checkpoint(again.checkpoint).model
    assert all(torch.equal(value, weights[name]) for name, value in trained.model.items())

    def never(*_, **__):
        raise AssertionError("trained twice")

    monkeypatch.setattr(experiments, "train", never)
    train_run(again)


def test_backbone_weights_are_loaded(profile, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        train_run(Run.of(replace(profile, backbone_weights=str(tmp_path / "nowhere.pth")), profile.model_config()))


@pytest.mark.parametrize(
    ("interrupt", "number"),
    [(os.kill, signal.SIGINT), (os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)],
    ids=["parent", "group", "terminated"],
)
def test_an_interrupt_stops_the_workers_and_saves(profile_file, workspace, interrupt, number):
    """A terminal interrupts the whole group, ``kill`` the parent alone; workers must not train on unseen.

    Where no terminal is, no bar is drawn.
    """
    script = textwrap.dedent("""
        import sys
        from walkthrough.profiles import load_profile
        from walkthrough.experiments.run import run_missing
        from walkthrough.records.run import Run

        if __name__ == "__main__":
            profile = load_profile(sys.argv[1], {"training.iterations": 100_000, "side_by_side": 0})
            run = Run.of(profile, profile.model_config())
            run_missing([(run, profile.evaluation)])
    """)
    path = workspace.parent / "main.py"
    path.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(path), str(profile_file)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(lambda: any(log.stat().st_size > 100 for log in workspace.glob("runs/*/*/log.csv")))
        interrupt(process.pid, number)
        _, error = process.communicate(timeout=40)  # returns when nobody holds stderr any more: no worker is left
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    (checkpoint,) = (workspace / "runs" / "tiny-tests").glob("*/checkpoint.safetensors")
    assert load_checkpoint(checkpoint).step > 0
    assert b"\r" not in error


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.mark.parametrize(("side_by_side", "gpus", "runs"), [(0, 0, 8), (0, 2, 2), (3, 2, 3), (1, 0, 1)])
def test_one_run_a_core_or_a_gpu_unless_the_profile_says(profile, monkeypatch, side_by_side, gpus, runs):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    profile = replace(profile, side_by_side=side_by_side)
    assert task.parallel_runs(profile) == runs
    assert task.threads_of(profile) == 8 // runs


def test_every_process_takes_a_gpu_of_its_own(monkeypatch):
    """Of five processes on two GPUs, three share the first."""
    taken, slots = [], queue.Queue()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for slot in range(5):
        slots.put(slot)
    for _ in range(5):
        pool._take_gpu(slots)
    assert taken == [0, 1, 0, 1, 0]


def test_a_killed_process_is_a_sentence(profile):
    """Nobody knows whose it was, so all that were not done are named."""
    profile = replace(profile, side_by_side=1)
    runs = [Run.of(replace(profile, seed=seed), profile.model_config()) for seed in (0, 1)]
    tasks = tasks_of([(run, profile.evaluation) for run in runs])
    failures = pool.in_processes(die, tasks, 1, 1, "dying")
    assert list(failures) == tasks
    for error in failures.values():
        assert isinstance(error, UserError) and "lower 'runtime.parallel_runs'" in str(error)


def die(task: Task, report: Callable) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_unreadable_images_come_back_from_a_process_as_they_are():
    """An exception that cannot be read back would end the whole pool."""
    error = pickle.loads(pickle.dumps(Incomplete("1 of 3 images", {"miou": 1.0})))
    assert (type(error), str(error), error.values) == (Incomplete, "1 of 3 images", {"miou": 1.0})


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
