"""labelme's JSON files, one beside each image: polygons, rectangles, circles and masks, later ones over earlier ones.

An image without a JSON file is not labeled yet, and is left out; one whose file has no shape is background.
"""

import base64
import io
import json
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from deeplabv3.errors import UserError, attempt
from walkthrough.datasets.importing.drawing import Shape, box, paint, polygon
from walkthrough.datasets.importing.export import (
    ClassTable,
    Export,
    Item,
    Settings,
    by_name,
    files,
    folder,
    images_below,
    name_below,
    require_size,
    split_of,
)

CORNERS = 128
"""Corners of the polygon that stands for a circle."""


def read(settings: Settings) -> Export:
    """Read a folder of images and JSON files."""
    source = folder(settings.source, "source")
    root = folder(settings.images or source, "--images")
    refused: dict[str, str] = {}
    records: dict[Path, dict[str, Any]] = {}
    for path in files(source, (".json",)):
        record, error = attempt(_record, path)
        if record is None:
            refused[str(path)] = error
        else:
            records[path] = record
    if not records and refused:
        file, reason = next(iter(refused.items()))
        raise UserError(f"no JSON file below {source} can be imported; the first, {file}: {reason}.")
    if not records:
        raise UserError(f"{source} holds no JSON file of labelme's; name the folder with one beside each image.")
    names = sorted({shape["label"] for record in records.values() for shape in record["shapes"]})
    table = ClassTable(names, settings)
    broken = [name_below(Path(path), source).removesuffix(".json") for path in refused]
    images = by_name(images_below(root), lambda image: name_below(image, root), refused)
    export = Export(table.classes, [], refused=refused, annotations=list(records))
    for path, record in records.items():
        beside = PurePosixPath(str(record.get("imagePath", "")).replace("\\", "/")).stem
        own = name_below(path, source).removesuffix(".json")
        name = next((name for name in (own, str(PurePosixPath(own).with_name(beside or "?"))) if name in images), None)
        if name is None:
            refused[str(path)] = f"its image {record.get('imagePath')} is not below {root}"
            continue
        label = partial(_label, images[name], record, path, table)
        export.items.append(Item(name, images.pop(name), label, split_of(Path(name).parent)))
    export.unlabeled = [image for name, image in images.items() if name not in broken]
    return export


def _record(path: Path) -> dict[str, Any]:
    """Content of a labelme file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise UserError(f"cannot be read as JSON ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("shapes"), list):
        raise UserError("is no file of labelme's: it has no 'shapes'")
    for number, shape in enumerate(record["shapes"], 1):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise UserError(f"its shape {number} has no label, or one that is no text; correct it in labelme")
        shape["label"] = label.strip()
    return record


def _label(image: Path, record: dict[str, Any], path: Path, table: ClassTable, size: tuple[int, int]) -> np.ndarray:
    if record.get("imageWidth") and record.get("imageHeight"):
        require_size(size, (record["imageWidth"], record["imageHeight"]), image)
    shapes = [_shape(shape, table.value(shape["label"]), path) for shape in record["shapes"]]
    return paint(size, shapes)


def _shape(shape: dict[str, Any], value: int, path: Path) -> Shape:
    kind, points = shape.get("shape_type") or "polygon", np.array(shape["points"], dtype=float)
    what = f"shape {shape['label']!r} in {path}"
    if kind == "polygon":
        return Shape(value, (polygon(points.ravel().tolist(), what),))
    if kind == "rectangle":
        return Shape(value, (box(*points.min(axis=0), *points.max(axis=0)),))
    if kind == "circle":
        angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
        radius = np.hypot(*(points[1] - points[0]))
        return Shape(value, (points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1),))
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as mask:
            left, top = np.round(points.min(axis=0)).astype(int).tolist()
            return Shape(value, mask=np.asarray(mask.convert("L")) > 0, corner=(left, top))
    raise UserError(f"{what} is a {kind}, which has no area; make it a polygon, or remove it.")
