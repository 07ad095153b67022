"""Check of a data set in VOC's layout, before hours are spent on it: lists, files, sizes, label values, classes.

Every image and label of every list is decoded once; the result is one line for each question.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from deeplabv3 import config
from deeplabv3.data import lists as voc_lists
from deeplabv3.data import reading, voc
from deeplabv3.errors import attempt
from walkthrough.datasets.progress import in_threads
from walkthrough.datasets.propose import propose
from walkthrough.datasets.survey import LabelSurvey, without_repeated_hints

DISJOINT = (("train", "val"), ("trainaug", "val"), ("train", "test"), ("trainaug", "test"), ("val", "test"))
"""Lists that must share no image: SBD's own train list holds images of VOC's val list."""

MAX_NAMED = 10
"""Number of files that are named where many have the same fault."""

DARK = 1 << 14
"""Range of gray values below which 16-bit images are nearly of one gray once they are read as 8 bits."""

_COLORS = reading.palette()


@dataclass(frozen=True)
class Line:
    """One result. ``error``: training or evaluation would fail or give wrong numbers; ``warning``: tolerated."""

    level: Literal["ok", "warning", "error"]
    text: str


@dataclass(frozen=True)
class Picture:
    """A decoded image."""

    name: str
    size: tuple[int, int]  # width, height, as viewers show it
    orientation: int  # 1 unless an EXIF entry turns it
    range_16_bits: tuple[int, int] | None  # its lowest and highest gray value, of an image of 16 bits


@dataclass(frozen=True)
class Label:
    """A decoded label."""

    name: str
    path: Path
    size: tuple[int, int]  # width, height
    counts: np.ndarray  # (256,) int64, pixels of each value
    colors: np.ndarray | None  # (n, 3) uint8, None if it is gray

    def palette(self) -> str:
        """``VOC's``, ``gray`` or ``another``, judged by the values that occur."""
        if self.colors is None:
            return "gray"
        values = np.flatnonzero(self.counts)
        same = values[-1] < len(self.colors) and (self.colors[values] == _COLORS[values]).all()
        return "VOC's" if same else "another"


def check(
    root: Path | str,
    classes: Mapping[int, str],
    unlisted_labels: str = "error",
    used: tuple[str, str] | None = None,
    void: int = config.VOID,
) -> Iterator[Line]:
    """Yield one line for each question, first those that need no decoding.

    Args:
        root: folder in VOC's layout
        classes: label values and their names
        unlisted_labels: ``"ignore"`` where other values count as void
        used: the lists for training and evaluation, which have to be there; faults of others are warnings then
        void: label value without a class
    """
    root = voc.find_root(root)
    lists: dict[str, list[str]] = {}
    for list_name in sorted({*voc_lists.list_names(root), *(used or ())}):
        names, error = attempt(voc.read_list, root, list_name)
        if names is None:
            yield Line("error" if used is None or list_name in used else "warning", error)
        else:
            lists[list_name] = names
    if not lists:
        yield Line("error", f"{root}/ImageSets/Segmentation has no list; write one image name a line into train.txt.")
        return
    # Stage 2 trains on trainval, with val in it, and is for the test set.
    disjoint = DISJOINT if used is None or used in DISJOINT or used[0] == "trainval" else (*DISJOINT, used)
    of_voc = classes.items() <= dict(enumerate(config.VOC_CLASSES)).items()
    yield from (_list_line(list_name, names, of_voc) for list_name, names in lists.items())
    for pair in disjoint:
        if set(pair) <= lists.keys():
            yield _leveled(_overlap_line(lists, *pair), used is None or set(pair) <= {*used})
    pictures, every_label, errors = _decode(root, lists, used or ())
    if used:
        lists = {list_name: names for list_name, names in lists.items() if list_name in used}
    needed = {name for names in lists.values() for name in names}
    for is_needed in (True, False):
        yield from _error_lines([error for name, error in errors if (name in needed) == is_needed], is_needed)
    labels = {name: label for name, label in every_label.items() if name in needed}
    if not (pictures and labels):
        yield Line("error", f"{len(pictures):,} images and {len(labels):,} labels can be read")
        return
    yield from _image_lines(list(pictures.values()))
    if trained := lists.get(used[0] if used else "train"):
        fitting = propose([picture.size for picture in pictures.values()], len(trained))
        settings = ", ".join(f"{name}: {value}" for name, value in fitting.items())
        yield Line("ok", f"training that fits them, with MobileNetV2 on this machine: {{{settings}}}")
    yield _size_line(labels, pictures)
    yield _value_line(list(labels.values()), classes, unlisted_labels, void)
    yield _palette_line(list(labels.values()))
    yield from _class_lines(list(labels.values()), classes)
    yield from _survey_lines(labels, lists, classes, void, used)
    if others := {name: label for name, label in every_label.items() if name not in needed}:
        lines = (_size_line(others, pictures), _value_line(list(others.values()), classes, unlisted_labels, void))
        yield from (_leveled(line, False) for line in lines if line.level == "error")


def _leveled(line: Line, is_used: bool) -> Line:
    """The line; an error of lists that the profile does not use is a warning."""
    return line if is_used or line.level != "error" else Line("warning", f"not used by the profile: {line.text}")


def _error_lines(errors: list[str], is_used: bool) -> Iterator[Line]:
    """Lines on files that are missing or cannot be read, the first of them by name."""
    level: Literal["error", "warning"] = "error" if is_used else "warning"
    yield from (Line(level, error) for error in without_repeated_hints(errors[:MAX_NAMED]))
    if len(errors) > MAX_NAMED:
        yield Line(level, f"{len(errors) - MAX_NAMED:,} more files are missing or cannot be read")


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


def _decode(
    root: Path, lists: dict[str, list[str]], used: Sequence[str]
) -> tuple[dict[str, Picture], dict[str, Label], list[tuple[str, str]]]:
    """Decode each image of the lists and its label; return both by name, and errors with their names.

    Images that are in a list ``test`` alone, which is not used, may do without labels.
    """
    list_names = {name: list_name for list_name, names in lists.items() for name in names}
    labeled = {name for list_name, names in lists.items() if list_name != "test" or "test" in used for name in names}
    files = voc_lists.Files(root)

    def decode(name: str) -> tuple[Picture | None, Label | None, list[str]]:
        picture, image_error = attempt(_picture, files, name, list_names[name])
        needed = name in labeled or files.label_or_none(name)
        label, label_error = attempt(_label, files, name, list_names[name]) if needed else (None, "")
        return picture, label, [error for error in (image_error, label_error) if error]

    found = in_threads("checking", decode, list(list_names))
    pictures = {picture.name: picture for picture, _, _ in found if picture}
    labels = {label.name: label for _, label, _ in found if label}
    errors = [(name, error) for name, (_, _, errors) in zip(list_names, found, strict=True) for error in errors]
    return pictures, labels, errors


def _picture(files: voc_lists.Files, name: str, list_name: str) -> Picture:
    path = files.image(name, list_name)
    with reading.readable(path), Image.open(path) as image:
        size, orientation, values = reading.turned_size(image), reading.orientation(image), None
        if image.format == "JPEG":
            image.draft("L", (1, 1))  # an eighth of the pixels: all of the file is read, most of the work saved
            image.load()
        else:
            reading.read_image(path)
        if image.mode.startswith("I"):
            pixels = np.asarray(image)
            values = int(pixels.min()), int(pixels.max())
    return Picture(name, size, orientation, values)


def _label(files: voc_lists.Files, name: str, list_name: str) -> Label:
    path = files.label(name, list_name)
    values, colors = reading.read_label_and_colors(path)
    counts = np.array(Image.fromarray(values).histogram(), dtype=np.int64)
    return Label(name, path, values.shape[::-1], counts, colors)


def _image_lines(pictures: list[Picture]) -> Iterator[Line]:
    extremes = ((min(sides), max(sides)) for sides in zip(*(one.size for one in pictures), strict=True))
    width, height = (f"{least} to {most}" if least < most else str(most) for least, most in extremes)
    yield Line("ok", f"{len(pictures):,} images, {width} pixels wide, {height} high")
    if turned := [picture.name for picture in pictures if picture.orientation != 1]:
        text = f"turned by an EXIF entry: {_named(turned, 'image')}; their labels must be turned as viewers show them"
        yield Line("warning", text)
    ranges = [picture.range_16_bits for picture in pictures if picture.range_16_bits]
    low, high = min((one[0] for one in ranges), default=0), max((one[1] for one in ranges), default=DARK)
    if high - low < DARK:
        yield Line(
            "warning",
            f"{len(ranges):,} images of 16 bits have values from {low:,} to {high:,} alone; read as value / 256, they "
            "are nearly of one gray: stretch them, all in the same way",
        )


def _size_line(labels: dict[str, Label], pictures: dict[str, Picture]) -> Line:
    unequal = [name for name in labels.keys() & pictures.keys() if labels[name].size != pictures[name].size]
    if not unequal:
        return Line("ok", f"{len(labels):,} labels, each of its image's size")
    first, image = labels[min(unequal)].size, pictures[min(unequal)]
    example = f"{first[0]} x {first[1]} for an image of {image.size[0]} x {image.size[1]}"
    if image.orientation > 4 and first == image.size[::-1]:
        example += (
            ", as its EXIF entry turns it; turn the label as well, or remove the entry: exiftool -Orientation= FILE"
        )
    return Line("error", f"another size than its image's: {_named(sorted(unequal), 'label')}; the first is {example}")


def _value_line(labels: list[Label], classes: Mapping[int, str], unlisted_labels: str, void: int) -> Line:
    unlisted = ~np.isin(np.arange(256), [*classes, void])
    found = [label for label in labels if label.counts[unlisted].any()]
    if not found:
        return Line("ok", f"label values are those of the {len(classes)} classes and {void}")
    values = np.flatnonzero(np.sum([label.counts for label in found], axis=0) * unlisted)
    text = f"values outside the {len(classes)} classes ({', '.join(map(str, values))})"
    if unlisted_labels == "ignore":
        return Line("warning", f"{text} in {len(found):,} labels, read as void")
    return Line("error", f"{text} in {_named([label.name for label in found], 'label')}")


def _palette_line(labels: list[Label]) -> Line:
    palettes = Counter(label.palette() for label in labels)
    if palettes.keys() == {"VOC's"}:
        return Line("ok", "palette: VOC's")
    found = ", ".join(f"{palette} in {number:,}" for palette, number in palettes.most_common())
    example = next((f" (such as {label.name})" for label in labels if label.palette() == "another"), "")
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


def _survey_lines(
    labels: dict[str, Label],
    lists: dict[str, list[str]],
    classes: Mapping[int, str],
    void: int,
    used: tuple[str, str] | None,
) -> Iterator[Line]:
    """Errors of what can be read and would make a result wrong, of each list and of all labels."""

    def survey(where: str, names: Iterable[str]) -> LabelSurvey:
        found = LabelSurvey(where, classes, void)
        for label in (labels[name] for name in dict.fromkeys(names) if name in labels):
            found.add(label.path, label.counts, label.colors)
        return found

    errors = []
    for list_name, names in lists.items():
        one = survey(f"list {list_name!r}", names)
        if one.labels and one.is_void():
            errors.append(one.void_error())
        elif used and list_name == used[0]:
            errors += one.class_errors()
    everything = survey("all lists", labels)
    errors += everything.color_errors() + ([] if used else everything.black_and_white_errors())
    yield from (Line("error", error) for error in errors)


def _named(names: list[str], what: str) -> str:
    """Text such as ``3 labels (a, b, c)``, with the first few names."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"{len(names):,} {what}{'s' * (len(names) > 1)} ({', '.join(names[:MAX_NAMED])}{more})"
