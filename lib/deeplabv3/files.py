"""Files that are there whole or not at all."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeplabv3.errors import UserError

CHECKPOINT = "checkpoint.safetensors"
"""A run's network, in the run's folder."""

FRESH_S = 600.0
"""A file younger than this may still be written to, on this machine or another one."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: it becomes ``path`` when the block ends, and is deleted if the block fails.

    The folder is made. An ``OSError``, such as a full disk, becomes a :class:`UserError` that names ``path``.
    """
    # Machines that share the folder, and threads, have equal process numbers. A long name has no room for more.
    partial = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}); make room there or name another place, and give the same command "
            "again."
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def is_old(path: Path, seconds: float = FRESH_S) -> bool:
    """True if a file has not been written to for ``seconds``."""
    try:
        return time.time() - path.stat().st_mtime >= seconds
    except OSError:  # its writer has just renamed it
        return False


def abandoned(folder: Path, seconds: float = FRESH_S) -> list[Path]:
    """Files in ``folder`` without their final names whose writers were killed: nothing came for ``seconds``."""
    found = [path for pattern in (".*.partial", ".*.partial.*") for path in folder.glob(pattern)]
    return sorted(path for path in found if is_old(path, seconds))


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all; its folder is made, and a full disk is a :class:`UserError` that names it."""
    with atomic_path(path) as partial, open(partial, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
