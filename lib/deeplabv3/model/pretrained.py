"""The network that comes with the library: DeepLabv3 with MobileNetV2, trained on the animals of VOC 2012."""

import hashlib
from pathlib import Path

from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_model
from deeplabv3.model.deeplab import DeepLabV3

FILE = Path(__file__).parents[1] / "pretrained" / "mobilenet_v2_animals.safetensors"
SHA256 = "75638382cf421d822215e406116b9615d3c86a73f407825255adc3ab55a26e32"


def load_pretrained() -> tuple[DeepLabV3, dict[int, str]]:
    """The network in evaluation mode and its classes, label value to name in the order of its outputs.

    The classes are background, cat, cow, dog, horse, person and sheep, with VOC's numbers. The file holds float16; the
    network computes in float32. A file that is missing or damaged is a :class:`UserError`.
    """
    if not FILE.is_file() or hashlib.sha256(FILE.read_bytes()).hexdigest() != SHA256:
        raise UserError(f"weights file {FILE} is missing or damaged; install the package again.")
    model, checkpoint = load_model(FILE)
    return model, {int(value): name for value, name in checkpoint.settings["data"]["classes"].items()}
