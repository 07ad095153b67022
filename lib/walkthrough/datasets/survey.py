"""Values of labels that can all be read, and errors for those that would make a result wrong."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from deeplabv3.config import VOC_CLASSES, VOID
from deeplabv3.data.reading import palette, python_line, read_label_and_colors
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from deeplabv3.machine import available_cpus

ENOUGH = 200
"""Labels that training looks at, and more until it has seen every class."""


LONG_HINT = 80
"""Letters of a remedy that is not repeated for every file."""


class LabelSurvey:
    """The values that occur in labels, and their colors; ``where`` is the labels' list in words."""

    def __init__(self, where: str, classes: Mapping[int, str], void: int = VOID):
        self.where, self.classes, self.void = where, classes, void
        self.labels, self._last = 0, Path()
        self._seen: set[int] = set()
        self._uses: dict[tuple[int, ...], tuple[int, str]] = {}  # color to its value and a label that shows it
        self._color_error = ""

    def add(self, path: Path, counts: np.ndarray, colors: np.ndarray | None) -> None:
        """Take in a label: the pixels of each value ``(256,)``, and its palette ``(n, 3)``, None if it is gray."""
        values, name = np.flatnonzero(counts).tolist(), path.name
        self.labels, self._last = self.labels + 1, path
        self._seen.update(values)
        shown = [] if colors is None else [(v, tuple(colors[v].tolist())) for v in values if v < len(colors)]
        if len(dict(shown)) > len({color for _, color in shown}):
            return  # several values of one color: the palette says nothing
        for value, color in shown:
            other, where = self._uses.setdefault(color, (value, name))
            if other != value:
                self._color_error = f"color {color} is value {other} in {where} and value {value} in {name}"
            elif value in self.classes and (named := self._voc_value(value, color)) is not None:
                self._color_error = f"value {value} ({self.classes[value]}) of {name} has VOC's color of {named}"

    def _voc_value(self, value: int, color: tuple[int, ...]) -> str | None:
        """The other of the classes whose color this is in VOC, where both have VOC's names and numbers."""
        voc = dict(enumerate(VOC_CLASSES))
        for other in self.classes.items() & voc.items():
            if other[0] != value and voc.get(value) == self.classes[value] and tuple(palette()[other[0]]) == color:
                return f"{other[0]} ({other[1]})"
        return None

    def missing(self) -> dict[int, str]:
        """The classes that do not occur."""
        return {value: name for value, name in self.classes.items() if value not in self._seen}

    def is_void(self) -> bool:
        """True if no pixel has a class."""
        return len(self.missing()) == len(self.classes)

    def color_errors(self) -> list[str]:
        """Colors that stand for other classes than their numbers, as after a conversion that numbers colors anew."""
        if not self._color_error:
            return []
        return [
            f"{self._color_error}, and only the numbers count; write the right ones, or, if they are right, save the "
            f"labels without colors: {python_line(self._last, 'a')}"
        ]

    def class_errors(self) -> list[str]:
        """Errors that keep a network from learning the classes."""
        missing = ", ".join(f"{value} ({name})" for value, name in self.missing().items())
        if self.is_void():
            return [self.void_error()]
        if not missing:
            return []
        return self.black_and_white_errors() or [
            f"{self.where} has no pixel of class {missing} in its {self.labels:,} labels; take it off 'data.classes', "
            "or add images that show it."
        ]

    def black_and_white_errors(self) -> list[str]:
        """The classes of black and white masks: the white one is void."""
        if not (self._seen == {0, self.void} == {0, 255} and self.missing()):
            return []
        value, name = next(iter(self.missing().items()))
        return [
            f"labels of {self.where} hold 0 and 255 alone, and 255 is void: class {value} ({name}) is never learned; "
            "give 255 a name in 'data.classes' and 'data.void' another value, such as 254, or write the class's value "
            f"into the labels: {python_line(self._last, f'np.uint8({value} * (a > 0))')}"
        ]

    def void_error(self) -> str:
        """Remedy for a list without a class."""
        return (
            f"{self.where} is void throughout: none of its pixels has a class; check its labels and the profile's "
            "classes."
        )


def without_repeated_hints(errors: Iterable[str]) -> list[str]:
    """Error sentences in which a long remedy, such as a line that converts a whole folder, is written once."""
    found, seen = [], set()
    for error in errors:
        what, _, hint = error.partition("; ")
        found.append(f"{what}; as above." if hint in seen else error)
        if len(hint) > LONG_HINT:
            seen.add(hint)
    return found


def require_learnable(data: VOCData) -> None:
    """Raise a :class:`UserError` if the labels of a training list do not show the classes.

    Most data sets show all of theirs in the first labels, and the others are not read.
    """
    survey = LabelSurvey(f"list {data.list_name!r}", data.classes, data.void)
    for path in data.label_files:
        values, colors = read_label_and_colors(path)
        survey.add(path, np.bincount(values.ravel(), minlength=256), colors)
        if survey.labels >= ENOUGH and not survey.missing():
            break
    if errors := survey.class_errors() + survey.color_errors():
        raise UserError(errors[0])


def require_labels(data: VOCData) -> None:
    """Raise a :class:`UserError` if a label of an evaluation list is damaged or of another size, or if all are void."""

    def has_class(index: int) -> bool:
        return bool((data.label(index) != VOID).any())

    with ThreadPoolExecutor(available_cpus()) as pool:
        if not any(list(pool.map(has_class, range(len(data))))):
            raise UserError(LabelSurvey(f"list {data.list_name!r}", {}).void_error())
