"""Interleaved timings of several variants in one process, and a description of the machine.

The speed of a machine drifts. Interleaved variants drift alike, so the ratio of their medians is stable; the first
variant is the reference.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch
from tqdm import tqdm


@dataclass
class Timing:
    """Times of one variant."""

    name: str
    first: float = 0.0  # seconds of the first call, which may compile
    seconds: list[float] = field(default_factory=list)  # of each round after it
    difference: float | None = None  # largest difference of its logits from the reference's; None: not comparable

    @property
    def median(self) -> float:
        """Median of ``seconds``."""
        return statistics.median(self.seconds)

    def as_json(self, reference: "Timing") -> dict:
        """The times as JSON values, with the ratio of the median to the reference's."""
        ratio = self.median / reference.median
        return {"name": self.name, "median": self.median, "ratio": ratio, "first": self.first,
                "difference": self.difference, "seconds": self.seconds}  # fmt: skip


def clock(device: str) -> float:
    """Return the time in seconds after the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def time_interleaved(
    title: str, variants: Mapping[str, Callable[[], object]], rounds: int, device: str
) -> list[Timing]:
    """Call each variant once, then all of them ``rounds`` times in their order; the time of every call."""
    timings = [Timing(name) for name in variants]
    calls = [timing for _ in range(rounds + 1) for timing in timings]
    for number, timing in enumerate(tqdm(calls, desc=title, unit="call", disable=None)):
        start = clock(device)
        variants[timing.name]()
        seconds = clock(device) - start
        if number < len(timings):
            timing.first = seconds
        else:
            timing.seconds.append(seconds)
    return timings


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Set the number of PyTorch's threads for the block; 0 leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine(device: str, packages: Sequence[str]) -> dict:
    """Name of the CPU or GPU, number of threads, versions of Python and of the installed ones of ``packages``."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: found for package in packages if (found := _version(package)) is not None},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
