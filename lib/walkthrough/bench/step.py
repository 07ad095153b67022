"""``deeplabv3 bench step``: where the milliseconds of our training step go.

A row for each measure that may save some, the lines of code that wait for the GPU, the operations that take longest.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar
from unittest import mock

import torch
from torch import Tensor

from deeplabv3.model.atrous import BACKBONES
from deeplabv3.model.heads import resize
from walkthrough.bench.train import Switches, TrainBench, table

EAGER, INTERPOLATED = "eager", "eager, logits upsampled by F.interpolate"


@dataclass(frozen=True)
class StepBench(TrainBench):
    """Settings of the benchmark: a step as the trainer takes it in bfloat16, and compiled in each of ``modes``."""

    bench: ClassVar[str] = "step"
    backbones: ClassVar[Collection[str]] = BACKBONES
    modes: tuple[str, ...] = ("default", "reduce-overhead")  # of torch.compile

    def _makers(self, images: Tensor, labels: Tensor) -> dict[str, Callable[[], Callable[[], Tensor]]]:
        def make(mode: str = "") -> Callable[[], Tensor]:
            return self.our_step(images, labels, Switches(True, "bfloat16", True, mode))

        modes = {f"torch.compile, {mode}": partial(make, mode) for mode in self.modes if self.compiled}
        return {EAGER: make, INTERPOLATED: lambda: _interpolated(make()), **modes}

    def _details(self, steps: dict[str, Callable[[], Tensor]]) -> dict:
        return {
            "waits": waits(steps[EAGER]) if self.device == "cuda" else {},
            "profiles": {name: profile(step, self.device) for name, step in steps.items() if name != INTERPOLATED},
        }


def _interpolated(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def with_interpolate() -> Tensor:
        with mock.patch("deeplabv3.training.step.upsample", resize):
            return step()

    return with_interpolate


def waits(step: Callable[[], Tensor]) -> dict[str, int]:
    """Lines of code at which a step waits for the GPU, each with how often."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = (f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchronizing" in str(w.message))
    return dict(Counter(lines))


def profile(step: Callable[[], Tensor], device: str) -> str:
    """PyTorch's table of the 30 operations that take longest in a step."""
    with torch.profiler.profile() as profiler:
        step()
        if device == "cuda":
            torch.cuda.synchronize()
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return profiler.key_averages().table(sort_by=key, row_limit=30, max_name_column_width=70)


def summary(result: dict) -> str:
    """Milliseconds of every row, and the waits."""
    rows = ", ".join(f"{row['name']} {1000 * row['seconds_per_step']:.1f} ms" for row in result["rows"])
    return f"{rows}; waits for the GPU at: {', '.join(result['waits']) or 'no line'}"


def render(result: dict) -> str:
    """Format the measurements."""
    profiles = [f"\n{name}\n{operations}" for name, operations in result["profiles"].items()]
    return "\n".join([*table(result), "", summary(result), *profiles])
