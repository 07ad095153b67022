"""YOLO's segmentation labels: ``data.yaml``, ``images/`` and ``labels/`` with a class and a polygon on each line.

The points are shares of the image's width and height. Large objects are painted first. An image without a label file,
or with an empty one, is background throughout, as in training with YOLO. The images are those that ``train``, ``val``
and ``test`` of the YAML file name, folders or lists of files; all below it where it names none that exist.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deeplabv3.errors import UserError
from walkthrough.datasets.importing.drawing import Shape, paint, polygon, small_on_top
from walkthrough.datasets.importing.export import (
    SPLITS,
    ClassTable,
    Export,
    Item,
    Settings,
    files,
    folder,
    images_below,
    name_below,
    split_of,
)

TOLERANCE = 0.01
"""Distance by which rounding may put a coordinate outside of 0 to 1."""


def read(settings: Settings) -> Export:
    """Read a folder with ``data.yaml`` (or another YAML file with ``names``), or that file."""
    source = settings.source
    file = source if source.is_file() else next(iter(files(folder(source, "source"), (".yaml", ".yml"))), None)
    if file is None:
        raise UserError(f"{source} has no data.yaml with the classes' names; add one: 'names: [crack, hole]'.")
    values, root = _values(file), file.parent
    names = _names(file, values)
    table = ClassTable(names, settings)
    images_root = folder(settings.images or root, "--images")
    below, base = images_below(images_root), _base(values, root)
    splits = {image: split_of(image.relative_to(images_root).parent) for image in below}
    notes: list[str] = []
    if settings.images is None:
        listed, notes = _listed(values, base, root)
        unlisted = {image.resolve() for image in below} - {image.resolve() for image in listed}
        if listed and unlisted:
            notes.append(f"{len(unlisted):,} images below {root} are in no list of {file.name} and are left out")
        splits = listed or splits
    # Lists such as train.txt and classes.txt lie above the folders of labels.
    known = {
        path
        for place in {root, base}
        for path in files(place, (".txt",))
        if "labels" in path.relative_to(place).parts[:-1]
    }
    if not known:
        raise UserError(f"{root} has no folder 'labels' with .txt files; name the folder with data.yaml in it.")
    refused = {str(image): f"is named in {file.name} and does not exist" for image in splits if not image.is_file()}
    items = [
        Item(_name(image, (images_root, base)), image, partial(_label, _label_file(image), names, table), split)
        for image, split in splits.items()
        if str(image) not in refused
    ]
    used = {_label_file(image) for image in (*below, *splits)}
    refused |= {str(path): "has no image of its name" for path in sorted(known - used)}
    return Export(table.classes, items, refused=refused, notes=notes, annotations=[file, *sorted(known)])


def _base(values: dict[str, Any], root: Path) -> Path:
    """The folder that the paths of the YAML file begin in: its ``path``, or its own where that is another machine's."""
    base = Path(os.path.normpath(root / _portable(values.get("path") or ".")))
    return base if base.is_dir() else root


def _listed(values: dict[str, Any], base: Path, root: Path) -> tuple[dict[Path, str | None], list[str]]:
    """Images that the YAML file names, with the list of each, and sentences on what is missing or named twice."""
    found: dict[Path, str | None] = {}
    notes: list[str] = []
    twice = 0
    for key, split in SPLITS.items():
        entries = values.get(key) or []
        for entry in map(_portable, entries if isinstance(entries, list) else [entries]):
            # Roboflow's exports begin with a '..' too many.
            places = (base / entry, root / entry, base / entry.removeprefix("../"))
            place = next((Path(os.path.normpath(place)) for place in places if place.exists()), None)
            if place is None:
                notes.append(f"{key}: {entry} does not exist and is left out")
                continue
            for image in images_below(place) if place.is_dir() else _lines(place, base):
                twice += found.setdefault(image, split) != split
    return found, notes + ([f"{twice:,} images are in two lists and count for the first"] if twice else [])


def _lines(file: Path, base: Path) -> list[Path]:
    """The images of a list, whose paths begin at ``base``, or with ``./`` at the list's own folder."""
    lines = [_portable(line.strip()) for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return [Path(os.path.normpath((file.parent if line.startswith("./") else base) / line)) for line in lines]


def _portable(path: object) -> str:
    return str(path).replace("\\", "/")


def _name(image: Path, roots: Sequence[Path]) -> str:
    """Name of an image below one of ``roots``, or of one that lies elsewhere."""
    return name_below(image, next((root for root in roots if image.is_relative_to(root)), image.parent))


def _values(file: Path) -> dict[str, Any]:
    """Content of the YAML file."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML ({' '.join(str(error).split())}); correct it.") from error
    return values if isinstance(values, dict) else {}


def _names(file: Path, values: dict[str, Any]) -> list[str]:
    """The classes' names by their numbers."""
    names = values.get("names")
    if isinstance(names, dict):
        names = [names.get(number) for number in range(max(names, default=-1) + 1)]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file} has no 'names'; add the classes' names in the order of their numbers.")
    return [str(number) if name is None else str(name) for number, name in enumerate(names)]


def _label_file(image: Path) -> Path:
    """The label file of an image: the last folder ``images`` of its path is ``labels``."""
    parts = list(image.with_suffix(".txt").parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts)


def _label(path: Path, names: Sequence[str], table: ClassTable, size: tuple[int, int]) -> np.ndarray:
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    return paint(
        size,
        small_on_top(
            [_shape(line, f"line {n} of {path}", names, table, size) for n, line in enumerate(lines, 1) if line.strip()]
        ),
    )


def _shape(line: str, what: str, names: Sequence[str], table: ClassTable, size: tuple[int, int]) -> Shape:
    number, *rest = line.split()
    if len(rest) == 4:
        raise UserError(f"{what} is a box, and no polygon; export segmentation.")
    try:
        index, points = int(number), polygon([float(text) for text in rest], what)
    except ValueError as error:
        raise UserError(f"{what} is no class and polygon ({error}); export it again.") from error
    if not 0 <= index < len(names):
        raise UserError(f"{what} has class {index}, and there are {len(names)} names.")
    if points.min() < -TOLERANCE or points.max() > 1 + TOLERANCE:
        raise UserError(f"{what} has a point outside of 0 to 1; coordinates are shares of the image's size.")
    return Shape(table.value(names[index]), (points * size,))
