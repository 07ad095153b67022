"""Entry points of ``torch.hub``: ``torch.hub.load(REPOSITORY, "deeplabv3_mobilenet_v2_animals")``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))

from deeplabv3 import DeepLabV3, load_pretrained

dependencies = ["torch", "torchvision", "numpy", "PIL", "safetensors"]


def deeplabv3_mobilenet_v2_animals() -> DeepLabV3:
    """DeepLabv3 with MobileNetV2, trained on the animals of VOC 2012: normalized images (N, 3, H, W) to logits.

    The sides should be k * 16 + 1, such as 513 (docs/predict.md). ``deeplabv3.load_pretrained`` has the classes, too.
    """
    return load_pretrained()[0]
