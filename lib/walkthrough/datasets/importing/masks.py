"""Masks of gray values or colors, in a folder beside the images': the kind that most tools can export.

Which value is which class is guessed, shown before anything is written, and changed with ``--color VALUE=NAME``.
"""

import re
from collections import Counter
from pathlib import Path

from deeplabv3.data.lists import plain
from deeplabv3.data.voc import VOID
from deeplabv3.errors import UserError, attempt
from walkthrough.datasets.importing import colors
from walkthrough.datasets.importing.export import (
    NAMES_OF_BACKGROUND,
    Export,
    Item,
    Settings,
    by_name,
    folder,
    images_below,
    name_below,
    split_of,
)
from walkthrough.datasets.progress import in_threads

WORDS = frozenset((
    "mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations",
    "segmentationclass", "segmentationclasspng", "gt", "groundtruth", "trimaps",
))  # fmt: skip
"""Words in the names of folders of masks."""

OF_A_LIST = re.compile(r"(train|val|test)[ _-]?(?:annot|annotations?|masks?|labels?|gt)", re.IGNORECASE)
"""Folders of one list's masks, such as SegNet's trainannot beside train."""

MARKS = re.compile(r"[ _-](mask|masks|label|labels|gt|seg|segmentation|groundtruth)$", re.IGNORECASE)
"""Ends that tools add to the name of a mask."""

NAME_FILES = ("class_names.txt", "classes.txt")
"""Files beside the masks with the name of a value on each line, from 0 on."""


def read(settings: Settings) -> Export:
    """Read an export of images and masks."""
    if settings.classes or settings.renamed:
        raise UserError(
            "masks have colors or gray values for classes; name them with --color, as in --color 255=crack."
        )
    refused: dict[str, str] = {}
    images, masks = _files(settings, refused)
    pairs = {name: (images[name], mask) for name, mask in masks.items() if name in images}
    if not pairs:
        raise UserError(f"no mask below {settings.source} has the name of an image; give both files one name.")
    refused |= {str(mask): "has no image of its name" for name, mask in masks.items() if name not in images}
    surveyed = in_threads("looking at masks", lambda name: attempt(colors.count, pairs[name][1]), list(pairs))
    good = {}
    for name, (counted, error) in zip(pairs, surveyed, strict=True):
        if counted is None:
            refused[str(pairs[name][0])] = error
        else:
            good[name] = counted
    if not good:
        raise UserError(next(iter(refused.values())))
    in_color = any(is_color for is_color, _, _ in good.values())
    pixels: Counter[int] = sum(
        (by_color if in_color else by_value for _, by_value, by_color in good.values()), Counter()
    )
    table, numbers = _table(sorted(pixels), in_color, settings)
    values, classes = colors.label_values(table, numbers)
    if not any(name.lower() not in NAMES_OF_BACKGROUND for name in classes.values()):
        raise UserError(f"{settings.source} has no class but background; check the masks and --color.")
    if len(classes) > VOID - 1:
        raise UserError(f"masks below {settings.source} have {len(classes)} colors; labels hold 254 classes.")
    items = [
        Item(name, image, colors.as_label(mask, values, in_color), split_of(Path(name).parent))
        for name, (image, mask) in pairs.items()
        if name in good
    ]
    unlabeled = [path for name, path in images.items() if name not in masks]
    return Export(
        classes, items, unlabeled, refused, _notes(table, values, pixels, in_color), [m for _, m in pairs.values()]
    )


def _files(settings: Settings, refused: dict[str, str]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and masks by the names that they share: their paths without folders of masks, or their own names alone."""
    source = folder(settings.source, "source")
    found = images_below(source)
    masks = [path for path in found if _is_mask(path.relative_to(source))]
    images, root = [path for path in found if path not in set(masks)], source
    if settings.images:
        root = folder(settings.images, "--images").resolve()
        images = images_below(root)
        masks = masks or [path for path in found if path.resolve() not in set(images)]
    elif not masks:  # x.jpg and x.png
        others = {path.with_suffix("") for path in found if path.suffix.lower() != ".png"}
        masks = [path for path in found if path.suffix.lower() == ".png" and path.with_suffix("") in others]
        images = [path for path in found if path not in set(masks)]
    by_image = by_name(images, lambda path: name_below(path, root), refused)
    by_mask = by_name(masks, lambda path: _name(path, source), refused)
    if not by_image.keys() & by_mask.keys():
        refused.clear()
        by_image = by_name(images, lambda path: plain(path.name), refused)
        by_mask = by_name(masks, lambda path: MARKS.sub("", plain(path.name)), refused)
    return by_image, by_mask


def _is_mask(path: Path) -> bool:
    words = {word for part in path.parts[:-1] for word in re.findall("[a-z]+", part.lower().replace("_", ""))}
    words |= {word for part in path.parts[:-1] for word in re.findall("[a-z]+", part.lower())}
    of_a_list = any(OF_A_LIST.fullmatch(part) for part in path.parts[:-1])
    return bool(words & WORDS or of_a_list or MARKS.search(plain(path.name)))


def _name(mask: Path, source: Path) -> str:
    """Name of a mask's image."""
    *folders, last = name_below(mask, source).split("/")
    folders = [found[1] if (found := OF_A_LIST.fullmatch(part)) else part for part in folders]
    return "/".join([*(part for part in folders if part.lower().replace("_", "") not in WORDS), MARKS.sub("", last)])


def _table(keys: list[int], in_color: bool, settings: Settings) -> tuple[dict[int, str], dict[int, int]]:
    """Key to class name, the guess and over it what ``--color`` says; and key to number, as guessed."""
    file = next((path for name in NAME_FILES if (path := settings.source / name).is_file()), None)
    names = file.read_text(encoding="utf-8-sig").split() if file else []
    table, numbers = colors.guess(keys, in_color, names)
    for text, name in settings.colors.items():
        key = colors.parse_color(text)
        if in_color and "," not in text and "#" not in text:
            key *= 0x010101  # a gray among colors
        if key not in table:
            shown = "; ".join(colors.show(other, in_color) for other in keys)
            raise UserError(f"--color names {text}, which no mask has; they have {shown}.")
        table[key] = name
    return table, numbers


def _notes(table: dict[int, str], values: dict[int, int], pixels: Counter[int], in_color: bool) -> list[str]:
    """The table as lines: color or gray value, label value, name, share of the pixels."""
    width = max(len(colors.show(key, in_color)) for key in table)
    lines = [
        f"  {colors.show(key, in_color):>{width}}  {values[key]:3}  {name}  {100 * pixels[key] / pixels.total():.2f} %"
        for key, name in table.items()
    ]
    kind = "color" if in_color else "value"
    return [
        f"{kind} in the masks, label value, class, share of the pixels (change with --color {kind.upper()}=NAME):",
        *lines,
    ]
