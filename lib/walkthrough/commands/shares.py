"""The table of ``predict``: a line for every image, kept on disk while others are segmented, so that work goes on."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from walkthrough.commands.prediction_files import ABOUT, RESULTS, SHARES, UNFINISHED

MADE_FROM = "made from"
"""Column of the unfinished table: a hash of what determines the line, image, network and strategy."""


def column(name: str) -> str:
    """The column of a class; never equal to one of the columns about the image."""
    return f"{name} %"


class Shares:
    """Lines of ``shares.csv`` by the names of their results; in ``shares.unfinished.csv`` until all are there.

    A line whose image, network or strategy is another one by now, or whose results are gone, does not count.

    Args:
        folder: of the results, which is there
        images: files by the names of their results
        classes: names of the classes
        made_with: what determines the results besides the images, as JSON values
    """

    def __init__(self, folder: Path, images: Mapping[str, Path], classes: Iterable[str], made_with: Any):
        self._folder, self._path = folder, folder / UNFINISHED
        self._columns = [*ABOUT, *map(column, classes)]
        self._made_from = {name: _hash(path, made_with) for name, path in images.items()}
        self.lines: dict[str, dict] = {}
        for line in _read(self._path):
            name = line.get("results") or ""
            if self._is_whole(name) and line.get(MADE_FROM) == self._made_from.get(name, ""):
                self.lines[name] = line
        self._write(UNFINISHED, [*self._columns, MADE_FROM], self.lines.values())

    def add(self, line: dict) -> None:
        """Add an image's line, after its results."""
        name = line["results"]
        self.lines[name] = line | {MADE_FROM: self._made_from[name]}
        try:
            with open(self._path, "a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(self._text([*self._columns, MADE_FROM], [self.lines[name]]))
        except OSError as error:
            raise UserError(f"{self._path} cannot be written ({error}); the same command goes on.") from error

    def close(self) -> None:
        """Write ``shares.csv``: its lines on other results that are still there, then the lines so far.

        The unfinished table stays until all lines are there.
        """
        done = [self.lines[name] for name in self._made_from if name in self.lines]
        if done:
            others = [line for line in _read(self._folder / SHARES) if self._is_other(line.get("results") or "")]
            columns = dict.fromkeys([*self._columns, *(column for line in others for column in line if column)])
            self._write(SHARES, [*columns], [*others, *done])
        if len(done) in (0, len(self._made_from)):
            self._path.unlink(missing_ok=True)

    def _is_whole(self, name: str) -> bool:
        """True if both files of an image's results are there."""
        return all((self._folder / (name + end)).is_file() for end in RESULTS)

    def _is_other(self, name: str) -> bool:
        return name not in self.lines and self._is_whole(name)

    def _write(self, name: str, columns: Sequence[str], lines: Iterable[dict]) -> None:
        text = self._text(columns, lines, header=True)  # names of files need not be UTF-8
        write_atomically(self._folder / name, text.encode(errors="surrogateescape"))

    def _text(self, columns: Sequence[str], lines: Iterable[dict], header: bool = False) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(lines)
        return text.getvalue()


def _hash(image: Path, made_with: Any) -> str:
    status = image.stat()
    values = json.dumps([str(image.resolve()), status.st_size, status.st_mtime_ns, made_with], sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:12]


def _read(path: Path) -> list[dict]:
    """Lines of a table, if it is there; a line that was broken off lacks its last column, or has a part of it."""
    if not path.is_file():
        return []
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="surrogateescape"))))
