"""Tasks on a Ray cluster: each run is a Ray task; one whose worker is lost is tried again from its checkpoint.

All machines share the workspace. Ray is the extra ``ray``.
"""

import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch

from deeplabv3.errors import UserError
from deeplabv3.files import abandoned
from deeplabv3.machine import LOCAL_PROCESSES
from deeplabv3.signals import sigterm_interrupts, stop_requests
from walkthrough import paths
from walkthrough.experiments.progress import Progress
from walkthrough.experiments.task import Task, TaskFunction, runs_a_gpu, threads_of
from walkthrough.profiles import Profile

RETRIES = 3
"""Number of workers that a task may lose before it fails."""

REPORT_EVERY_S = 1.0
"""Seconds between a task's reports: each goes over the network."""

SAVE_TIMEOUT_S = 120.0
"""Seconds that stopped tasks have to finish their step and save."""

MARKER = "DEEPLABV3_MARKER"
"""Environment variable of the tasks: a file in the workspace, which all machines should see."""


def on_cluster(
    function: TaskFunction, tasks: Sequence[Task], title: str, address: str = "local", names: Sequence[str] = ()
) -> dict[Task, BaseException]:
    """Do tasks of one profile on the cluster at ``address``, and return the errors of failed ones.

    ``local`` is a cluster that is started and stopped here. A task whose worker or machine is lost is tried again from
    its checkpoint; one that raises an error is not. SIGINT and SIGTERM have every task save what it has. The progress
    shows the tasks' ``names``.
    """
    ray, workspace = _ray(), paths.workspace().resolve()
    for leftover in abandoned(workspace):  # by a sweep that was killed, perhaps behind its last task
        leftover.unlink(missing_ok=True)
    if not tasks:
        return {}
    profile = tasks[0].run.profile
    profile.data_root()  # drawn once here rather than by every task
    workspace.mkdir(parents=True, exist_ok=True)
    with (
        _connected(ray, address),
        # A task that lacks this file has another workspace.
        NamedTemporaryFile(prefix=".sweep-", suffix=".partial", dir=workspace) as marker,
        stop_requests(SAVE_TIMEOUT_S + 10) as stop,
        Progress(tasks, title, names) as progress,
    ):
        from ray.util.queue import Queue

        events = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
        resources, bounds = _share(ray, profile)
        do = ray.remote(_do).options(max_retries=RETRIES, retry_exceptions=False, **resources)
        environment = _environment() | bounds | {MARKER: marker.name}
        waiting = {do.remote(function, number, task, environment, events): number for number, task in enumerate(tasks)}
        failures: dict[Task, BaseException] = {}
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=REPORT_EVERY_S)
                with suppress(OSError):
                    os.utime(marker.name)  # not that of a killed sweep
                if stop:
                    raise stop[0]
                with suppress(ray.exceptions.RayError):  # the queue's machine is lost, and positions with it
                    for event in events.get_nowait_batch(events.qsize()):
                        progress.moved(*event)
                for reference in done:
                    number = waiting.pop(reference)
                    if error := _error(ray, reference):
                        failures[tasks[number]] = error
                    progress.ended(number, error is not None)
        except BaseException:
            for reference in waiting:
                ray.cancel(reference, force=False)  # KeyboardInterrupt there: the trainer saves and stops
            ray.wait(list(waiting), num_returns=len(waiting), timeout=SAVE_TIMEOUT_S)
            raise
    return {task: failures[task] for task in tasks if task in failures}


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # is read when Ray is imported
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed; install it with: pip install -e '.[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any, address: str) -> Iterator[None]:
    """Connect to the cluster unless there is a connection; ``local`` starts a cluster that ends with the connection."""
    if ray.is_initialized():
        yield
        return
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises this very class when a machine is too busy to start a cluster in time
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"no Ray cluster could be reached or started at {address!r} ({reason}); check --ray, or leave it out."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _share(ray: Any, profile: Profile) -> tuple[dict[str, float], dict[str, str]]:
    """Resources of a run, and the environment variables that keep it to its share of a machine's cores and memory.

    If the cluster has GPUs, a run has one of them, or a part of one, with its share of the cores; else its threads.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if with_gpu := [machine for machine in machines if machine.get("GPU")]:
        cpus = min(machine.get("CPU", 0) / machine["GPU"] for machine in with_gpu)
        runs = runs_a_gpu(profile, cpus)
        resources = {"num_gpus": 1 / runs, "num_cpus": int(cpus / runs) or cpus / runs}  # whole ones, or part of one
        processes = runs * max(machine["GPU"] for machine in with_gpu)
    else:
        largest = max((machine.get("CPU", 0) for machine in machines), default=0)
        if not largest:
            raise UserError(
                "the Ray cluster has no machine with a free GPU or CPU; start one with: ray start --address …"
            )
        resources = {"num_cpus": min(threads_of(profile), largest)}  # Ray would wait for ever for a larger machine
        processes = largest // resources["num_cpus"]
    threads = max(1, int(resources["num_cpus"]))
    return resources, {"OMP_NUM_THREADS": str(threads), LOCAL_PROCESSES: str(int(processes))}


def _environment() -> dict[str, str]:
    """The project's environment variables, with absolute folders."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("DEEPLABV3_")}
    for name in ("DEEPLABV3_HOME", "DEEPLABV3_DATA"):
        if variables.get(name):
            variables[name] = str(Path(variables[name]).resolve())
    return variables | {"DEEPLABV3_WORKSPACE": str(paths.workspace().resolve())}


def _do(function: TaskFunction, number: int, task: Task, environment: dict[str, str], events: Any) -> None:
    """Do a task on the machine that Ray has chosen; the queue ``events`` gets (number, position, loss)."""
    marker = Path(environment[MARKER])
    if not marker.is_file():
        raise UserError(
            f"machine {platform.node()} does not see the workspace {marker.parent}; set DEEPLABV3_WORKSPACE to a "
            "folder that all machines of the cluster share."
        )
    os.environ.update(environment)
    torch.set_num_threads(threads_of(task.run.profile))
    reported_at = 0.0

    def report(position: int, loss: float | None = None) -> None:
        nonlocal reported_at
        if time.monotonic() - reported_at >= REPORT_EVERY_S:
            reported_at = time.monotonic()
            # Not waited for: a queue that is lost with its machine is no reason to stop training.
            events.actor.put_nowait.remote((number, position, loss))

    with sigterm_interrupts():
        function(task, report)


def _error(ray: Any, reference: Any) -> BaseException | None:
    """Error of a finished task, as a :class:`UserError` where the user can mend it; None if it succeeded."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return error.cause if isinstance(error.cause, UserError) else error
    except ray.exceptions.RayError as error:
        return UserError(
            f"its worker was lost more than {RETRIES} times ({type(error).__name__}), often for want of memory; give "
            "the same command again, which goes on."
        )
    return None
