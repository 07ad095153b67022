"""CVAT: its export "Segmentation mask" in VOC's layout with ``labelmap.txt``, or its XML "CVAT for images".

In the XML, shapes are painted by their ``z_order`` and then as they are listed; an image without a shape is background.
"""

from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from deeplabv3.data import lists
from deeplabv3.errors import UserError
from walkthrough.datasets.importing.colors import as_label
from walkthrough.datasets.importing.drawing import Shape, box, paint, polygon, run_lengths
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


def read(settings: Settings) -> Export:
    """Read either of CVAT's exports, whichever is there."""
    source = settings.source
    if source.is_file() or (not (source / "labelmap.txt").is_file() and files(folder(source, "source"), (".xml",))):
        return _read_xml(settings, source if source.is_file() else files(source, (".xml",))[0])
    labelmap = source / "labelmap.txt"
    if not labelmap.is_file():
        raise UserError(f"{source} has neither labelmap.txt nor annotations.xml; name the unpacked export of CVAT.")
    root = settings.images or source / lists.IMAGES
    if not root.is_dir():
        raise UserError(
            f"{source} has no folder {lists.IMAGES}; export with 'Save images', or name theirs with --images."
        )
    colors = _labelmap(labelmap)
    table = ClassTable(colors.values(), settings)
    values = {color: table.value(name) for color, name in colors.items()}
    refused: dict[str, str] = {}
    images = by_name(images_below(root), lambda image: name_below(image, root), refused)
    folder_of_masks = folder(source / lists.LABELS[0], "folder of masks")
    masks = by_name(images_below(folder_of_masks), lambda mask: name_below(mask, folder_of_masks), refused)
    splits = {
        name: split_of(list_name)
        for list_name in lists.list_names(source)
        for name in lists.read_list(source, list_name)
    }
    items = [
        Item(name, images[name], as_label(mask, values, in_color=True), splits.get(name))
        for name, mask in masks.items()
        if name in images
    ]
    refused |= {str(mask): "has no image of its name" for name, mask in masks.items() if name not in images}
    unlabeled = [image for name, image in images.items() if name not in masks]
    return Export(table.classes, items, unlabeled, refused, annotations=[labelmap, *masks.values()])


def _labelmap(path: Path) -> dict[int, str]:
    """Color as 0xRRGGBB to name, of lines such as ``car:51,221,255::``."""
    colors: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = rest.split(":")[0].split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
            raise UserError(f"{path}: line {line!r} should read NAME:RED,GREEN,BLUE::.")
        red, green, blue = map(int, parts)
        colors[red << 16 | green << 8 | blue] = name.strip()
    return colors


def _read_xml(settings: Settings, path: Path) -> Export:
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise UserError(f"{path} cannot be read as XML ({error}); export it again.") from error
    records = tree.findall("image")
    if not records:
        raise UserError(f"{path} has no images; export as 'CVAT for images 1.1' or 'Segmentation mask 1.1'.")
    root = folder(settings.images or path.parent / "images", "folder of images (see --images)")
    names = [label.findtext("name", "") for label in tree.iter("label")]
    table = ClassTable(names or [shape.get("label", "") for record in records for shape in record], settings)
    export = Export(table.classes, [], annotations=[path])
    images = by_name(images_below(root), lambda image: name_below(image, root), export.refused)
    for record in records:
        file = record.get("name", "")
        name = next((name for name in (lists.plain(file), Path(lists.plain(file)).name) if name in images), None)
        if name is None:
            export.refused[file] = f"is not below {root}"
            continue
        label = partial(_label, images[name], record, table)
        export.items.append(Item(name, images.pop(name), label, split_of(record.get("subset", ""))))
    export.unlabeled = list(images.values())
    return export


def _label(image: Path, record: ElementTree.Element, table: ClassTable, size: tuple[int, int]) -> np.ndarray:
    require_size(size, (int(record.get("width", 0)), int(record.get("height", 0))), image)
    ordered = sorted((shape for shape in record if shape.get("label")), key=lambda one: int(one.get("z_order", 0)))
    return paint(size, [_shape(shape, table.value(shape.get("label", "")), image) for shape in ordered])


def _shape(shape: ElementTree.Element, value: int, image: Path) -> Shape:
    what = f"shape {shape.get('label')!r} of {image.name}"

    def numbers(*keys: str) -> list[float]:
        return [float(shape.get(key, "nan")) for key in keys]

    if shape.tag == "polygon":
        points = shape.get("points", "").replace(";", ",").split(",")
        return Shape(value, (polygon([float(number) for number in points], what),))
    if shape.tag == "box":
        return Shape(value, (box(*numbers("xtl", "ytl", "xbr", "ybr")),))
    if shape.tag == "mask":
        left, top, width, height = map(int, numbers("left", "top", "width", "height"))
        counts = [int(number) for number in shape.get("rle", "").split(",")]
        return Shape(value, mask=run_lengths(counts, (height, width), "C", what), corner=(left, top))
    raise UserError(f"{what} is a {shape.tag}, which has no area here; make it a polygon or a mask.")
