"""COCO's instances: JSON with polygons or run lengths, as COCO itself, CVAT, Roboflow and Label Studio write it.

Overlapping objects are painted large ones first, so that a cup on a table stays; crowds are void, below all objects.
An image without an object is background throughout, as in COCO.
"""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from deeplabv3.config import VOC_CLASSES, VOID
from deeplabv3.errors import UserError, attempt
from walkthrough.datasets.importing.drawing import Shape, paint, polygon, run_lengths, small_on_top
from walkthrough.datasets.importing.export import (
    ClassTable,
    Export,
    Item,
    Settings,
    files,
    folder,
    images_below,
    name_below,
    require_size,
    split_of,
)

VOC_NAMES = {
    "airplane": "aeroplane", "dining table": "diningtable", "motorcycle": "motorbike", "potted plant": "pottedplant",
    "couch": "sofa", "tv": "tvmonitor",
}  # fmt: skip
"""COCO's names of VOC's classes, where they differ."""


def read(settings: Settings) -> Export:
    """Read one JSON file, or those of a folder such as ``annotations``."""
    source = settings.source
    if not source.is_file():
        folder(source, "source")
    found = [source] if source.is_file() else files(source, (".json",))
    found = [path for path in found if path.name.startswith("instances")] or found  # beside captions, key points …
    contents = {path: content for path in found if (content := _instances(path, required=path == source))}
    if not contents:
        raise UserError(f"{source} holds no JSON file with 'images', 'annotations' and 'categories'; name COCO's.")
    for path, content in contents.items():
        _refuse_repeated(path, content)
    _require_pycocotools(contents)
    root = folder(settings.images or (source.parent if source.is_file() else source), "--images")
    if not (below := images_below(root)):
        raise UserError(f"there are no images below {root}; name their folder with --images.")
    categories = [one for content in contents.values() for one in content["categories"]]
    known = [one["name"] for one in sorted(categories, key=lambda one: one["id"])]
    table = ClassTable(known, _with_voc_names(settings, known))
    places: dict[str, list[Path]] = defaultdict(list)
    for file in below:
        places[file.name].append(file)
    export = Export(table.classes, [], annotations=list(contents))
    used = set()
    for path, content in contents.items():
        export.notes += _left_out(path, content)
        names = {one["id"]: one["name"] for one in content["categories"]}
        objects = defaultdict(list)
        for annotation in content["annotations"]:
            objects[annotation["image_id"]].append(annotation)
        for record in content["images"]:
            image, error = attempt(_find, record["file_name"], places, path, root)
            if image is None:
                export.refused[record["file_name"]] = error
                continue
            used.add(image)
            label = partial(_label, image, record, objects[record["id"]], names, table)
            # A word in a file's own name names no list.
            split = split_of(Path(record["file_name"]).parent) or split_of(path.stem) or split_of(path.parent.name)
            export.items.append(Item(name_below(image, root), image, label, split))
    export.unlabeled = [image for image in below if image not in used]
    return export


def _with_voc_names(settings: Settings, known: list[str]) -> Settings:
    """The settings, where ``--classes voc`` stands for VOC's 20 classes, whatever COCO calls them."""
    if settings.classes != ("voc",) or "voc" in known:
        return settings
    renamed = {name: new for name, new in VOC_NAMES.items() if name in known}
    return replace(settings, classes=VOC_CLASSES[1:], renamed={**renamed, **settings.renamed})


def _instances(path: Path, required: bool) -> dict[str, Any] | None:
    """Content of an instances file; None for JSON of another kind, which is an error where it is ``required``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no JSON file that can be read ({error}); export it again.") from error
    parts = ("images", "annotations", "categories")
    if isinstance(content, dict) and all(isinstance(content.get(part), list) for part in parts):
        if not content["annotations"] or any("segmentation" in one for one in content["annotations"]):
            return content
        raise UserError(f"{path} has boxes and no segmentation; export instance segmentation.")
    if required:
        raise UserError(f"{path} is no instances file of COCO: it lacks one of {', '.join(parts)}.")
    return None


def _refuse_repeated(path: Path, content: dict[str, Any]) -> None:
    """Refuse a file that has an id of a category or an image twice: annotations could mean either."""
    for part in ("categories", "images"):
        id_, times = max(Counter(one["id"] for one in content[part]).items(), key=lambda item: item[1], default=(0, 0))
        if times > 1:
            raise UserError(f"{path} has the id {id_!r} {times} times in '{part}'; export it again with one of each.")


def _left_out(path: Path, content: dict[str, Any]) -> list[str]:
    """Sentences on the annotations that are not drawn."""
    known = {one["id"] for one in content["images"]}
    unknown = sum(one["image_id"] not in known for one in content["annotations"])
    shapeless = sum(one["image_id"] in known and not one.get("segmentation") for one in content["annotations"])
    counts = {"an image_id that 'images' lacks": unknown, "no segmentation": shapeless}
    return [f"{path}: {n:,} annotations have {what} and are left out" for what, n in counts.items() if n]


def _require_pycocotools(contents: dict[Path, dict[str, Any]]) -> None:
    """Refuse compressed run lengths where nothing reads them."""
    for path, content in contents.items():
        shapes = (one["segmentation"] for one in content["annotations"] if one.get("segmentation"))
        if any(isinstance(shape, dict) and isinstance(shape["counts"], str) for shape in shapes):
            if find_spec("pycocotools") is None:
                raise UserError(
                    f"{path} has compressed run lengths, which pycocotools reads; install it: pip install pycocotools "
                    "(the extra 'coco')."
                )
            return


def _find(file_name: str, places: dict[str, list[Path]], annotations: Path, root: Path) -> Path:
    """The image of a record: that of its path, else the only one of its name, else the one of its split."""
    path = Path(file_name.replace("\\", "/"))
    found = places.get(path.name, [])
    rules = (
        lambda image: image.as_posix().endswith(f"/{path.as_posix()}"),
        lambda image: image.parent == annotations.parent,
        lambda image: split_of(image.relative_to(root).parent) == split_of(annotations.stem),
    )
    for rule in rules:
        if len(found) > 1:
            found = [image for image in found if rule(image)] or found
    if len(found) != 1:
        raise UserError("is not below the folder of images" if not found else f"has {len(found)} images of its name")
    return found[0]


def _label(
    image: Path,
    record: dict[str, Any],
    objects: list[dict[str, Any]],
    names: dict[int, str],
    table: ClassTable,
    size: tuple[int, int],
) -> np.ndarray:
    """Label ``(H, W)`` of an image with its annotations."""
    require_size(size, (record["width"], record["height"]), image)
    crowds: list[Shape] = []
    shapes: list[Shape] = []
    for one in objects:
        what = f"annotation {one.get('id')} of {record['file_name']}"
        if one["category_id"] not in names:
            raise UserError(f"{what} has category {one['category_id']}, which has no name")
        if one.get("segmentation"):
            value = VOID if one.get("iscrowd") else table.value(names[one["category_id"]])
            (crowds if one.get("iscrowd") else shapes).append(_shape(one["segmentation"], value, size, what))
    return paint(size, [*crowds, *small_on_top(shapes)])


def _shape(segmentation: Any, value: int, size: tuple[int, int], what: str) -> Shape:
    if isinstance(segmentation, list):
        return Shape(value, tuple(polygon(numbers, what) for numbers in segmentation))
    shape, counts = tuple(segmentation["size"]), segmentation["counts"]
    if shape != size[::-1]:
        raise UserError(f"{what} has run lengths for another size than its image's; export it again.")
    if isinstance(counts, list):
        return Shape(value, mask=run_lengths(counts, shape, "F", what))
    from pycocotools import mask

    return Shape(value, mask=mask.decode({"size": list(shape), "counts": counts.encode()}).astype(bool))
