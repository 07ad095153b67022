"""DeepLabv3 (arXiv 1706.05587), built and measured as the paper describes it.

The package's face is small; everything else is imported from its room, such as ``deeplabv3.model.atrous``.
"""

from deeplabv3.config import ModelConfig
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.weights import from_torchvision

__all__ = ["DeepLabV3", "ModelConfig", "from_torchvision"]
