"""A small training run for test_resume.py; as a script it trains slowly, to be killed on the way, or breaks down."""

import sys
import time
from pathlib import Path

import torch

from deeplabv3.config import ModelConfig, RuntimeConfig, TrainingConfig
from deeplabv3.data.voc import VOCData
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.trainer import Trainer

CONFIG = TrainingConfig(iterations=40, batch_size=2, crop_size=33, lr=0.05, batch_norm_momentum=0.1)
IDENTITY = {"name": "kill_worker"}


def run(root: Path, folder: Path, **options) -> DeepLabV3:
    """Train from scratch, or from the checkpoint in ``folder`` on, with dropout."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DeepLabV3(ModelConfig(3, "small_resnet20", atrous_rates=(1, 2, 3), head_channels=16, dropout=0.5))
    data = VOCData(root, "train", {0: "background", 3: "square", 7: "disc"}, cache=True)
    Trainer(model, data, CONFIG, folder, IDENTITY, seed=3, **options).run()
    return model


def break_down(step: int, loss: float, lr: float) -> None:
    """Fail as a GPU without memory does."""
    if step == 2:
        raise RuntimeError("out of memory")


def dawdle(step: int, loss: float, lr: float) -> None:
    """Take time for every step, and so much in the end that the kill comes before it, however late."""
    time.sleep(0.08 if step < 30 else 600)


if __name__ == "__main__":
    root, folder = map(Path, sys.argv[1:3])
    if sys.argv[3:] == ["breaking"]:
        run(root, folder, runtime=RuntimeConfig(num_workers=1), report=break_down)
    run(root, folder, runtime=RuntimeConfig(save_every_s=0.1), report=dawdle)
