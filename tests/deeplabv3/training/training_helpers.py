"""Small networks and short training runs for the tests of this folder."""

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from conftest import small_config

from deeplabv3.config import RuntimeConfig, TrainingConfig
from deeplabv3.data.voc import VOCData
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.trainer import Trainer


def new_model(**changes) -> DeepLabV3:
    """A small network, the same at every call."""
    torch.manual_seed(0)
    return DeepLabV3(small_config(**changes))


def short_config(**changes) -> TrainingConfig:
    """Training of four steps."""
    defaults = {"iterations": 4, "batch_size": 2, "crop_size": 33, "lr": 0.05, "batch_norm_momentum": 0.1}
    return TrainingConfig(**defaults | changes)


def train(
    model: DeepLabV3,
    data: VOCData,
    config: TrainingConfig,
    folder: Path,
    identity: dict | None = None,
    *,
    save_every_s: float = 60.0,
    num_workers: int = 0,
    compile: bool = False,
    deterministic: bool = False,
    **options,
) -> float:
    """Train to the end. Return the seconds that it took."""
    runtime = RuntimeConfig(
        save_every_s=save_every_s, num_workers=num_workers, compile=compile, deterministic=deterministic
    )
    return Trainer(model, data, config, folder, identity or {}, runtime=runtime, **options).run()


def signal_at(stop_step: int, number: int = signal.SIGTERM) -> Callable[[int, float, float], None]:
    """A ``report`` that sends this process a signal in step ``stop_step``."""

    def report(step: int, loss: float, lr: float) -> None:
        if step == stop_step:
            os.kill(os.getpid(), number)

    return report


def logged_steps(folder: Path) -> list[int]:
    with open(folder / "log.csv") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def logged_losses(folder: Path) -> list[list[str]]:
    """Lines of ``log.csv`` without the seconds."""
    return [row[:3] for row in csv.reader((folder / "log.csv").read_text().splitlines())]


def same_weights(model: DeepLabV3, other: DeepLabV3) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
