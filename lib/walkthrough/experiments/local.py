"""Tasks side by side on one machine: one process a core, or one a GPU, or as many as the profile says."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import torch

from deeplabv3.errors import UserError
from deeplabv3.signals import sigterm_interrupts
from walkthrough.experiments.progress import Progress
from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.experiments.task import (
    Report,
    Task,
    Work,
    image_work,
    missing,
    parallel_runs,
    step_work,
    tasks_of,
    threads_of,
)
from walkthrough.paper import tables
from walkthrough.profiles import Profile
from walkthrough.records.cells import Job, table_jobs


def in_processes(
    work: Work, tasks: Sequence[Task], processes: int, threads: int, title: str
) -> dict[Task, BaseException]:
    """Do ``tasks`` in their order, ``processes`` at a time with ``threads`` each; those that failed, with their errors.

    A task that fails does not hold the others up. An exception here, such as Ctrl-C's, has each save what it has.
    """
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    events, slots = context.Queue(), context.Queue()
    for slot in range(processes):
        slots.put(slot)
    pool = ProcessPoolExecutor(processes, context, _start, (events, slots, threads))
    failures: dict[Task, BaseException] = {}
    with Progress(tasks, title) as progress, pool:
        listener = threading.Thread(target=_listen, args=(events, progress), daemon=True)
        listener.start()
        futures = {pool.submit(_do, work, number, task): number for number, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                if error := future.exception():
                    failures[tasks[futures[future]]] = _explained(error)
                events.put(("ended", futures[future], error is not None))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # SIGTERM: the trainer saves and stops
            raise
        finally:
            events.put(None)
            listener.join()
    return {task: failures[task] for task in tasks if task in failures}


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return UserError(
            "a process of those side by side was killed, often for want of memory; lower 'runtime.parallel_runs' and give the "
            "same command again, which goes on."
        )
    return error


_events = None


def _start(events, slots, threads: int) -> None:
    global _events
    _events = events
    torch.set_num_threads(threads)
    _take_gpu(slots)
    # Ctrl-C goes to the whole process group; the parent decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _take_gpu(slots) -> None:
    """Each process has a GPU of its own, and shares one where there are more processes than GPUs."""
    if torch.cuda.is_available():
        torch.cuda.set_device(slots.get() % torch.cuda.device_count())


def _do(work: Work, number: int, task: Task) -> None:
    work(task, partial(_report, number))


def _report(number: int, position: int, loss: float | None = None) -> None:
    _events.put(("moved", number, position, loss))


def _listen(events, progress: Progress) -> None:
    while (event := events.get()) is not None:
        what, *values = event
        getattr(progress, what)(*values)


def run_task(task: Task, report: Report) -> None:
    """Train and evaluate a task's run, whatever of it is missing; ``report`` hears of the position in multiply-adds."""
    step = step_work(task.run.config, task.run.training)
    train_run(task.run, lambda number, loss, lr: report((number + 1) * step, loss))
    position = task.training
    for settings in task.evaluations:
        image = image_work(task.run.config, settings)
        if task.run.evaluation_record(settings) is None:  # another sweep of the folder may have been faster
            evaluate_run(task.run, settings, lambda done, before=position, each=image: report(before + done * each))
        position += task.evaluation(settings)


def run_tasks(tasks: Sequence[Task], title: str) -> dict[Task, BaseException]:
    """Perform tasks of one profile in their order, side by side on this machine; those that failed, with their errors.

    A task that fails does not hold the others up. Those that SIGINT or SIGTERM stop go on from their checkpoints when
    they are performed again.
    """
    if not tasks:
        return {}
    profile = tasks[0].run.profile
    profile.data_root()  # drawn once here rather than by every process
    processes = min(parallel_runs(profile), len(tasks))
    with sigterm_interrupts():
        return in_processes(run_task, tasks, processes, threads_of(profile), title)


def run_missing(jobs: Iterable[Job], title: str = "runs") -> None:
    """Train and evaluate whatever of ``jobs`` has no record yet; instant when all have one.

    A job that fails does not hold the others up; afterwards the first failure is raised.
    """
    for error in run_tasks(tasks_of(missing(jobs)), title).values():
        raise error


def run_table(number: int, profile: Profile) -> None:
    """Make whatever table ``number`` still lacks under ``profile``."""
    run_missing(table_jobs(tables.load(number), profile), f"Table {number}")
