"""A Ray cluster of two workers, one of which is killed in the middle of a run."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplabv3 import signals
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import checkpoint_step, load_checkpoint
from deeplabv3.training import trainer
from walkthrough.cli import main
from walkthrough.experiments import local as pool
from walkthrough.experiments import ray_cluster
from walkthrough.experiments import run as experiments
from walkthrough.experiments.ray_cluster import on_cluster
from walkthrough.experiments.task import Task
from walkthrough.profiles import Profile
from walkthrough.records.run import Run


@pytest.fixture(scope="module")
def workers() -> Iterator[None]:
    """A cluster of two workers with a core each, processes of their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install -e '.[ray]'")
    for patience in (2, 1, 0):  # Ray gives a cluster 30 seconds to start, which a busy machine may not keep to
        try:
            ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if not patience:
                raise
    # Workers do not find this module, so its functions travel whole.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


def task_of(profile: Profile, seed: int, iterations: int = 60) -> Task:
    training = replace(profile.training, iterations=iterations)
    profile = replace(profile, seed=seed, side_by_side=os.cpu_count() or 1, training=training)
    return Task(Run.of(profile, profile.model_config()), (profile.evaluation,), images=3)


def slow_work(task: Task, report: Callable) -> None:
    """A step takes a moment and is saved, and every attempt leaves the step that it begins with."""
    task.run.folder.mkdir(parents=True, exist_ok=True)
    with open(task.run.folder / "attempts", "a") as file:
        file.write(f"{checkpoint_step(task.run.checkpoint)}\n")
    experiments.train = partial(trainer.train, save_every_s=0.0)

    def slow_report(position: int, loss: float | None = None) -> None:
        report(position, loss)
        time.sleep(0.05)

    pool.run_task(task, slow_report)


def attempts(task: Task) -> list[int]:
    return [int(line) for line in (task.run.folder / "attempts").read_text().split()]


def when_trained(run: Run, steps: int, act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as the run has saved so many steps."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while checkpoint_step(run.checkpoint) < steps:
            assert time.monotonic() < deadline, "the run does not begin"
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill_its_process(run: Run) -> None:
    """SIGKILL to whoever has the run's log open."""
    log = str((run.folder / "log.csv").resolve())
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()) == log:
                os.kill(int(link.parts[2]), signal.SIGKILL)
                return
        except OSError:  # a process of somebody else, or one that has ended
            continue
    raise AssertionError(f"nobody trains {run.name}")


@pytest.mark.skipif(sys.platform != "linux", reason="who trains is looked up in /proc")
def test_a_killed_workers_run_goes_on_elsewhere_and_ends_with_the_same_bits(workers, profile, workspace, monkeypatch):
    """Two good runs and one that cannot begin: the user's error is not tried again, the lost worker's run is."""
    monkeypatch.setattr(experiments, "device", lambda: torch.device("cpu"))
    tasks = [task_of(profile, seed) for seed in (0, 1, 2)]
    lost, other, broken = tasks
    broken.run.folder.mkdir(parents=True)
    broken.run.checkpoint.write_bytes(b"damaged")
    killer = when_trained(lost.run, 10, partial(kill_its_process, lost.run))

    failures = on_cluster(slow_work, tasks, "sweep")

    killer.join()
    assert list(failures) == [broken]
    assert isinstance(failures[broken], UserError) and "is damaged" in str(failures[broken])
    assert attempts(broken) == attempts(other) == [0]
    begun, resumed = attempts(lost)
    assert begun == 0 and 10 <= resumed < 60
    assert not list(workspace.glob(".sweep-*"))

    ended = [(load_checkpoint(task.run.checkpoint), counts_of(task)) for task in (lost, other)]
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", str(workspace / "undisturbed"))
    for task, (checkpoint, counts) in zip((lost, other), ended, strict=True):
        assert task.run.training_record() is None
        pool.run_task(task, lambda *_: None)
        weights = load_checkpoint(task.run.checkpoint).model
        assert checkpoint.step == 60 and weights.keys() == checkpoint.model.keys()
        assert all(torch.equal(weights[name], value) for name, value in checkpoint.model.items())
        assert np.array_equal(counts_of(task), counts)


def counts_of(task: Task) -> np.ndarray:
    counts = task.run.confusion_counts(task.evaluations[0])
    assert counts.shape == (3, 3, 3)
    return counts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_has_the_tasks_save(workers, profile, number, monkeypatch):
    """The command stops, and so do the tasks; the next command goes on."""
    monkeypatch.setattr(ray_cluster, "SAVING_S", 20.0)
    task = task_of(profile, seed=int(number), iterations=100_000)
    sender = when_trained(task.run, 3, partial(os.kill, os.getpid(), number))
    with pytest.raises((KeyboardInterrupt, signals.Interrupted)):
        on_cluster(saving_work, [task], "sweep")
    sender.join()
    stopped = checkpoint_step(task.run.checkpoint)
    assert stopped > 3, "it was saved once more, when it was stopped"
    time.sleep(1)
    assert checkpoint_step(task.run.checkpoint) == stopped, "it trains on unseen"


def saving_work(task: Task, report: Callable) -> None:
    """A checkpoint a second, so that one that is saved when it is told to stop is a later one."""
    experiments.train = partial(trainer.train, save_every_s=1.0)
    pool.run_task(task, report)


def test_a_machine_without_the_workspace_is_told(profile, tmp_path):
    missing = tmp_path / "elsewhere" / ".sweep-1"
    with pytest.raises(UserError, match=r"does not see the workspace .*elsewhere; set DEEPLABV3_WORKSPACE"):
        ray_cluster._do(slow_work, 0, task_of(profile, 0), {}, missing, None)


def test_every_machine_gets_the_drivers_folders(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", "here")
    monkeypatch.setenv("DEEPLABV3_DATA", "images")
    monkeypatch.setenv("DEEPLABV3_SEEDS", "2")
    found = ray_cluster._environment()
    assert found["DEEPLABV3_WORKSPACE"] == str(tmp_path / "here")
    assert found["DEEPLABV3_DATA"] == str(tmp_path / "images")
    assert found["DEEPLABV3_SEEDS"] == "2"
    assert not [name for name in found if not name.startswith("DEEPLABV3_")]


def test_without_ray_one_sentence_names_the_extra(profile_file, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "--profile", str(profile_file), "--tables", "1", "--ray"]) == 1
    error = capsys.readouterr().err
    assert "pip install -e '.[ray]'" in error and "Traceback" not in error
