"""DeepLabv3 (arXiv 1706.05587), built and measured as the paper describes it.

The public API is small and loads torch at its first use; everything else is imported from its module, such as
``deeplabv3.model.atrous``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplabv3.config import ModelConfig
    from deeplabv3.model.deeplab import DeepLabV3
    from deeplabv3.model.pretrained import load_pretrained
    from deeplabv3.model.weights import from_torchvision

__all__ = ["DeepLabV3", "ModelConfig", "from_torchvision", "load_pretrained"]

_MODULES = {
    "DeepLabV3": "model.deeplab",
    "ModelConfig": "config",
    "from_torchvision": "model.weights",
    "load_pretrained": "model.pretrained",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
