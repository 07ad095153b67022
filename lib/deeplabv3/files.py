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
def writing(target: Path) -> Iterator[None]:
    """What is written within goes to ``target``; that the disk is full, or not ours, is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error}); make room there or name another place, and give the same command "
            "again."
        ) from error


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all: beside it first, then renamed over it."""
    # Machines that share the folder, and threads, have equal process numbers.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
