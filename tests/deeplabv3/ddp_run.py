"""A run for test_distributed.py, in torchrun's processes or in one: ROOT FOLDER [GRAD_ACCUM_STEPS [RANK STEP]].

Process RANK kills itself in step STEP, once.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from deeplabv3.config import ModelConfig, RuntimeConfig, TrainingConfig
from deeplabv3.data.voc import VOCData
from deeplabv3.distributed import init_distributed
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.trainer import Trainer


def main(root: str, folder: str, grad_accum_steps: str = "1", dies: str = "", at: str = "") -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = DeepLabV3(ModelConfig(3, "small_resnet20", atrous_rates=(1, 2, 3), head_channels=16, dropout=0.0))
    data = VOCData(root, "train", {0: "background", 3: "square", 7: "disc"}, cache=True)
    config = TrainingConfig(8, 4, 33, lr=0.05, batch_norm_momentum=0.1, grad_accum_steps=int(grad_accum_steps))
    with init_distributed(timeout_s=300) as processes:

        def report(step: int, loss: float, lr: float) -> None:
            if dies and processes.rank == int(dies) and step == int(at) and not Path(folder, "died").exists():
                Path(folder, "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        runtime = RuntimeConfig(save_every_s=0)
        Trainer(
            model, data, config, Path(folder), {}, runtime=runtime, seed=3, processes=processes, report=report
        ).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
