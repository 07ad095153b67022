"""What an evaluation has counted so far, kept beside its record, so that an hour of it survives being interrupted.

Counts belong to pictures, not to places in a list: a picture that was replaced is counted again, all others are not.
"""

import io
import json
import time
from pathlib import Path

import numpy as np

from deeplabv3.errors import writing
from deeplabv3.model.checkpoint import write_atomically


class PartialCounts:
    """Confusion matrices ``(K, K)`` by picture, saved now and then as ``path``, an NPZ file.

    ``identity`` is everything but the picture that determines a matrix, as JSON values; a file with another identity,
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
        """Keep a picture's matrix; every ``save_every_s`` seconds what is kept is written down."""
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
