"""Runs are trained and evaluated in parallel, only if missing; a failure or an interrupt loses nothing."""

import os
import pickle
import queue
from collections.abc import Callable
from dataclasses import replace
from signal import SIGINT, SIGKILL

import numpy as np
import pytest
import torch
from interrupts import assert_ended, interrupt_at_first_step, with_runtime, with_training

from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint
from walkthrough.experiments import local, task
from walkthrough.experiments import run as experiments
from walkthrough.experiments.local import run_missing
from walkthrough.experiments.run import Incomplete, evaluate_run, train_run
from walkthrough.experiments.task import Task, missing, tasks_of
from walkthrough.profiles import with_data
from walkthrough.records.run import Run


def forbid_all_work(monkeypatch) -> None:
    def never(*_, **__):
        raise AssertionError("this was measured already")

    monkeypatch.setattr(experiments, "Trainer", never)
    for name in ("train_run", "evaluate_run", "in_processes"):
        monkeypatch.setattr(local, name, never)


@pytest.mark.parametrize(("parallel_runs", "cores", "threads"), [(0, 8, 1), (1, 8, 8), (3, 8, 2), (4, 2, 1)])
def test_lone_run_has_threads_of_its_share(profile, monkeypatch, parallel_runs, cores, threads):
    """Alone in its process pool, or trained by the command: another number of threads would round differently."""
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    profile = with_runtime(profile, parallel_runs=parallel_runs)
    assert task.threads_of(profile) == threads
    run = Run.of(profile, profile.model_config())
    torch.set_num_threads(3)
    experiments.train_run(run)
    assert run.training_record()["threads"] == threads


def test_failed_run_alone_is_done_again(profile, monkeypatch):
    """Three cells of two runs; the first run cannot resume. What succeeded is not done again."""
    profile = with_runtime(profile, parallel_runs=1)
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


def test_run_is_reproducible_bit_by_bit(profile, workspace, monkeypatch):
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

    monkeypatch.setattr(experiments, "Trainer", never)
    train_run(again)


def test_backbone_weights_are_loaded(profile, tmp_path):
    profile = with_data(profile, backbone_weights=tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        train_run(Run.of(profile, profile.model_config()))


@pytest.mark.parametrize("whole_group", [False, True], ids=["parent", "group"])
def test_ctrl_c_stops_workers_and_saves(profile, monkeypatch, capsys, whole_group):
    """A terminal interrupts the whole group, ``kill`` the parent alone; workers must not train on unseen.

    Where there is no terminal, no bar is drawn.
    """
    profile = with_runtime(with_training(profile, iterations=100_000), parallel_runs=0)
    run = Run.of(profile, profile.model_config())
    workers = interrupt_at_first_step(monkeypatch, local, SIGINT, whole_group)
    with pytest.raises(KeyboardInterrupt):
        run_missing([(run, profile.evaluation)])
    assert_ended(workers)
    assert load_checkpoint(run.checkpoint).step > 0
    assert "\r" not in capsys.readouterr().err


@pytest.mark.parametrize(("parallel_runs", "gpus", "runs"), [(0, 0, 8), (0, 2, 2), (3, 2, 3), (1, 0, 1)])
def test_parallel_runs_follow_cores_gpus_and_profile(profile, monkeypatch, parallel_runs, gpus, runs):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    profile = with_runtime(profile, parallel_runs=parallel_runs)
    assert task.parallel_runs(profile) == runs
    assert task.threads_of(profile) == 8 // runs


def test_processes_take_gpus_in_turn(monkeypatch):
    """Of five processes on two GPUs, three share the first."""
    taken, slots = [], queue.Queue()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for slot in range(5):
        slots.put(slot)
    for _ in range(5):
        local._select_gpu(slots)
    assert taken == [0, 1, 0, 1, 0]


def test_killed_process_is_a_user_error(profile):
    """Nobody knows whose it was, so all that were not done are named."""
    profile = with_runtime(profile, parallel_runs=1)
    runs = [Run.of(replace(profile, seed=seed), profile.model_config()) for seed in (0, 1)]
    tasks = tasks_of([(run, profile.evaluation) for run in runs])
    failures = local.in_processes(die, tasks, 1, 1, "dying")
    assert list(failures) == tasks
    for error in failures.values():
        assert isinstance(error, UserError) and "lower 'runtime.parallel_runs'" in str(error)


def die(task: Task, report: Callable) -> None:
    os.kill(os.getpid(), SIGKILL)


def test_incomplete_evaluation_survives_pickling():
    """An exception that cannot be read back would end the whole pool."""
    error = pickle.loads(pickle.dumps(Incomplete("1 of 3 images", {"miou": 1.0})))
    assert (type(error), str(error), error.values) == (Incomplete, "1 of 3 images", {"miou": 1.0})
