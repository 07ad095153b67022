"""What every benchmark shares: variants that take turns in one process, and a description of the machine.

A machine's speed wanders; a ratio of two variants that alternate does not wander with it. So every figure is a median
beside that of the first variant, the reference.
"""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch
from tqdm import tqdm


@dataclass
class Row:
    """One variant's turns: ``seconds`` of every round after the first call, which may compile.

    ``difference`` is the largest difference of its logits from the reference's; None where they are not comparable.
    """

    name: str
    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    difference: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def as_json(self, reference: "Row") -> dict:
        ratio = self.median / reference.median
        return {"name": self.name, "median": self.median, "ratio": ratio, "first": self.first,
                "difference": self.difference, "seconds": self.seconds}  # fmt: skip


def clock(device: str) -> float:
    """Seconds, once the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def alternate(title: str, variants: dict[str, Callable[[], object]], rounds: int, device: str) -> list[Row]:
    """Time the variants in turns, ``rounds`` times after a first call each; a bar on a terminal shows how far."""
    rows = [Row(name) for name in variants]
    turns = [row for _ in range(rounds + 1) for row in rows]
    for turn, row in enumerate(tqdm(turns, desc=title, unit="call", disable=None)):
        start = clock(device)
        variants[row.name]()
        seconds = clock(device) - start
        if turn < len(rows):
            row.first = seconds
        else:
            row.seconds.append(seconds)
    return rows


@contextmanager
def threads(number: int) -> Iterator[None]:
    """PyTorch's threads for a while; 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine(device: str, packages: Sequence[str]) -> dict:
    """What a figure depends on: processor or card, threads, versions of those packages that are installed."""
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
