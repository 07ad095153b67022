"""The files of a data set in VOC's layout: its lists of names, and the image and label files that have these names."""

import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path, PurePosixPath

from deeplabv3.data.reading import SUFFIXES, UNREADABLE
from deeplabv3.errors import UserError

IMAGES = "JPEGImages"
LABELS = ("SegmentationClass", "SegmentationClassAug", "SegmentationClassPNG")
"""Folders of labels, in the order in which they are looked into: VOC's own, SBD's, labelme's."""

_SUFFIXES = re.compile(rf"(?<=[^/])({'|'.join(map(re.escape, SUFFIXES))})+$", re.IGNORECASE)
_IMAGE_ORDER = (*SUFFIXES, *UNREADABLE)
_LABEL_ORDER = (".png", *(suffix for suffix in _IMAGE_ORDER if suffix != ".png"))


def find_root(root: Path | str) -> Path:
    """Return the folder that holds ``ImageSets``: ``root`` itself or a ``VOC2012`` below it."""
    root = Path(root)
    for folder in (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012"):
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    state = "has no ImageSets/Segmentation folder" if root.is_dir() else "does not exist"
    raise UserError(
        f"data root {root} {state}; name a folder in VOC's layout, such as VOCdevkit/VOC2012, with image names in "
        "ImageSets/Segmentation/train.txt and val.txt."
    )


def list_names(root: Path) -> list[str]:
    """Names of the lists that a data set has."""
    folder = root / "ImageSets" / "Segmentation"
    return sorted(file.stem for file in folder.glob("*.txt") if not file.name.startswith("."))


def plain(name: str) -> str:
    """An image's name as lists and files share it: composed unicode, ``/`` between folders, no suffix of images."""
    return _SUFFIXES.sub("", unicodedata.normalize("NFC", name.replace("\\", "/")))


class Files:
    """Finds image and label files by names; each folder is listed once."""

    def __init__(self, root: Path):
        self.root = root
        self._listings: dict[tuple[str, str], dict[str, Path]] = {}  # of a folder below the root, names to files

    def image(self, name: str, list_name: str) -> Path:
        """Return the file of a list's image; a missing one is a :class:`UserError`."""
        if path := self._find(IMAGES, name):
            return path
        path = self.root / IMAGES / name
        raise UserError(f"image {path}.jpg of list {list_name!r} is missing; restore it or take the name off the list.")

    def label(self, name: str, list_name: str) -> Path:
        """Return the file of a list's label, VOC's own before SBD's; a missing one is a :class:`UserError`."""
        if path := self.label_or_none(name):
            return path
        path = self.root / LABELS[0] / name
        raise UserError(f"label {path}.png of list {list_name!r} is missing; restore it or take the name off the list.")

    def label_or_none(self, name: str) -> Path | None:
        """Return the file of an image's label, None if there is none."""
        return next((path for folder in LABELS if (path := self._find(folder, name))), None)

    def has_image(self, name: str) -> bool:
        """Return True if there is an image of this name."""
        return self._find(IMAGES, name) is not None

    def below_images(self, name: str) -> str:
        """``name`` of a path: what stands behind ``JPEGImages``, without folders that are not there."""
        path = PurePosixPath(re.sub(rf"^(.*/)?({'|'.join((IMAGES, *LABELS))})/", "", name).lstrip("/"))
        return str(path) if self._folder(IMAGES, str(path.parent)) else path.name

    def _folder(self, top: str, parent: str) -> Path | None:
        """The folder of a name, whose unicode may be decomposed on the disk."""
        for form in ("NFC", "NFD"):
            folder = self.root / top / unicodedata.normalize(form, parent).strip("/")
            with suppress(OSError, ValueError):  # a line that is no name may be too long for one
                if folder.is_dir():
                    return folder
        return None

    def _find(self, top: str, name: str) -> Path | None:
        parent, _, last = name.rpartition("/")
        if (top, parent) not in self._listings:
            folder = self._folder(top, parent)
            order = _IMAGE_ORDER if top == IMAGES else _LABEL_ORDER
            self._listings[top, parent] = _by_name(folder, order) if folder else {}
        return self._listings[top, parent].get(last)


def _by_name(folder: Path, order: tuple[str, ...]) -> dict[str, Path]:
    """The files of a folder by their names; of several with one name, the first in the order of suffixes."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    ranked = []
    for name in names:
        suffix = PurePosixPath(name).suffix
        if suffix.lower() in order:
            key = plain(name) if suffix.lower() in SUFFIXES else plain(name.removesuffix(suffix))
            ranked.append((order.index(suffix.lower()), len(name), name, key))
    return {key: folder / name for _, _, name, key in sorted(ranked, reverse=True)}


def read_list(root: Path, list_name: str) -> list[str]:
    """Return the image names of a list, in order; a list that is missing or empty is a :class:`UserError`.

    A line is a name, which may be a path with a suffix; an image and its label; names with commas between them; or a
    name with 1 or 0, as in VOC's lists of one class, where names with -1, which do not show it, are left out.
    """
    path = root / "ImageSets" / "Segmentation" / f"{list_name}.txt"
    if not path.is_file():
        known = ", ".join(list_names(root)) or "none"
        raise UserError(f"list {path} does not exist (lists there: {known}); choose one of those or add it.")
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if "\N{REPLACEMENT CHARACTER}" in text:
        raise UserError(f"list {path} is not a text file in UTF-8; write one image name a line into it.")
    files, names = Files(root), []
    for number, line in enumerate(text.splitlines(), start=1):
        found = _names(line.strip(), files)
        if found is None:
            raise UserError(
                f"line {number} of list {path} names an image and a label of another name ({line.strip()[:80]!r}); "
                "give both files one name and write one image name a line."
            )
        names += found
    if not names:
        raise UserError(f"list {path} is empty; write one image name a line into it.")
    return names


def _names(line: str, files: Files) -> list[str] | None:
    """The image names of a list's line; None for an image and a label whose names differ."""
    whole = plain(line)
    if not re.search(r"[\s,;]", whole):
        return [files.below_images(whole)] if whole else []
    if files.has_image(whole.removeprefix(f"{IMAGES}/")):  # a name with blanks or commas
        return [whole.removeprefix(f"{IMAGES}/")]
    separator = next((mark for mark in (",", ";", "\t") if mark in line), None)
    parts = [part for text in line.split(separator) if (part := text.strip("\"' "))]
    names = [files.below_images(plain(part)) for part in parts]
    images = [name for name in names if files.has_image(name)]
    if len(names) == 2 and names[1] in ("-1", "0", "1") and (separator not in (",", ";") or len(images) < 2):
        return names[:1] if names[1] != "-1" else []
    if len(set(names)) == 1:
        return names[:1]
    if len(names) == 2 and {*LABELS} & {*PurePosixPath(parts[1]).parts}:  # both names may have images
        return None
    if images == names:
        return names
    if len(names) == 2 and images == names[:1] and (parts[1] != names[1] or files.label_or_none(names[1])):
        return None
    basename = PurePosixPath(whole).name
    if separator in (",", ";"):
        return names
    return [basename if files.has_image(basename) else whole]
