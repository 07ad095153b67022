"""The records on disk: how they are named, where they lie, and which of them still say something about this code.

A run is named by the hash of everything that determines it, an evaluation by that of its strategy and its images. A
record is *stale* when its settings no longer exist in the code, *damaged* when it cannot be read or its counts are not
those that it was written with. Neither is used, and neither keeps anybody from reading the others.
"""

import hashlib
import io
import json
import time
from pathlib import Path

import numpy as np

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically, writing

COUNTS = "counts"
"""In an evaluation's JSON file: the hash of the NPZ file beside it. Records of before do not have it."""


def read_json(path: Path) -> dict:
    """A record's values; a damaged file is a :class:`UserError` that names it."""
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
            return file["confusion"].astype(np.int64)
    except Exception as error:  # a damaged archive can fail in any way
        raise UserError(f"record {path} is damaged ({error}); delete it and evaluate again.") from error


def counts_hash(content: bytes) -> str:
    """What an evaluation's JSON file says of the NPZ file beside it."""
    return hashlib.sha256(content).hexdigest()[:16]


def counts_beside(path: Path, values: dict) -> bytes | None:
    """The counts' file that an evaluation's ``values`` in ``path`` were written with; None where it is another or none.

    It is another where a writer was killed, or just is, between its two files: then there is no record.
    """
    try:
        content = path.with_suffix(".npz").read_bytes()
    except OSError:
        return None
    return content if values.get(COUNTS, counts_hash(content)) == counts_hash(content) else None


class PartialCounts:
    """Confusion matrices ``(K, K)`` by image, saved now and then as ``path``, an NPZ file.

    ``identity`` is everything but the image that determines a matrix, as JSON values; a file with another identity,
    or a damaged one, counts as none. ``seconds`` is the time spent so far, interrupted attempts included.
    """

    def __init__(self, path: Path, identity: dict, num_classes: int, save_every_s: float = 30.0):
        self.path, self.save_every_s = path, save_every_s
        self._identity = json.dumps(identity, sort_keys=True)
        self._counts: dict[str, np.ndarray] = {}
        self._shape = (num_classes, num_classes)
        self._seconds_before = 0.0
        self._load()
        self._began = self._saved = time.monotonic()

    def __contains__(self, stamp: str) -> bool:
        return stamp in self._counts

    def __getitem__(self, stamp: str) -> np.ndarray:
        return self._counts[stamp]

    @property
    def seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def add(self, stamp: str, counts: np.ndarray) -> None:
        """Keep a image's matrix; every ``save_every_s`` seconds what is kept is written down."""
        self._counts[stamp] = counts
        if time.monotonic() - self._saved > self.save_every_s:
            self.save()

    def save(self) -> None:
        """Write everything, whole or not at all; where nothing is counted yet there is nothing to write.

        A disk that is full is a :class:`~deeplabv3.errors.UserError`; what was saved before stays.
        """
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
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, buffer.getvalue())
        self._saved = time.monotonic()

    def remove(self) -> None:
        """The evaluation has its record."""
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
