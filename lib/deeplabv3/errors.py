"""The one exception for mistakes that a user can make and mend."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class UserError(Exception):
    """One clear sentence that names the file or setting at fault and the remedy.

    The command line prints it and exits with code 1; everything else is a defect and keeps its traceback.
    """


def require(fits: bool, setting: str, value: Any, wanted: str) -> None:
    """Refuse a setting's value in the words that all settings share."""
    if not fits:
        raise UserError(f"setting {setting!r} is {value!r}; it takes {wanted}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error for want of memory; torch's are RuntimeErrors."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in str(error) for w in words))


def attempt(function: Callable[..., T], *args: Any) -> tuple[T | None, str]:
    """Call ``function``: return its result and an empty text, or None and the text of its :class:`UserError`."""
    try:
        return function(*args), ""
    except UserError as error:
        return None, str(error)
