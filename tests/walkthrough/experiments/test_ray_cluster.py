"""Tasks on a Ray cluster of two workers, one of which is killed during a run."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from interrupts import interrupt_at_first_step, with_runtime, with_training

from deeplabv3.errors import UserError
from deeplabv3.machine import LOCAL_PROCESSES
from deeplabv3.model.checkpoint import checkpoint_step, load_checkpoint
from deeplabv3.signals import Interrupted
from walkthrough.cli import main
from walkthrough.experiments import local, ray_cluster
from walkthrough.experiments import run as experiments
from walkthrough.experiments import task as task_module
from walkthrough.experiments.ray_cluster import on_cluster
from walkthrough.experiments.task import Task
from walkthrough.profiles import Profile
from walkthrough.records.lock import LOCK, is_held
from walkthrough.records.run import Run


@pytest.fixture(scope="module")
def workers() -> Iterator[None]:
    """A cluster of two workers with a core each, processes of their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="Ray is not installed; pip install -e '.[ray]'")
    memory = {"memory_monitor_refresh_ms": 0}  # by default workers are killed where other programs fill the memory
    for attempts_left in range(7, -1, -1):  # Ray gives its processes 15 s to start, which a busy machine may exceed
        try:
            options = {"include_dashboard": False, "log_to_driver": False, "_system_config": memory}
            ray.init(address="local", num_cpus=2, num_gpus=0, **options)
            break
        except Exception:
            ray.shutdown()
            if not attempts_left:
                raise
    # Workers do not find this module, so its functions travel whole.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.shutdown()


def task_of(profile: Profile, seed: int, iterations: int = 8, save_every_s: float = 0.0) -> Task:
    profile = with_runtime(profile, parallel_runs=os.cpu_count() or 1, save_every_s=save_every_s)
    profile = with_training(replace(profile, seed=seed), iterations=iterations)
    return Task(Run.of(profile, profile.model_config()), (profile.evaluation,), images=3)


def work_killed_once(task: Task, report: Callable) -> None:
    """Do the task; the first attempt of seed 0 is killed in its fourth step. Every attempt leaves its first step."""
    task.run.folder.mkdir(parents=True, exist_ok=True)
    with open(task.run.folder / "attempts", "a") as file:
        file.write(f"{checkpoint_step(task.run.checkpoint)}\n")
    reports = 0

    def report_or_die(position: int, loss: float | None = None) -> None:
        nonlocal reports
        reports += 1
        if task.run.seed == 0 and reports == 4 and attempts(task) == [0]:
            os.kill(os.getpid(), signal.SIGKILL)
        report(position, loss)

    local.run_task(task, report_or_die)


def attempts(task: Task) -> list[int]:
    return [int(line) for line in (task.run.folder / "attempts").read_text().split()]


def test_killed_sweeps_marker_goes_without_tasks(workspace):
    """Killed behind its last task, a sweep leaves nothing to do."""
    workspace.mkdir(exist_ok=True)
    old, fresh = (workspace / f".sweep-{number}.partial" for number in (1, 2))
    for marker in (old, fresh):
        marker.touch()
    os.utime(old, (0, 0))
    assert on_cluster(work_killed_once, [], "sweep") == {}
    assert [*workspace.glob(".sweep-*")] == [fresh]


def test_killed_worker_resumes_with_same_bits(workers, profile, workspace, monkeypatch):
    """Two good runs and one that cannot begin: the user's error is not tried again, the lost worker's run is."""
    monkeypatch.setattr(experiments, "device", lambda: torch.device("cpu"))
    tasks = [task_of(profile, seed) for seed in (0, 1, 2)]
    lost, other, broken = tasks
    broken.run.folder.mkdir(parents=True)
    broken.run.checkpoint.write_bytes(b"damaged")

    failures = on_cluster(work_killed_once, tasks, "sweep")

    assert list(failures) == [broken]
    assert isinstance(failures[broken], UserError) and "is damaged" in str(failures[broken])
    assert attempts(broken) == attempts(other) == [0]
    began, resumed = attempts(lost)
    # It was killed in the report of the fourth step, and the trainer begins to write a checkpoint when it has written
    # the one before: that of the third step may have been on its way to the disk.
    assert began == 0 and resumed in (2, 3)
    assert not list(workspace.glob(".sweep-*"))

    ended = [(load_checkpoint(task.run.checkpoint), counts_of(task)) for task in (lost, other)]
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", str(workspace / "undisturbed"))
    for task, (checkpoint, counts) in zip((lost, other), ended, strict=True):
        assert task.run.training_record() is None
        local.run_task(task, lambda *_: None)
        weights = load_checkpoint(task.run.checkpoint).model
        assert checkpoint.step == 8 and weights.keys() == checkpoint.model.keys()
        assert all(torch.equal(weights[name], value) for name, value in checkpoint.model.items())
        assert np.array_equal(counts_of(task), counts)


def counts_of(task: Task) -> np.ndarray:
    counts = task.run.confusion_counts(task.evaluations[0])
    assert counts.shape == (3, 3, 3)
    return counts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_saves_tasks(workers, profile, number, monkeypatch):
    """The command stops, and so do the tasks; the next command resumes."""
    monkeypatch.setattr(ray_cluster, "REPORT_EVERY_S", 0.1)
    monkeypatch.setattr(ray_cluster, "SAVE_TIMEOUT_S", 60.0)
    task = task_of(profile, seed=int(number), iterations=100_000, save_every_s=1000.0)
    interrupt_at_first_step(monkeypatch, ray_cluster, number)
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        on_cluster(local.run_task, [task], "sweep")
    assert checkpoint_step(task.run.checkpoint) > 0
    assert not is_held(task.run.folder / LOCK), "it trains on unseen"


def node(alive: bool = True, **resources: float) -> dict:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("parallel_runs", "nodes", "resources", "threads", "processes"),
    [
        (1, [node(CPU=16)], {"num_cpus": 4}, 4, 4),  # this machine's threads, which Ray need not know
        (1, [node(CPU=2)], {"num_cpus": 2}, 2, 1),  # not more than the largest machine has
        (1, [node(CPU=64, GPU=8), node(CPU=4)], {"num_gpus": 1, "num_cpus": 8}, 8, 8),
        (1, [node(CPU=64, GPU=8), node(CPU=8, GPU=4), node(False, GPU=8)], {"num_gpus": 1, "num_cpus": 2}, 2, 8),
        (1, [node(CPU=2, GPU=4)], {"num_gpus": 1, "num_cpus": 0.5}, 1, 4),
        (0, [node(CPU=64, GPU=2)], {"num_gpus": 0.125, "num_cpus": 4}, 4, 16),
        (0, [node(CPU=9, GPU=2)], {"num_gpus": 0.25, "num_cpus": 1}, 1, 8),
    ],
)
def test_run_has_its_share_of_a_machine(profile, monkeypatch, parallel_runs, nodes, resources, threads, processes):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(task_module, "available_cpus", lambda: 4)
    cluster = SimpleNamespace(nodes=lambda: nodes)
    found, variables = ray_cluster._share(cluster, with_runtime(profile, parallel_runs=parallel_runs))
    assert found == resources
    assert variables == {"OMP_NUM_THREADS": str(threads), LOCAL_PROCESSES: str(processes)}


def test_task_keeps_to_its_share(profile, monkeypatch, tmp_path):
    """Of a machine with 64 cores."""
    marker = tmp_path / "marker"
    marker.touch()
    variables = {"OMP_NUM_THREADS": "3", LOCAL_PROCESSES: "21", ray_cluster.MARKER: str(marker)}
    for name in variables:
        monkeypatch.setenv(name, "")  # what the task sets ends with the test
    monkeypatch.setattr(task_module, "available_cpus", lambda: 64)
    found = []

    def work(task: Task, report: Callable) -> None:
        found.extend((torch.get_num_threads(), os.environ[LOCAL_PROCESSES]))

    one = task_of(profile, 0)
    one = replace(one, run=replace(one.run, profile=with_runtime(profile, parallel_runs=1)))
    ray_cluster._do(work, 0, one, variables, None)
    assert found == [3, "21"]


def test_cluster_without_machines_is_a_user_error(profile):
    cluster = SimpleNamespace(nodes=lambda: [node(False, CPU=4), node(memory=1)])
    with pytest.raises(UserError, match="no machine with a free GPU or CPU"):
        ray_cluster._share(cluster, profile)


def test_machine_without_workspace_is_a_user_error(profile, tmp_path):
    missing = tmp_path / "elsewhere" / ".sweep-1"
    with pytest.raises(UserError, match=r"does not see the workspace .*elsewhere; set DEEPLABV3_WORKSPACE"):
        ray_cluster._do(work_killed_once, 0, task_of(profile, 0), {ray_cluster.MARKER: str(missing)}, None)


def test_machines_get_folders_of_the_driver(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", "here")
    monkeypatch.setenv("DEEPLABV3_DATA", "images")
    monkeypatch.setenv("DEEPLABV3_SEEDS", "2")
    found = ray_cluster._environment()
    assert found["DEEPLABV3_WORKSPACE"] == str(tmp_path / "here")
    assert found["DEEPLABV3_DATA"] == str(tmp_path / "images")
    assert found["DEEPLABV3_SEEDS"] == "2"
    assert not [name for name in found if not name.startswith("DEEPLABV3_")]


def test_missing_ray_error_names_the_extra(profile_file, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "--profile", str(profile_file), "--tables", "1", "--ray"]) == 1
    error = capsys.readouterr().err
    assert "pip install -e '.[ray]'" in error and "Traceback" not in error
