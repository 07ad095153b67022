"""Interleaved timings of several variants in one process, and a description of the machine.

The speed of a machine drifts. Interleaved variants drift alike, so the ratio of their medians is stable; the first
variant is the reference.
"""

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor
from tqdm import tqdm

from walkthrough.records.environment import gpu_environment, processor


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


class Variant:
    """One way to train; a call takes ``steps`` steps. On a GPU it measures its own memory, without the other variants'.

    ``peak_memory`` is in bytes, weights included: the largest of all calls but the first, in which cuDNN still tries
    algorithms; None on the CPU.
    """

    def __init__(self, make: Callable[[], Callable[[], Tensor]], steps: int, device: str):
        self.steps, self.device = steps, device
        before = self._allocated()
        self.step = make()
        self._own = self._allocated() - before
        self.first_loss = math.nan
        self.peak_memory: int | None = None

    def __call__(self) -> None:
        before = self._allocated()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(self.steps):
            loss = self.step()
            if math.isnan(self.first_loss):
                self.first_loss = loss.item()
        if self.device != "cuda":
            return
        torch.cuda.synchronize()
        if self.peak_memory is None:
            self._own += self._allocated() - before  # momentum and gradients
            self.peak_memory = 0
        else:
            others = before - self._own
            self.peak_memory = max(self.peak_memory, torch.cuda.max_memory_allocated() - others)

    def _allocated(self) -> int:
        return torch.cuda.memory_allocated() if self.device == "cuda" else 0


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
    """Name of the CPU or GPU, threads, versions of Python and of the installed ``packages``; state of the GPU."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: found for package in packages if (found := _version(package)) is not None},
        **(gpu_environment() if device == "cuda" else {}),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
