"""Runs are trained and evaluated in parallel, only if missing; a failure or an interrupt loses nothing."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from signal import SIGINT, SIGKILL
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from interrupts import assert_ended, interrupt_at_first_step, with_runtime, with_training

from deeplabv3.errors import UserError
from deeplabv3.machine import LOCAL_PROCESSES
from deeplabv3.model.checkpoint import load_checkpoint
from walkthrough.experiments import local, processes, task
from walkthrough.experiments import run as experiments
from walkthrough.experiments.local import run_missing
from walkthrough.experiments.run import Incomplete, evaluate_run, train_run
from walkthrough.experiments.task import Task, missing, tasks_of
from walkthrough.profiles import load_profile, profile_names, with_data
from walkthrough.records.run import Run


def forbid_all_work(monkeypatch) -> None:
    def never(*_, **__):
        raise AssertionError("this was measured already")

    monkeypatch.setattr(experiments, "Trainer", never)
    for name in ("train_run", "evaluate_run", "in_processes"):
        monkeypatch.setattr(local, name, never)


@pytest.fixture
def machine(monkeypatch) -> Callable[..., None]:
    """``machine(cores, gpus, gib)``: from now on there are so many, the GPUs with so much memory each."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def change(cores: int, gpus: int = 0, gib: int = 80) -> None:
        monkeypatch.setattr(task, "available_cpus", lambda: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        properties = SimpleNamespace(total_memory=gib * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)

    return change


@pytest.mark.parametrize(("parallel_runs", "cores", "threads"), [(0, 8, 1), (1, 8, 8), (3, 8, 2), (4, 2, 1)])
def test_lone_run_has_threads_of_its_share(profile, machine, parallel_runs, cores, threads):
    """Alone in its process pool, or trained by the command: another number of threads would round differently."""
    machine(cores)
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


@pytest.mark.parametrize(
    ("parallel_runs", "cores", "gpus", "gib", "runs"),
    [
        (1, 8, 0, 0, 1), (3, 8, 0, 0, 3), (0, 8, 0, 0, 8),  # on the CPU
        (1, 8, 8, 80, 8), (2, 8, 2, 80, 4),  # on every GPU
        (0, 64, 2, 80, 16), (0, 64, 1, 8, 4), (0, 6, 2, 80, 6), (0, 2, 4, 80, 4), (0, 64, 1, 1, 1),
    ],
)  # fmt: skip
def test_parallel_runs_follow_cores_gpus_and_profile(profile, machine, parallel_runs, cores, gpus, gib, runs):
    """Left open, it is a run for each core and 2 GiB of memory that a GPU has, at most eight."""
    machine(cores, gpus, gib)
    profile = with_runtime(profile, parallel_runs=parallel_runs)
    assert task.parallel_runs(profile) == runs
    assert task.threads_of(profile) == max(1, cores // runs)


@pytest.mark.parametrize("name", profile_names())
def test_sweep_of_every_profile_uses_every_gpu(name, machine):
    machine(64, 8)
    assert task.parallel_runs(load_profile(name)) in (8, 64)


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"OMP_NUM_THREADS": "all"}, 8),
        ({"LOCAL_WORLD_SIZE": "4"}, 2),  # torchrun's processes on this machine
        ({"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "16", "OMP_NUM_THREADS": "1"}, 1),
    ],
)
def test_environment_bounds_threads_of_a_run(profile, machine, monkeypatch, variables, threads):
    machine(8)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert task.threads_of(with_runtime(profile, parallel_runs=1)) == threads


def test_threads_respect_quota_of_a_container(profile, machine):
    """PyTorch counts the machine's cores."""
    machine(2)
    torch.set_num_threads(5)
    task.limit_threads()
    assert torch.get_num_threads() == 2
    machine(64)
    task.limit_threads()
    assert torch.get_num_threads() == 2


def test_processes_take_gpus_in_turn(monkeypatch):
    """Of five processes on two GPUs, three share the first."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for slot in range(5):
        local._select_gpu(slot)
    assert taken == [0, 1, 0, 1, 0]


def test_killed_process_costs_its_run_alone(profile):
    """The second of four; the others are done, some in the process that replaces it."""
    runs = [Run.of(replace(profile, seed=seed), profile.model_config()) for seed in range(4)]
    tasks = tasks_of([(run, profile.evaluation) for run in runs])
    failures = local.in_processes(die_second, tasks, 2, 1, "dying")
    assert [task.run.seed for task in failures] == [1]
    (error,) = failures.values()
    assert isinstance(error, UserError)
    assert "its process was killed" in str(error) and "lower 'runtime.parallel_runs'" in str(error)
    assert [task.run.seed for task in tasks if (task.run.folder / "done").is_file()] == [0, 2, 3]


def test_idle_process_that_is_killed_costs_nothing(profile):
    """Once it has done a task; the pool hears of its death before the next one or with it."""
    runs = [Run.of(replace(profile, seed=seed), profile.model_config()) for seed in range(2)]
    tasks = tasks_of([(run, profile.evaluation) for run in runs])
    context = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, context)]
    process_id = pools[0].submit(os.getpid).result()
    os.kill(process_id, SIGKILL)
    while not pools[0]._broken:
        time.sleep(0.01)
    made, started = [], []

    def new_pool(slot):
        made.append(slot)
        return ProcessPoolExecutor(1, context)

    results = processes._results(pools, new_pool, partial(local._do, die_second), tasks[:1], started.append)
    assert [(number, result.exception()) for number, result in results] == [(0, None)]
    assert made == started == [0]
    pools[0].shutdown()


def test_processes_of_a_sweep_share_memory(profile):
    run = Run.of(profile, profile.model_config())
    assert local.in_processes(note_processes, tasks_of([(run, profile.evaluation)]), 7, 1, "noting") == {}
    assert (run.folder / "processes").read_text() == "7"


def note_processes(task: Task, report: Callable) -> None:
    task.run.folder.mkdir(parents=True)
    (task.run.folder / "processes").write_text(os.environ[LOCAL_PROCESSES])


def die_second(task: Task, report: Callable) -> None:
    if task.run.seed == 1:
        os.kill(os.getpid(), SIGKILL)
    task.run.folder.mkdir(parents=True, exist_ok=True)
    (task.run.folder / "done").touch()


def test_incomplete_evaluation_survives_pickling():
    """An exception that cannot be read back would end the whole pool."""
    error = pickle.loads(pickle.dumps(Incomplete("1 of 3 images", {"miou": 1.0})))
    assert (type(error), str(error), error.values) == (Incomplete, "1 of 3 images", {"miou": 1.0})
