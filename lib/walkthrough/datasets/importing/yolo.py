"""YOLO's segmentation labels: ``data.yaml``, ``images/`` and ``labels/`` with a class and a polygon on each line.

The points are shares of the image's width and height. Large objects are painted first. An image without a label file,
or with an empty one, is background throughout, as in training with YOLO.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from deeplabv3.errors import UserError
from walkthrough.datasets.importing.drawing import Shape, paint, polygon, small_on_top
from walkthrough.datasets.importing.export import (
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
"""How far a coordinate may lie outside of 0 to 1, by rounding."""


def read(settings: Settings) -> Export:
    """Read a folder with ``data.yaml`` (or another YAML file with ``names``), or that file."""
    source = settings.source
    file = source if source.is_file() else next(iter(files(folder(source, "source"), (".yaml", ".yml"))), None)
    if file is None:
        raise UserError(f"{source} has no data.yaml with the classes' names; add one: 'names: [crack, hole]'.")
    root = file.parent
    names = _names(file)
    table = ClassTable(names, settings)
    images_root = folder(settings.images or root, "--images")
    images = images_below(images_root)
    labels = {path: _label_file(path) for path in images}
    # Lists such as train.txt and classes.txt lie above the folders of labels.
    known = {path for path in files(root, (".txt",)) if "labels" in path.relative_to(root).parts[:-1]}
    if not known:
        raise UserError(f"{root} has no folder 'labels' with .txt files; name the folder with data.yaml in it.")
    items = [
        Item(
            name_below(image, images_root),
            image,
            partial(_label, path, names, table),
            split_of(image.relative_to(images_root).parent),
        )
        for image, path in labels.items()
    ]
    refused = {str(path): "has no image of its name" for path in sorted(known - set(labels.values()))}
    return Export(table.classes, items, refused=refused, annotations=[file, *sorted(known)])


def _names(file: Path) -> list[str]:
    """The classes' names by their numbers."""
    try:
        values: Any = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML ({' '.join(str(error).split())}); correct it.") from error
    names = values.get("names") if isinstance(values, dict) else None
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
