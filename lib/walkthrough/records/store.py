"""Files of records: JSON values, confusion counts beside them, and the counts of an evaluation that is not finished."""

import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically

COUNTS = "counts"
"""Key in an evaluation's JSON file: the hash of the NPZ file beside it."""


def read_json(path: Path) -> dict:
    """Return a record's values; a damaged file is a :class:`UserError` that names it."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("no settings and values")
        return values
    except (OSError, ValueError) as error:
        raise UserError(f"record {path} is damaged ({error}); delete it and run again.") from error


def read_counts(path: Path, content: bytes) -> np.ndarray:
    """Confusion matrices ``(images, K, K)`` int64; a damaged file is a :class:`UserError` that names it."""
    try:
        with np.load(io.BytesIO(content)) as file:
            cells = np.zeros(file["shape"], dtype=np.int64)
            positive = np.unpackbits(file["positive"], count=cells.size).reshape(cells.shape)
            cells[positive == 1] = np.ascontiguousarray(file["bytes"].T).view("<u4")[:, 0]
            return np.ascontiguousarray(cells.transpose(2, 0, 1))
    except Exception as error:  # a damaged archive can fail in any way
        raise UserError(f"record {path} is damaged ({error}); delete it and evaluate again.") from error


def pack_counts(confusions: np.ndarray) -> bytes:
    """Content of the NPZ file of confusion matrices ``(images, K, K)``.

    It says cell by cell of the matrix which images have a count there, since most cells are 0 in nearly all, and then
    the lowest byte of all counts, the next one, and so on: six tenths of what the matrices take as they are.
    """
    cells = np.ascontiguousarray(confusions.transpose(1, 2, 0))  # (K, K, images)
    counts = cells[cells > 0].astype("<u4")
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        shape=np.array(cells.shape),
        positive=np.packbits(cells > 0),
        bytes=np.ascontiguousarray(counts.view(np.uint8).reshape(-1, 4).T),
    )
    return buffer.getvalue()


def counts_hash(content: bytes) -> str:
    """Hash of an NPZ file's content, as the JSON file beside it states it."""
    return hashlib.sha256(content).hexdigest()[:16]


def counts_beside(path: Path, values: dict) -> bytes | None:
    """Content of the NPZ file beside the evaluation ``path`` with ``values``; None if missing, damaged or another.

    It is another one while a writer is between its two files, or if it was killed there: then there is no record.
    """
    try:
        content = path.with_suffix(".npz").read_bytes()
    except OSError:
        return None
    return content if values.get(COUNTS) == counts_hash(content) else None


class PartialCounts:
    """Confusion matrices ``(K, K)`` by image, saved every ``save_every_s`` seconds to the NPZ file ``path``.

    ``identity`` is everything but the image that determines a matrix, as JSON values; a file with another identity, or
    a damaged one, is not used. ``seconds`` is the time spent so far, interrupted attempts included.
    """

    def __init__(self, path: Path, identity: dict, num_classes: int, save_every_s: float = 30.0):
        self.path, self.save_every_s = path, save_every_s
        self._identity = json.dumps(identity, sort_keys=True)
        self._counts: dict[str, np.ndarray] = {}
        self._shape = (num_classes, num_classes)
        self._seconds_before = 0.0
        self._load()
        self._began = self._saved = time.monotonic()

    def __contains__(self, signature: str) -> bool:
        return signature in self._counts

    def __getitem__(self, signature: str) -> np.ndarray:
        return self._counts[signature]

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def add(self, signature: str, counts: np.ndarray) -> None:
        """Add the matrix of the image with this file signature, and save if it is time."""
        self._counts[signature] = counts
        if time.monotonic() - self._saved > self.save_every_s:
            self.save()

    def save(self) -> None:
        """Write all matrices, if there are any; on a full disk (a :class:`UserError`) the file stays as it was."""
        if not self._counts:
            return
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            identity=np.array(self._identity),
            seconds=np.array(self.seconds),
            stamps=np.array(list(self._counts), dtype=str),
            counts=np.array(list(self._counts.values()), dtype=np.int32).reshape(-1, *self._shape),
        )
        write_atomically(self.path, buffer.getvalue())
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Delete the file, once the evaluation has its record."""
        self.path.unlink(missing_ok=True)

    def _load(self) -> None:
        try:
            with np.load(self.path) as file:
                if str(file["identity"]) != self._identity:
                    return
                counts = file["counts"].astype(np.int64)
                self._counts = dict(zip(file["stamps"].tolist(), counts, strict=True))
                self._seconds_before = float(file["seconds"])
        except Exception:  # a damaged archive can fail in any way, and costs no more than time
            self._counts, self._seconds_before = {}, 0.0
