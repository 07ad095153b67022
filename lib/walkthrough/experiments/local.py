"""Parallel tasks on one machine: as many processes on each GPU, or on the CPU without one, as the profile says.

Several sweeps of one workspace, on one machine or many (``srun -n 8 deeplabv3 sweep``), share the tasks between them: a
run that another process works on goes to the end of the queue.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from deeplabv3.errors import UserError
from deeplabv3.machine import LOCAL_PROCESSES
from deeplabv3.signals import sigterm_interrupts
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
from walkthrough.records.lock import POLL_S, Locked
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
    context = multiprocessing.get_context("spawn")
    other_children = set(multiprocessing.active_children())
    events = context.Queue()

    def new_pool(slot: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, _start, (events, slot, threads, processes))

    pools = [new_pool(slot) for slot in range(processes)]
    failures: dict[Task, BaseException] = {}
    with Progress(tasks, title, names) as progress:
        listener = threading.Thread(target=_listen, args=(events, progress), daemon=True)
        listener.start()
        try:
            for number, error in _results(pools, new_pool, function, tasks):
                if error:
                    failures[tasks[number]] = _explained(error)
                events.put(("ended", number, error is not None))
        except BaseException:
            for pool in pools:
                pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - other_children:
                process.terminate()  # SIGTERM: the trainer saves and stops
            raise
        finally:
            for pool in pools:
                pool.shutdown()
            events.put(None)
            listener.join()
    return {task: failures[task] for task in tasks if task in failures}


def _results(
    pools: list[ProcessPoolExecutor],
    new_pool: Callable[[int], ProcessPoolExecutor],
    function: TaskFunction,
    tasks: Sequence[Task],
) -> Iterator[tuple[int, BaseException | None]]:
    """Yield the number and the error of each task when it has ended.

    A pool has one process: one that is killed breaks its pool alone, which a new one replaces in ``pools``.
    """
    queue = deque((number, 0.0) for number in range(len(tasks)))
    running: dict[Future, tuple[int, int]] = {}  # number of the task and of its pool
    idle = deque(range(len(pools)))
    postponed: set[int] = set()
    announced = False
    while queue or running:
        while queue and idle:
            (number, delay_s), slot = queue.popleft(), idle.popleft()
            try:
                future = pools[slot].submit(_do, function, number, tasks[number], delay_s)
            except BrokenProcessPool:  # its process was killed since the last task
                pools[slot] = new_pool(slot)
                future = pools[slot].submit(_do, function, number, tasks[number], delay_s)
            running[future] = number, slot
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            (number, slot), error = running.pop(future), future.exception()
            idle.append(slot)
            if isinstance(error, Locked):
                postponed.add(number)
                queue.append((number, POLL_S))
                continue
            if isinstance(error, BrokenProcessPool):
                pools[slot] = new_pool(slot)
            yield number, error
        left = {number for number, _ in (*queue, *running.values())}
        if left and not announced and postponed.issuperset(left):
            announced = True
            text = f"other processes are busy with what is left, {len(left)} of {len(tasks)} runs; waiting."
            tqdm.write(text, file=sys.stderr)


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return UserError(
            "its process was killed, often for want of memory; lower 'runtime.parallel_runs' and give the same command "
            "again, which goes on."
        )
    return error


_events: Any = None


def _start(events: Any, slot: int, threads: int, processes: int) -> None:
    global _events
    _events = events
    os.environ[LOCAL_PROCESSES] = str(processes)
    torch.set_num_threads(threads)
    _select_gpu(slot)
    # Ctrl-C goes to the whole process group; the parent decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _select_gpu(slot: int) -> None:
    """Give this process a GPU; GPUs are shared if there are more processes."""
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())


def _do(function: TaskFunction, number: int, task: Task, delay_s: float = 0.0) -> None:
    time.sleep(delay_s)
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
