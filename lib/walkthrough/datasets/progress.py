"""Work on many files at once, with a progress bar."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

from deeplabv3.machine import available_cpus

T = TypeVar("T")
R = TypeVar("R")


def in_threads(title: str, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``work`` of each item, in order. An interruption leaves what has not begun undone."""
    pool = ThreadPoolExecutor(available_cpus())
    try:
        results = pool.map(work, items)
        return list(tqdm(results, total=len(items), desc=title, unit="image", disable=None, leave=False))
    finally:
        pool.shutdown(cancel_futures=True)
