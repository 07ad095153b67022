"""An export as its reader hands it to the writer: images, a function for each label, and classes."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeplabv3.config import VOID
from deeplabv3.data.lists import plain
from deeplabv3.data.reading import SUFFIXES, UNREADABLE
from deeplabv3.errors import UserError

BACKGROUND = 0
NAMES_OF_BACKGROUND = ("background", "_background_")
NAMES_OF_VOID = ("void", "ignore", "__ignore__", "unlabeled")

COARSE = "coarse"
"""Split of images whose labels are too coarse to train on them alone, or to evaluate."""

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Words in the name of a folder or file to the list that it stands for."""


@dataclass(frozen=True)
class Settings:
    """Settings of an import, from the command line."""

    source: Path
    images: Path | None = None  # folder of the images, where they are not in ``source``
    classes: tuple[str, ...] = ()  # only these, in this order; all others are background
    renamed: Mapping[str, str] = field(default_factory=dict)  # the export's name to another, background or void
    colors: Mapping[str, str] = field(default_factory=dict)  # of masks: color or gray value to a name
    skip_empty: bool = False  # leave images without an object out
    min_pixels: int = 0  # leave images out whose objects have fewer pixels, void ones not counted


@dataclass(frozen=True)
class Item:
    """An image to import. ``label`` takes its width and height and returns values ``(H, W)`` uint8."""

    name: str  # of the image and its label in VOC's layout
    image: Path
    label: Callable[[tuple[int, int]], np.ndarray]
    split: str | None = None  # the list that the export puts it in; COARSE: none but trainval_coarse


@dataclass
class Export:
    """A whole export; each of its images is in one of the three."""

    classes: dict[int, str]  # label value to name
    items: list[Item]
    unlabeled: list[Path] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)  # image or label to the reason
    notes: list[str] = field(default_factory=list)
    annotations: list[Path] = field(default_factory=list)  # files that the labels depend on


class ClassTable:
    """The export's class names to label values: background 0, void 255, the others from 1 on."""

    def __init__(self, names: Iterable[str], settings: Settings):
        self._renamed, known = settings.renamed, list(dict.fromkeys(names))
        for name in settings.renamed:
            if name not in known:
                raise UserError(f"--map names class {name!r}; the export has {', '.join(known) or 'none'}.")
        renamed = list(dict.fromkeys(settings.renamed.get(name, name) for name in known))
        for name in settings.classes:
            if name not in renamed:
                raise UserError(f"--classes names {name!r}; the export has {', '.join(renamed) or 'none'}.")
        special = (*NAMES_OF_BACKGROUND, *NAMES_OF_VOID)
        shown = [name for name in settings.classes or renamed if name.lower() not in special]
        if not shown:
            raise UserError(f"{settings.source} has no class but background; check the export, --map and --classes.")
        if len(shown) >= VOID:
            raise UserError(f"{settings.source} has {len(shown)} classes, and labels hold 254; choose with --classes.")
        self.classes = {BACKGROUND: "background"} | dict(enumerate(shown, start=1))
        self._values = {name: value for value, name in self.classes.items()}

    def value(self, name: str) -> int:
        """The label value of one of the export's names."""
        name = self._renamed.get(name, name)
        return VOID if name.lower() in NAMES_OF_VOID else self._values.get(name, BACKGROUND)


def folder(path: Path, what: str) -> Path:
    """Return a folder that has to exist."""
    if not path.is_dir():
        raise UserError(f"{what} {path} is not a folder; check the path.")
    return path


def files(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """All files below ``root`` with one of these suffixes, without hidden ones, in order."""
    found = (path for path in root.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts))


def images_below(root: Path) -> list[Path]:
    """All images below ``root``, those of a kind that has to be converted too."""
    return files(root, (*SUFFIXES, *UNREADABLE))


def name_below(path: Path, root: Path) -> str:
    """Name of an image in VOC's layout: its path below ``root`` without suffix and without folders ``images``."""
    *folders, last = path.relative_to(root).parts
    return plain("/".join([*(part for part in folders if part.lower() not in ("images", "jpegimages")), last]))


def by_name(paths: Iterable[Path], name: Callable[[Path], str], refused: dict[str, str]) -> dict[str, Path]:
    """Files by their names in VOC's layout; another file of a name is added to ``refused``."""
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(name(path), path)
        if other != path:
            refused[str(path)] = f"has the name of {other}; rename one of them"
    return found


def split_of(path: Path | str) -> str | None:
    """The list that a path names by a word in one of its parts, the last part first, such as ``train2017``."""
    for part in reversed(Path(path).parts):
        for word in reversed(re.findall("[a-z]+", part.lower())):
            if word in SPLITS:
                return SPLITS[word]
    return None


def require_size(size: tuple[int, int], stated: tuple[int, int], image: Path) -> None:
    """Refuse an image of another width and height than its annotations state."""
    if size != stated:
        turned = "; an EXIF entry may turn it: exiftool -Orientation= FILE" if size == stated[::-1] else ""
        raise UserError(
            f"image {image} is {size[0]} x {size[1]} pixels, and its annotations are for {stated[0]} x {stated[1]}"
            f"{turned}; put the image that was annotated there."
        )
