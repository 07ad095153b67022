"""Writes an export in VOC's layout: images, labels, lists, and a profile that trains on them.

``import.json`` is written first, with a hash of the settings and of the annotation files: while it stays the same,
labels that are newer than it are not drawn again, so the same command goes on where it was interrupted.
"""

import hashlib
import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deeplabv3.config import VOID
from deeplabv3.data.lists import IMAGES, LABELS
from deeplabv3.data.reading import UNREADABLE, conversion, image_size, read_label
from deeplabv3.data.voc import palette_png
from deeplabv3.errors import UserError, attempt
from deeplabv3.files import abandoned, atomic_path, write_atomically
from walkthrough.datasets.importing import lists
from walkthrough.datasets.importing.export import BACKGROUND, Export, Item, Settings
from walkthrough.datasets.progress import in_threads

STATE = "import.json"
LISTS = "ImageSets/Segmentation"


@dataclass
class Account:
    """Account of every image of an export: imported, empty or left out."""

    lists: dict[str, list[str]] = field(default_factory=dict)
    about_lists: str = ""
    files: Counter[str] = field(default_factory=Counter)  # linked, copied, kept; drawn
    sizes: list[tuple[int, int]] = field(default_factory=list)  # width and height of the imported images
    empty: int = 0  # of the imported images, those without an object
    skipped: int = 0  # images that are left out: without an object, or with too few pixels of them


@dataclass(frozen=True)
class _Done:
    """An image that is written."""

    size: tuple[int, int]
    how: str  # linked, copied or kept
    drawn: bool
    empty: bool
    pixels: int  # of objects


def refuse_target(target: Path, settings: Settings, split: lists.Split) -> None:
    """Raise a :class:`UserError` for a target that cannot be written, or whose images and lists would suffer."""
    for folder in (target, *target.parents):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"target {target} cannot be made: {folder} is a file; name a folder.")
    for source in (settings.source, settings.images):
        place = None if source is None else (source if source.is_dir() else source.parent).resolve()
        if place and (target.resolve() == place or place in target.resolve().parents):
            raise UserError(f"target {target} lies in {place}, whose images are imported; name a folder beside it.")
    if (target / IMAGES).exists() and not (target / STATE).is_file():
        raise UserError(f"{target} is a data set already, and not from an import; name another folder.")
    before = _list_options(target)
    if before not in (None, split.options()) and (target / LISTS).is_dir():
        raise UserError(
            f"the lists of {target} were made with {before or 'no list options'}, and this import has "
            f"{split.options() or 'none'}; give the same ones, or delete {target / LISTS} to make other lists."
        )


def _list_options(target: Path) -> str | None:
    """The list options of the import before; None where none is known."""
    try:
        return json.loads((target / STATE).read_text(encoding="utf-8"))["lists"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(export: Export, target: Path, settings: Settings, split: lists.Split, copy: bool = False) -> Account:
    """Write an export; images that cannot be imported are added to ``export.refused``.

    Args:
        export: images, labels and classes
        target: folder, made if it is not there
        settings: what the import was told
        split: how lists are drawn
        copy: copy images instead of making hard links
    """
    items = _unique(export)
    if items:
        lists.draw(items, split)  # an error of --group-by comes before anything is written
    for leftover in (path for folder in (target, *target.rglob("*/")) for path in abandoned(folder)):
        leftover.unlink(missing_ok=True)
    began = _begin(export, target, settings, split)

    def work(item: Item) -> tuple[_Done | None, str]:
        return attempt(_write_item, item, target, began, copy, export.classes.get(BACKGROUND) == "background")

    results = in_threads("importing", work, items)
    account, imported = Account(), []
    for item, (done, error) in zip(items, results, strict=True):
        if done is None:
            export.refused[str(item.image)] = error
        elif (done.empty and settings.skip_empty) or done.pixels < settings.min_pixels:
            account.skipped += 1
        else:
            imported.append(item)
            account.sizes.append(done.size)
            account.files.update([done.how, "drawn" if done.drawn else "there"])
            account.empty += done.empty
    if not imported:
        reason = next(iter(export.refused.values()), "all images have too few pixels of objects")
        raise UserError(f"none of {len(items):,} images can be imported; the first: {reason}")
    try:
        account.lists, account.about_lists = lists.draw(imported, split)
    except UserError as error:
        refused = [f"{image}: {reason}" for image, reason in export.refused.items()]
        raise UserError("\n".join([str(error), *refused])) from error
    for name in ("train", "val", "trainval", "test", lists.TRAINVAL_COARSE):
        path = target / LISTS / f"{name}.txt"
        if name in account.lists:
            write_atomically(path, "".join(f"{image}\n" for image in account.lists[name]))
        else:
            path.unlink(missing_ok=True)
    return account


def _begin(export: Export, target: Path, settings: Settings, split: lists.Split) -> int:
    """Write ``import.json`` unless it is there with the same content; return its time of change in nanoseconds."""
    digest = hashlib.sha256(repr((settings, sorted(export.classes.items()))).encode())
    for path in export.annotations:
        found = path.stat()
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    state = {
        "source": str(settings.source),
        "classes": export.classes,
        "lists": split.options(),
        "settings": digest.hexdigest(),
    }
    text, path = json.dumps(state, indent=2) + "\n", target / STATE
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)
    return path.stat().st_mtime_ns


def _unique(export: Export) -> list[Item]:
    """Items of different names; another image of a name is refused."""
    items: dict[str, Item] = {}
    for item in export.items:
        if item.image.suffix.lower() in UNREADABLE:
            export.refused[str(item.image)] = f"cannot be read; {conversion(item.image)}"
        elif item.name != item.name.strip() or len(item.name.splitlines()) > 1:
            export.refused[str(item.image)] = "has a name that begins or ends with a space, or has two lines; rename it"
        elif item.name in items:
            export.refused[str(item.image)] = f"has the name of {items[item.name].image}; rename one of them"
        else:
            items[item.name] = item
    return list(items.values())


def _write_item(item: Item, target: Path, began: int, copy: bool, has_background: bool) -> _Done:
    """Put an image and its label into place; what is there already stays."""
    size = image_size(item.image)
    path = target / LABELS[0] / f"{item.name}.png"
    label = None
    if path.is_file() and path.stat().st_mtime_ns >= began:
        label = attempt(read_label, path)[0]
    is_there = label is not None and label.shape == size[::-1]
    if label is None or not is_there:
        try:
            label = item.label(size)
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise UserError(f"its annotations are damaged ({error!r}); export it again.") from error
        with atomic_path(path) as partial:  # not synchronized with the disk: there are thousands
            partial.write_bytes(palette_png(label))
    how = _place(item.image.resolve(), target / IMAGES / f"{item.name}{item.image.suffix}", copy)
    no_objects = (BACKGROUND, VOID) if has_background else (VOID,)
    pixels = label.size - int(np.isin(label, no_objects).sum())
    return _Done(size, how, not is_there, has_background and not np.any(label), pixels)


def _place(image: Path, path: Path, copy: bool) -> str:
    """Make ``path`` a hard link to ``image``, or a copy on another file system; say which."""
    if path.exists():
        there, here = path.stat(), image.stat()
        same = (there.st_size, there.st_mtime_ns) == (here.st_size, here.st_mtime_ns)
        if same and not (copy and path.samefile(image)):
            return "kept"
    with atomic_path(path) as partial:
        if not copy:
            try:
                os.link(image, partial)
                return "linked"
            except OSError:  # another file system, or one without hard links
                pass
        shutil.copy2(image, partial)
    return "copied"
