"""Tasks on a Ray cluster: each run is a task with resources; one whose worker is lost goes on from its checkpoint.

All machines share the workspace, so checkpoints are found and records end in one place. Ray is the extra ``ray``.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError
from deeplabv3.files import writing
from deeplabv3.signals import _stop_request, sigterm_interrupts
from walkthrough import paths
from walkthrough.experiments.progress import Progress
from walkthrough.experiments.task import Task, Work, threads_of
from walkthrough.profiles import Profile

RETRIES = 3
"""So many workers may be lost under a task, one after the other."""

TELL_EVERY_S = 1.0
"""A task tells its position so often: every message goes over the network."""

SAVING_S = 120.0
"""Tasks that are stopped have so long to finish their step and save."""


def on_cluster(work: Work, tasks: Sequence[Task], title: str, address: str = "local") -> dict[Task, BaseException]:
    """Do tasks of one profile on the cluster at ``address``; those that failed, with their errors.

    By default the cluster is one that is started here and ends here. A task whose worker or machine is lost is tried
    again and goes on from its checkpoint; one that fails by itself is not. SIGINT and SIGTERM have every task save what
    it has.
    """
    ray = _ray()
    if not tasks:
        return {}
    profile = tasks[0].run.profile
    profile.data_root()  # drawn once here rather than by every task
    with _connected(ray, address), _marker() as marker, _stop_request() as stop, Progress(tasks, title) as progress:
        from ray.util.queue import Queue

        events = Queue(actor_options={"num_cpus": 0, "max_restarts": -1})
        do = ray.remote(_do).options(max_retries=RETRIES, retry_exceptions=False, **_resources(ray, profile))
        environment = _environment()
        waiting = {
            do.remote(work, number, task, environment, marker, events): number for number, task in enumerate(tasks)
        }
        failures: dict[Task, BaseException] = {}
        try:
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=TELL_EVERY_S)
                if stop:
                    raise stop[0]
                with suppress(ray.exceptions.RayError):  # the queue's machine is lost: only positions are
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
            ray.wait(list(waiting), num_returns=len(waiting), timeout=SAVING_S)
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
    """A connection to the cluster, unless there is one; ``local`` starts a cluster that ends with the connection."""
    if ray.is_initialized():
        yield
        return
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray raises this very class when a machine is too busy to start a cluster in time
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"no Ray cluster could be reached or started at {address!r} ({reason}); check --ray, or leave it out."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _marker() -> Iterator[Path]:
    """A file in the workspace by which a task sees that its workspace is this one."""
    path = paths.workspace().resolve() / f".sweep-{os.getpid()}-{time.time_ns()}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _resources(ray: Any, profile: Profile) -> dict[str, float]:
    """What a run occupies: a GPU where the cluster has any, else its threads."""
    if ray.cluster_resources().get("GPU"):
        return {"num_gpus": 1}
    largest = max((node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]), default=0)
    if not largest:
        raise UserError("the Ray cluster has no machine with a free GPU or CPU; start one with: ray start --address …")
    return {"num_cpus": min(threads_of(profile), largest)}  # Ray would wait for ever for a larger machine


def _environment() -> dict[str, str]:
    """The project's settings in the environment, with folders that hold on every machine and in any working folder."""
    found = {name: value for name, value in os.environ.items() if name.startswith("DEEPLABV3_")}
    for name in ("DEEPLABV3_HOME", "DEEPLABV3_DATA"):
        if found.get(name):
            found[name] = str(Path(found[name]).resolve())
    return found | {"DEEPLABV3_WORKSPACE": str(paths.workspace().resolve())}


def _do(work: Work, number: int, task: Task, environment: dict[str, str], marker: Path, events: Any) -> None:
    """A task, on whatever machine Ray has chosen for it."""
    os.environ.update(environment)
    if not marker.is_file():
        raise UserError(
            f"machine {os.uname().nodename} does not see the workspace {marker.parent}; set DEEPLABV3_WORKSPACE to a "
            "folder that all machines of the cluster share."
        )
    told = [0.0]
    with sigterm_interrupts():
        work(task, partial(_tell, events, told, number))


def _tell(events: Any, told: list[float], number: int, position: int, loss: float | None = None) -> None:
    if time.monotonic() - told[0] >= TELL_EVERY_S:
        told[0] = time.monotonic()
        # Nobody waits for it: a queue that is lost with its machine is no reason to stop training.
        events.actor.put_nowait.remote((number, position, loss))


def _error(ray: Any, reference: Any) -> BaseException | None:
    """Why a task failed, in our words where it is a user's error; None if it did not."""
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
