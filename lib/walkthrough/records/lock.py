"""One process at a time: an advisory lock that ends with its holder, however that ends.

The kernel releases ``flock`` when a process dies, by ``kill -9`` too, so nobody ever waits for a dead one and there is
nothing to clear away by hand. Windows has no ``flock``: there, and on a file system without it, the lock does nothing,
and two processes that want the same run both make it.
"""

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup
from deeplabv3.files import writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
"""The lock on a run's training, in the run's folder."""

POLL_S = 0.5
"""A processes asks so often, rather than letting its leader sleep: the others' exchange would give up waiting for it."""

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

_held: set[int] = set()


def _leave_to_parent() -> None:
    """A lock lives as long as one descriptor of it is open anywhere: a data worker's would survive its trainer."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def locked(path: Path, what: str, processes: ProcessGroup = SINGLE_PROCESS) -> Iterator[bool]:
    """Hold the lock ``path`` within the context, of which every process of ``team`` is part; its leader takes it.

    Yields whether another process held it first: then its work is done by now, or it died. Who waits says once on
    stderr that another process is busy with ``what``. The lock is not for taking twice in one process.
    """
    waited, descriptor = False, None
    try:
        while True:
            if processes.is_main and descriptor is None:
                descriptor = _take(path)
            if not any(processes.all_gather(processes.is_main and descriptor is None)):
                break
            if processes.is_main and not waited:
                told = f"another process is busy with {what}; waiting until it is done (lock {path})."
                tqdm.write(told, file=sys.stderr)
            waited = True
            time.sleep(POLL_S)
        yield waited
    finally:
        if descriptor is not None:
            _give_back(path, descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock ``path``; nothing is made and nothing kept."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


_UNLOCKED = -1
"""Stands for a lock where the system has none."""


def _take(path: Path) -> int | None:
    """The descriptor that holds the lock, or None while another process does."""
    if fcntl is None:
        return _UNLOCKED
    while True:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:  # the folder was moved away just now
                continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                return _UNLOCKED
            raise
        # Whoever held it may have deleted the file, or moved its folder, since it was opened here: then this is a lock
        # on a file that nobody else will find.
        if _is_at(path, descriptor):
            _held.add(descriptor)
            return descriptor
        os.close(descriptor)


def _give_back(path: Path, descriptor: int) -> None:
    if descriptor == _UNLOCKED:
        return
    if _is_at(path, descriptor):
        path.unlink(missing_ok=True)
    _held.discard(descriptor)
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
