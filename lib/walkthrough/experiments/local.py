"""Parallel tasks on one machine: as many processes on each GPU, or on the CPU without one, as the profile says.

Several sweeps of one workspace, on one machine or many (``srun -n 8 deeplabv3 sweep``), share the tasks between them: a
run that another process works on goes to the end of the queue.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from deeplabv3.errors import UserError
from deeplabv3.machine import LOCAL_PROCESSES
from deeplabv3.signals import sigterm_interrupts
from walkthrough.experiments.processes import as_they_end
from walkthrough.experiments.progress import Progress
from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.experiments.task import (
    Report,
    Task,
    TaskFunction,
    image_work,
    missing,
    parallel_runs,
    step_work,
    tasks_of,
    threads_of,
)
from walkthrough.paper import tables
from walkthrough.profiles import Profile
from walkthrough.records.cells import Job, cells_by_run, cells_text, table_jobs
from walkthrough.records.naming import LOCAL, reading
from walkthrough.records.run import Run


def in_processes(
    function: TaskFunction, tasks: Sequence[Task], processes: int, threads: int, title: str, names: Sequence[str] = ()
) -> dict[Task, BaseException]:
    """Do ``tasks`` in their order and return the errors of failed ones.

    A task that fails does not stop the others; one that raises :class:`Locked` goes to the end of the queue. An
    exception here, such as Ctrl-C's, has each process save what it has.

    Args:
        function: does a task in a process.
        tasks: the tasks.
        processes: how many tasks at a time.
        threads: of each process.
        title: of the progress.
        names: of the tasks in the progress.
    """
    events = multiprocessing.get_context("spawn").Queue()
    initialize = partial(_initialize, events, threads, processes)
    failures: dict[Task, BaseException] = {}
    with Progress(tasks, title, names) as progress:
        listener = threading.Thread(target=_listen, args=(events, progress), daemon=True)
        listener.start()
        try:
            with closing(as_they_end(partial(_do, function), tasks, processes, initialize)) as ended:
                for number, result in ended:
                    error = result.exception()
                    if error:
                        failures[tasks[number]] = _explained(error)
                    events.put(("ended", number, error is not None))
        finally:
            events.put(None)
            listener.join()
    return {task: failures[task] for task in tasks if task in failures}


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return UserError(
            "its process was killed, often for want of memory; lower 'runtime.parallel_runs' and give the same command "
            "again, which goes on."
        )
    return error


_events: Any = None


def _initialize(events: Any, threads: int, processes: int, slot: int) -> None:
    global _events
    _events = events
    os.environ[LOCAL_PROCESSES] = str(processes)
    torch.set_num_threads(threads)
    _select_gpu(slot)


def _select_gpu(slot: int) -> None:
    """Give this process a GPU; GPUs are shared if there are more processes."""
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def _do(function: TaskFunction, number: int, task: Task) -> None:
    function(task, partial(_report, number))


def _report(number: int, position: int, loss: float | None = None) -> None:
    _events.put(("moved", number, position, loss))


def _listen(events: Any, progress: Progress) -> None:
    while (event := events.get()) is not None:
        method, *values = event
        getattr(progress, method)(*values)


def run_task(task: Task, report: Report, wait: bool = True) -> None:
    """Train and evaluate a task's run as far as it is missing; ``report`` gets the position in multiply-adds.

    While another process works on the run, wait for it, or raise :class:`Locked` if not ``wait``.
    """
    step = step_work(task.run.config, task.run.training)
    train_run(task.run, lambda number, loss, lr: report((number + 1) * step, loss), wait=wait)
    position = task.training
    for settings in task.evaluations:
        image = image_work(task.run.config, settings)
        if task.run.evaluation_record(settings) is None:  # another process may have made it since
            evaluate_run(task.run, settings, partial(_report_images, report, position, image), wait=wait)
        position += task.evaluation(settings)


def _report_images(report: Report, position: int, image: int, done: int) -> None:
    report(position + done * image)


def run_tasks(tasks: Sequence[Task], title: str, names: Sequence[str] = ()) -> dict[Task, BaseException]:
    """Do tasks of one profile in their order, in parallel on this machine, and return the errors of failed ones.

    The progress shows their ``names``, such as ``Table 3 (1,2,1) block7``. Tasks that SIGINT or SIGTERM stops resume
    from their checkpoints when they are done again.
    """
    if not tasks:
        return {}
    profile = tasks[0].run.profile
    profile.data_root()  # drawn once here rather than by every process
    processes = min(parallel_runs(profile), len(tasks))
    with sigterm_interrupts():
        return in_processes(partial(run_task, wait=False), tasks, processes, threads_of(profile), title, names)


def run_missing(jobs: Iterable[Job], title: str = "runs") -> None:
    """Train and evaluate whatever of ``jobs`` has no record yet; instant if all have one.

    A job that fails does not stop the others; afterwards the first failure is raised.
    """
    _run(missing(jobs), title)


def run_live(jobs: Iterable[Job], title: str = "runs") -> None:
    """Train and evaluate whatever of ``jobs`` was not made on this machine, though its records may ship.

    Afterwards the networks of all jobs are there. Failures as of :func:`run_missing`.
    """
    with reading(LOCAL):
        _run(_not_made_here(jobs), title)


def run_table(number: int, profile: Profile, live: bool = False) -> None:
    """Train and evaluate whatever table ``number`` lacks under ``profile``.

    ``live``: the first seed's networks and records are made on this machine, as by :func:`run_live`.
    """
    table, title = tables.load(number, profile.extra_data), f"Table {number}"
    if live:
        with reading(LOCAL):
            first = replace(profile, seeds=1)
            _run(_not_made_here(table_jobs(table, first)), title, partial(cells_by_run, first, [number]))
    _run(missing(table_jobs(table, profile)), title, partial(cells_by_run, profile, [number]))


def _not_made_here(jobs: Iterable[Job]) -> list[Job]:
    """The jobs that lack a record or a network; to be called where only local records are read."""
    return [job for job in dict.fromkeys(jobs) if not job[0].checkpoint.is_file() or missing([job])]


def _run(jobs: Iterable[Job], title: str, cells: Callable[[], Mapping[Run, dict[int, list[str]]]] = dict) -> None:
    """Do ``jobs``; ``cells`` returns those that each run fills, which the progress shows."""
    tasks = tasks_of(jobs)
    filled = cells() if tasks else {}
    names = [cells_text(filled[task.run]) if task.run in filled else task.run.label for task in tasks]
    for error in run_tasks(tasks, title, names).values():
        raise error
