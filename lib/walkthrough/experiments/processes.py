"""Processes that each do one task at a time. Ctrl-C and SIGTERM of the parent have them save what they have."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from walkthrough.records.lock import POLL_S, Locked


def as_they_end(
    function: Callable[[int, Any], Any],
    tasks: Sequence[Any],
    processes: int,
    initialize: Callable[[int], None],
    started: Callable[[int], None] = lambda number: None,
) -> Generator[tuple[int, Future]]:
    """Do ``tasks`` in their order, and yield the number and the result of each when it has ended.

    A task that raises :class:`Locked` goes to the end of the queue. A process that is killed fails its task alone.
    Close the iterator: while tasks run, that terminates them by SIGTERM and waits for their end.

    Args:
        function: does a task, given its number, in a process.
        tasks: the tasks.
        processes: how many tasks at a time.
        initialize: called first in each process, with the process's number.
        started: called here with a task's number when it begins.
    """
    context = multiprocessing.get_context("spawn")
    other_children = set(multiprocessing.active_children())

    def new_pool(slot: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, _start, (initialize, slot))

    pools = [new_pool(slot) for slot in range(processes)]
    try:
        yield from _results(pools, new_pool, function, tasks, started)
    except BaseException:
        for process in set(multiprocessing.active_children()) - other_children:
            process.terminate()  # SIGTERM: the task saves and stops
        raise
    finally:
        for pool in pools:
            pool.shutdown()


def _results(
    pools: list[ProcessPoolExecutor],
    new_pool: Callable[[int], ProcessPoolExecutor],
    function: Callable[[int, Any], Any],
    tasks: Sequence[Any],
    started: Callable[[int], None],
) -> Iterator[tuple[int, Future]]:
    """As :func:`as_they_end`. A pool has one process: a kill breaks its pool alone, which a new one replaces."""
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
            if number not in postponed:
                started(number)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            (number, slot), error = running.pop(future), future.exception()
            idle.append(slot)
            if isinstance(error, Locked):
                postponed.add(number)
                queue.append((number, POLL_S))
                continue
            if isinstance(error, BrokenProcessPool):
                pools[slot] = new_pool(slot)
            yield number, future
        left = {number for number, _ in (*queue, *running.values())}
        if left and not announced and postponed.issuperset(left):
            announced = True
            text = f"other processes are busy with what is left, {len(left)} of {len(tasks)} runs; waiting."
            tqdm.write(text, file=sys.stderr)


def _start(initialize: Callable[[int], None], slot: int) -> None:
    # Ctrl-C goes to the whole process group; the parent decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    initialize(slot)


def _exit_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _do(function: Callable[[int, Any], Any], number: int, task: Any, delay_s: float) -> Any:
    time.sleep(delay_s)
    return function(number, task)
