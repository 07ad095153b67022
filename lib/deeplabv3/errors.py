"""The one exception for mistakes that a user can make and mend."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """One clear sentence that names the file or setting at fault and the remedy.

    The command line prints it and exits with code 1; everything else is a defect and keeps its traceback.
    """


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """What is written within goes to ``target``; that the disk is full, or not ours, is the user's to mend."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error}); make room there or name another place, and give the same command "
            "again."
        ) from error


def require(fits: bool, setting: str, value: Any, wanted: str) -> None:
    """Refuse a setting's value in the words that all settings share."""
    if not fits:
        raise UserError(f"setting {setting!r} is {value!r}; it takes {wanted}.")


def require_scales(scales: tuple, setting: str = "scales") -> None:
    """Scales of pictures: at least one, each a number above 0 and below 100."""
    fits = bool(scales) and all(isinstance(scale, (int, float)) and 0 < scale < 100 for scale in scales)
    require(fits, setting, scales, "a list of numbers above 0 and below 100")
