"""Check of a data set in VOC's layout, before hours are spent on it: lists, files, sizes, label values, classes.

Every image and label of every list is decoded once; the result is one line for each question.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplabv3 import config
from deeplabv3.data import voc
from deeplabv3.errors import attempt

DISJOINT = (("train", "val"), ("trainaug", "val"), ("train", "test"), ("trainaug", "test"), ("val", "test"))
"""Lists that must share no image: SBD's own train list holds images of VOC's val list."""

MAX_NAMED = 10
"""Number of files that are named where many have the same fault."""

_COLORS = voc.palette()


@dataclass(frozen=True)
class Line:
    """One result. ``error``: training or evaluation would fail or give wrong numbers; ``warning``: tolerated."""

    level: Literal["ok", "warning", "error"]
    text: str


@dataclass(frozen=True)
class Label:
    """A decoded label."""

    name: str
    size: tuple[int, int]  # width, height
    counts: np.ndarray  # (256,) int64, pixels of each value
    palette: str  # "VOC's", "gray" or "another", judged by the values that occur


def check(
    root: Path | str, classes: Mapping[int, str], unlisted_labels: str = "error", used: tuple[str, str] | None = None
) -> Iterator[Line]:
    """Yield one line for each question, first those that need no decoding.

    ``classes`` maps label values to names, ``unlisted_labels`` is ``"ignore"`` where other values count as void, and
    ``used`` names the lists for training and evaluation, which have to be there.
    """
    root = voc.find_root(root)
    lists: dict[str, list[str]] = {}
    for list_name in sorted({path.stem for path in (root / "ImageSets/Segmentation").glob("*.txt")} | set(used or ())):
        names, error = attempt(voc.read_list, root, list_name)
        if names is None:
            yield Line("error", error)
        else:
            lists[list_name] = names
    if not lists:
        yield Line("error", f"{root}/ImageSets/Segmentation has no list; write one image name a line into train.txt.")
        return
    # Stage 2 trains on trainval, with val in it, and is for the test set.
    disjoint = DISJOINT if used is None or used in DISJOINT or used[0] == "trainval" else (*DISJOINT, used)
    of_voc = classes.items() <= dict(enumerate(config.VOC_CLASSES)).items()
    yield from (_list_line(list_name, names, of_voc) for list_name, names in lists.items())
    yield from (_overlap_line(lists, *pair) for pair in disjoint if set(pair) <= lists.keys())
    yield from _file_lines(root, lists, classes, unlisted_labels)


def _list_line(list_name: str, names: list[str], of_voc: bool) -> Line:
    duplicates = len(names) - len(set(names))
    repeated = f", {duplicates:,} of them again" if duplicates else ""
    known = voc.VOC_COUNTS.get(list_name) if of_voc else None
    as_voc = "" if known is None else ", as in VOC 2012" if known == len(names) else f" (in VOC 2012: {known:,})"
    unusual = duplicates or known not in (None, len(names))
    return Line("warning" if unusual else "ok", f"list {list_name}: {len(names):,} names{repeated}{as_voc}")


def _overlap_line(lists: dict[str, list[str]], one: str, other: str) -> Line:
    shared = sorted(set(lists[one]) & set(lists[other]))
    if not shared:
        return Line("ok", f"lists {one} and {other} share no image")
    return Line("error", f"lists {one} and {other} share {_named(shared, 'image')}")


def _file_lines(
    root: Path, lists: dict[str, list[str]], classes: Mapping[int, str], unlisted_labels: str
) -> Iterator[Line]:
    sizes, labels, errors = _decode(root, lists)
    yield from (Line("error", error) for error in errors[:MAX_NAMED])
    if len(errors) > MAX_NAMED:
        yield Line("error", f"{len(errors) - MAX_NAMED:,} more files are missing or cannot be read")
    if not (sizes and labels):
        yield Line("error", f"{len(sizes):,} images and {len(labels):,} labels can be read")
        return
    wide, high = (f"{min(lengths)} to {max(lengths)}" for lengths in zip(*sizes.values(), strict=True))
    yield Line("ok", f"{len(sizes):,} images, {wide} pixels wide, {high} high")
    yield _size_line(labels, sizes)
    yield _value_line(labels, classes, unlisted_labels)
    yield _palette_line(labels)
    yield from _class_lines(labels, classes)


def _decode(root: Path, lists: dict[str, list[str]]) -> tuple[dict[str, tuple[int, int]], list[Label], list[str]]:
    """Decode each image of the lists and its label; return the images' sizes by name, the labels, and the errors.

    Images that are in VOC's list ``test`` alone have no labels.
    """
    list_names = {name: list_name for list_name, names in lists.items() for name in names}
    labeled = {name for list_name, names in lists.items() if list_name != "test" for name in names}

    def decode(name: str) -> tuple[tuple[int, int] | None, Label | None, list[str]]:
        size, image_error = attempt(_image_size, root, name, list_names[name])
        label, label_error = attempt(_label, root, name, list_names[name]) if name in labeled else (None, "")
        return size, label, [error for error in (image_error, label_error) if error]

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        decoded = threads.map(decode, list_names)
        found = list(tqdm(decoded, total=len(list_names), desc="checking", unit="image", disable=None, leave=False))
    sizes = {name: size for name, (size, _, _) in zip(list_names, found, strict=True) if size}
    labels = [label for _, label, _ in found if label]
    return sizes, labels, [error for _, _, errors in found for error in errors]


def _image_size(root: Path, name: str, list_name: str) -> tuple[int, int]:
    """Decode an image; return its width and height."""
    path = voc.image_path(root, name, list_name)
    with voc.readable(path), Image.open(path) as image:
        size = image.size
        image.draft("L", (1, 1))  # an eighth of the pixels: all of the file is read, most of the work saved
        image.load()
        return size


def _label(root: Path, name: str, list_name: str) -> Label:
    label = voc.open_label(voc.label_path(root, name, list_name))
    counts = np.array(label.histogram(), dtype=np.int64)
    if label.mode == "L":
        return Label(name, label.size, counts, "gray")
    values = np.flatnonzero(counts)
    colors = np.array(label.getpalette(), dtype=np.uint8).reshape(-1, 3)
    same = values[-1] < len(colors) and (colors[values] == _COLORS[values]).all()
    return Label(name, label.size, counts, "VOC's" if same else "another")


def _size_line(labels: list[Label], sizes: dict[str, tuple[int, int]]) -> Line:
    unequal = [label for label in labels if label.size != sizes.get(label.name, label.size)]
    if not unequal:
        return Line("ok", f"{len(labels):,} labels, each of its image's size")
    first, image_size = unequal[0].size, sizes[unequal[0].name]
    example = f"{first[0]} x {first[1]} for an image of {image_size[0]} x {image_size[1]}"
    names = _named([label.name for label in unequal], "label")
    return Line("error", f"another size than its image's: {names}; the first is {example}")


def _value_line(labels: list[Label], classes: Mapping[int, str], unlisted_labels: str) -> Line:
    unlisted = ~np.isin(np.arange(256), [*classes, config.VOID])
    found = [label for label in labels if label.counts[unlisted].any()]
    if not found:
        return Line("ok", f"label values are those of the {len(classes)} classes and {config.VOID}")
    values = np.flatnonzero(np.sum([label.counts for label in found], axis=0) * unlisted)
    text = f"values outside the {len(classes)} classes ({', '.join(map(str, values))})"
    if unlisted_labels == "ignore":
        return Line("warning", f"{text} in {len(found):,} labels, read as void")
    return Line("error", f"{text} in {_named([label.name for label in found], 'label')}")


def _palette_line(labels: list[Label]) -> Line:
    palettes = Counter(label.palette for label in labels)
    if palettes.keys() == {"VOC's"}:
        return Line("ok", "palette: VOC's")
    found = ", ".join(f"{palette} in {number:,}" for palette, number in palettes.most_common())
    example = next((f" (such as {label.name})" for label in labels if label.palette == "another"), "")
    return Line("warning", f"palette: {found} labels{example}; only the numbers count")


def _class_lines(labels: list[Label], classes: Mapping[int, str]) -> Iterator[Line]:
    """Share of each class in the pixels that are not void, and of void in all pixels."""
    counts = np.stack([label.counts for label in labels])  # (labels, 256)
    pixels, images = counts.sum(axis=0), (counts > 0).sum(axis=0)
    counted = max(1, sum(int(pixels[value]) for value in classes))
    width = max(map(len, classes.values()))
    for value, name in classes.items():
        share = f"{100 * pixels[value] / counted:6.2f} % of the pixels, in {images[value]:6,} images"
        yield Line("ok" if images[value] else "warning", f"class {value:3} {name:<{width}} {share}")
    void = 100 * (1 - counted / pixels.sum())
    yield Line("ok", f"void      {'':<{width}} {void:6.2f} % of all pixels")


def _named(names: list[str], what: str) -> str:
    """Text such as ``3 labels (a, b, c)``, with the first few names."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"{len(names):,} {what}{'s' * (len(names) > 1)} ({', '.join(names[:MAX_NAMED])}{more})"
