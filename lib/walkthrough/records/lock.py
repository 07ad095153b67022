"""Lock on a run or an evaluation: one process at a time works on it, on all machines that share the folder.

``experiments.run`` takes it around a training and around an evaluation. The kernel releases it when its process dies,
by ``kill -9`` too. A file system without locks locks nothing.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout, lock_descriptor
from tqdm import tqdm

from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup

LOCK = ".lock"
"""The lock on a run's training, in the run's folder."""

POLL_S = 0.5
"""Seconds between attempts. The processes of a group exchange the result of each, lest one long wait times out."""


class Locked(Exception):
    """Another process holds a lock that should not be waited for."""


@contextmanager
def locked(path: Path, what: str, processes: ProcessGroup = SINGLE_PROCESS, wait: bool = True) -> Iterator[bool]:
    """Hold the lock ``path`` in the context, which every process of a group enters and the main one locks.

    Yield whether another process held it first. If so, the work is done by now, or that process died. Waiting is told
    once on stderr; without ``wait``, :class:`Locked` is raised instead. A process cannot take a lock twice.
    """
    waited, release = False, None
    try:
        while True:
            if processes.is_main and release is None:
                release = _acquire(path)
            if not any(processes.all_gather(processes.is_main and release is None)):
                break
            if not wait:
                raise Locked(f"another process is busy with {what}")
            if processes.is_main and not waited:
                text = f"another process is busy with {what}; waiting until it is done (lock {path})."
                tqdm.write(text, file=sys.stderr)
            waited = True
            time.sleep(POLL_S)
        yield waited
    finally:
        if release is not None:
            release()


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock ``path``; the file is neither made nor deleted."""
    try:
        with open(path, "r+b") as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except OSError:
        return False


def _acquire(path: Path) -> Callable[[], None] | None:
    """Take the lock and return the function that releases it; None while another process holds it."""
    descriptors: list[int] = []

    def check(descriptor: int) -> None:
        # A folder that is moved while the lock is taken takes the file along: nobody else would find that lock.
        if not os.path.samestat(path.stat(), os.fstat(descriptor)):
            raise FileNotFoundError(path)
        descriptors.append(descriptor)

    def release() -> None:
        with suppress(OSError):  # gone, another process's by now, or still open, where Windows does not delete it
            check(descriptors[0])
            path.unlink()  # while it is locked: later, it might be another process's
        lock.release()

    lock = FileLock(path, blocking=False, fallback_to_soft=False, on_acquired=check)
    while True:
        try:
            lock.acquire()
            return release
        except Timeout:
            return None
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                return lambda: None
            raise
