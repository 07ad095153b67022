"""Files of ``predict``: the images that are named, the names of their results, and what may not be overwritten."""

import csv
import glob
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from deeplabv3.data.reading import SUFFIXES, UNREADABLE, conversion
from deeplabv3.errors import UserError

OVERLAY, CLASSES, SHARES = "_overlay.jpg", "_classes.png", "shares.csv"
UNFINISHED = "shares.unfinished.csv"  # while images are missing
RESULTS = (OVERLAY, CLASSES)
"""Ends of the names of an image's two files."""

MOST_BYTES = 200
"""Of an image's name, so that those of its results are no longer than the 255 that file systems take."""

ABOUT = ("file", "results", "width", "height", "seconds")
"""Columns of the table ``shares.csv`` before those of the classes."""


def find_images(inputs: Sequence[str], output: Path | None = None) -> list[Path]:
    """The image files that files, folders and patterns such as ``"holiday/*.jpg"`` name, each once, in order.

    A folder counts with the images directly in it, without hidden files; a file that is named may end in anything. In
    ``output``, the folder of the predictions, folders and patterns find nothing that an earlier prediction wrote.
    """
    images: dict[Path, Path] = {}  # by their resolved paths
    for item in inputs:
        path = Path(item)
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = _with_suffixes(path, SUFFIXES)
            reason = f"folder {item} holds no images ({', '.join(sorted(SUFFIXES))}); name another one."
            if others := _with_suffixes(path, UNREADABLE):
                reason = f"folder {item} holds no images that can be read; {conversion(others[0])}"
        else:
            files = [Path(name) for name in sorted(glob.glob(item, recursive=True)) if Path(name).is_file()]  # noqa: PTH207
            reason = f"{item} is neither a file nor a folder, and no image matches it; check the path."
        if output is not None and not path.is_file():
            files = [file for file in files if not (file.name.endswith(RESULTS) and _is_in(file, output))]
        if not files:
            raise UserError(reason)
        for file in files:
            images.setdefault(file.resolve(), file)
    return list(images.values())


def _with_suffixes(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """A folder's files with one of these suffixes, without hidden ones."""
    files = (file for file in folder.iterdir() if file.suffix.lower() in suffixes and file.name[0] != ".")
    return sorted(file for file in files if file.is_file())


def unreadable_images(inputs: Sequence[str]) -> list[Path]:
    """Images in the folders among ``inputs`` that have to be converted before they can be read, such as HEIC."""
    return [file for item in inputs if Path(item).is_dir() for file in _with_suffixes(Path(item), UNREADABLE)]


def _is_in(file: Path, folder: Path) -> bool:
    return file.parent.resolve() == folder.resolve()


def refuse_to_overwrite(images: Collection[Path], names: Collection[str], output: Path) -> None:
    """Raise a :class:`UserError` where results would replace other files than earlier results, which have a table."""
    for image in images:
        if _is_in(image, output):
            raise UserError(f"image {image} lies in {output} itself; name another folder with --output.")
    tables = output / SHARES, output / UNFINISHED
    earlier = [table for table in tables if table.is_file() and table.read_bytes().startswith(",".join(ABOUT).encode())]
    for table in earlier:
        _refuse_others(dict(zip(names, images, strict=True)), table)
    if earlier:
        return
    for file in (*tables, *(output / (name + end) for name in names for end in RESULTS)):
        if file.exists():
            raise UserError(
                f"{file} exists and is not from an earlier prediction; move it away, or name another folder with "
                "--output."
            )


def _refuse_others(images: Mapping[str, Path], table: Path) -> None:
    """Refuse to replace the results, in ``table``, of another image of the same name that is still there."""
    with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
        for line in csv.DictReader(file):
            image, other = images.get(line.get("results") or ""), Path(line["file"] or "")
            if image and other.is_file() and not other.samefile(image):
                raise UserError(f"{table} has results of {other}, which has {image}'s name; name another --output.")


def output_names(images: Iterable[Path]) -> list[str]:
    """Name of each image's results: its stem, with a number behind it where another image has that name."""
    taken: set[str] = set()
    names = []
    for image in images:
        stem = os.fsdecode(os.fsencode(image.stem)[:MOST_BYTES])
        name, number = stem, 1
        while name.lower() in taken:  # some file systems do not tell Cat from cat
            number += 1
            name = f"{stem}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names
