"""Looks at a data set in VOC's layout before hours are spent on it: lists, files, sizes, label values, classes.

Every image and label of every list is decoded once; the result is one line for each question.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplabv3 import config
from deeplabv3.data import voc
from deeplabv3.errors import UserError

OVERLAPS = (("train", "val"), ("trainaug", "val"), ("train", "test"), ("trainaug", "test"), ("val", "test"))
"""Lists that must share no image: SBD's own train list holds images of VOC's val list."""

NAMED = 10
"""So many files are named where many have the same fault."""

_COLORS = voc.palette()


@dataclass(frozen=True)
class Line:
    """An answer. ``wrong`` is what training or evaluation would stop at or be falsified by, ``note`` what they bear."""

    mark: Literal["ok", "note", "wrong"]
    text: str


@dataclass
class Examined:
    """What a image and its label are: sizes are width x height, ``counts`` the pixels of each value ``(256,)``."""

    name: str
    errors: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None
    label_size: tuple[int, int] | None = None
    counts: np.ndarray | None = None
    colors: str = ""


def check(
    root: Path | str, classes: Mapping[int, str], unlisted_labels: str = "error", used: tuple[str, str] | None = None
) -> Iterator[Line]:
    """One line for each question, first those that need no decoding.

    ``classes`` maps label values to names, ``others`` is ``"void"`` where other values count as void, and ``used``
    names the lists for training and evaluation, which have to be there.
    """
    root = voc.find_root(root)
    lists: dict[str, list[str]] = {}
    for name in sorted({path.stem for path in (root / "ImageSets" / "Segmentation").glob("*.txt")} | set(used or ())):
        try:
            lists[name] = voc.read_list(root, name)
        except UserError as error:
            yield Line("wrong", str(error))
    if not lists:
        yield Line("wrong", f"{root}/ImageSets/Segmentation has no list; write one image name a line into train.txt.")
        return
    # Stage 2 trains on trainval, with val in it, and is for the test set.
    apart = OVERLAPS if used in (None, *OVERLAPS) or used[0] == "trainval" else (*OVERLAPS, used)
    of_voc = classes.items() <= dict(enumerate(config.VOC_CLASSES)).items()
    yield from (_list_line(name, names, of_voc) for name, names in lists.items())
    yield from (_overlap_line(lists, *pair) for pair in apart if set(pair) <= lists.keys())
    yield from _file_lines(examine(root, lists), dict(classes), unlisted_labels)


def _list_line(name: str, names: list[str], of_voc: bool) -> Line:
    repeated = len(names) - len(set(names))
    again = f", {repeated:,} of them again" if repeated else ""
    known = voc.VOC_COUNTS.get(name) if of_voc else None
    as_voc = "" if known is None else ", as in VOC 2012" if known == len(names) else f" (in VOC 2012: {known:,})"
    mark = "note" if repeated or known not in (None, len(names)) else "ok"
    return Line(mark, f"list {name}: {len(names):,} names{again}{as_voc}")


def _overlap_line(lists: dict[str, list[str]], one: str, other: str) -> Line:
    shared = sorted(set(lists[one]) & set(lists[other]))
    if not shared:
        return Line("ok", f"lists {one} and {other} share no image")
    return Line("wrong", f"lists {one} and {other} share {_named(shared, 'image')}")


def examine(root: Path, lists: dict[str, list[str]]) -> list[Examined]:
    """Every image of every list, once, and its label, which only VOC's list ``test`` does not have."""
    home = {name: list_name for list_name, names in lists.items() for name in names}
    labeled = {name for list_name, names in lists.items() if list_name != "test" for name in names}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(lambda name: _examine(root, name, home[name], name in labeled), home)
        return list(tqdm(found, total=len(home), desc="looking at", unit="image", disable=None, leave=False))


def _examine(root: Path, name: str, list_name: str, labeled: bool) -> Examined:
    found = Examined(name)
    try:
        path = voc.image_path(root, name, list_name)
        with voc.readable(path), Image.open(path) as image:
            found.size = image.size
            image.draft("L", (1, 1))  # an eighth of the pixels: all of the file is read, most of the work saved
            image.load()
    except UserError as error:
        found.errors.append(str(error))
    if labeled:
        try:
            label = voc.open_label(voc.label_path(root, name, list_name))
            found.label_size, found.counts = label.size, np.array(label.histogram(), dtype=np.int64)
            found.colors = _colors_of(label, np.flatnonzero(found.counts))
        except UserError as error:
            found.errors.append(str(error))
    return found


def _colors_of(label: Image.Image, values: np.ndarray) -> str:
    """Whose palette a label is in, judged by the values that occur."""
    if label.mode == "L":
        return "gray"
    own = np.array(label.getpalette(), dtype=np.uint8).reshape(-1, 3)
    same = values[-1] < len(own) and (own[values] == _COLORS[values]).all()
    return "VOC's" if same else "another"


def _file_lines(files: list[Examined], classes: dict[int, str], unlisted_labels: str) -> Iterator[Line]:
    errors = [error for file in files for error in file.errors]
    for error in errors[:NAMED]:
        yield Line("wrong", error)
    if len(errors) > NAMED:
        yield Line("wrong", f"{len(errors) - NAMED:,} more files are missing or cannot be read")
    sizes = [file.size for file in files if file.size]
    labels = [file for file in files if file.counts is not None]
    if not (sizes and labels):
        yield Line("wrong", f"{len(sizes):,} images and {len(labels):,} labels can be read")
        return
    widths, heights = ((min(found), max(found)) for found in zip(*sizes, strict=True))
    yield Line(
        "ok", f"{len(sizes):,} images, {'{} to {}'.format(*widths)} pixels wide, {'{} to {}'.format(*heights)} high"
    )
    yield _size_line([file for file in labels if file.size and file.size != file.label_size], len(labels))
    yield _value_line(labels, classes, unlisted_labels)
    yield _palette_line(labels)
    yield from _class_lines(labels, classes)


def _size_line(unequal: list[Examined], total: int) -> Line:
    if not unequal:
        return Line("ok", f"{total:,} labels, each of its image's size")
    first = unequal[0]
    example = f"{first.label_size[0]} x {first.label_size[1]} for a image of {first.size[0]} x {first.size[1]}"
    names = _named([file.name for file in unequal], "label")
    return Line("wrong", f"another size than its image's: {names}; the first is {example}")


def _value_line(labels: list[Examined], classes: dict[int, str], unlisted_labels: str) -> Line:
    known = np.isin(np.arange(256), [*classes, config.VOID])
    strange = [file for file in labels if file.counts[~known].any()]
    if not strange:
        return Line("ok", f"label values are those of the {len(classes)} classes and {config.VOID}")
    values = np.flatnonzero(sum(file.counts for file in strange) * ~known)
    told = f"values outside the {len(classes)} classes ({', '.join(map(str, values))})"
    if unlisted_labels == "void":
        return Line("note", f"{told} in {len(strange):,} labels, read as void")
    return Line("wrong", f"{told} in {_named([file.name for file in strange], 'label')}")


def _palette_line(labels: list[Examined]) -> Line:
    kinds = Counter(file.colors for file in labels)
    if kinds.keys() == {"VOC's"}:
        return Line("ok", "palette: VOC's")
    found = ", ".join(f"{kind} in {number:,}" for kind, number in kinds.most_common())
    example = next((f" (such as {file.name})" for file in labels if file.colors == "another"), "")
    return Line("note", f"palette: {found} labels{example}; only the numbers count")


def _class_lines(labels: list[Examined], classes: dict[int, str]) -> Iterator[Line]:
    """Each class's share of the pixels that count, and void's share of all."""
    pixels = sum(file.counts for file in labels)
    images = sum((file.counts > 0).astype(int) for file in labels)
    counted = max(1, sum(int(pixels[value]) for value in classes))
    width = max(map(len, classes.values()))
    for value, name in classes.items():
        share = f"{100 * pixels[value] / counted:6.2f} % of the pixels, in {images[value]:6,} images"
        yield Line("ok" if images[value] else "note", f"class {value:3} {name:<{width}} {share}")
    void = 100 * (1 - counted / pixels.sum())
    yield Line("ok", f"void      {'':<{width}} {void:6.2f} % of all pixels")


def _named(names: list[str], what: str) -> str:
    """``3 labels (a, b, c)``, the first few by name."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"{len(names):,} {what}{'s' * (len(names) > 1)} ({', '.join(names[:NAMED])}{more})"
