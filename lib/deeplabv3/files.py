"""Files that are there whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deeplabv3.errors import UserError

CHECKPOINT = "checkpoint.safetensors"
"""A run's network, in the run's folder."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: it becomes ``path`` when the block ends, and is deleted if the block fails.

    The folder is made. An ``OSError``, such as a full disk, becomes a :class:`UserError` that names ``path``.
    """
    # Machines that share the folder, and threads, have equal process numbers.
    partial = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.partial{path.suffix}")
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


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all; its folder is made, and a full disk is a :class:`UserError` that names it."""
    with atomic_path(path) as partial, open(partial, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
