"""The public API: complete, and lazy, so that commands which need no torch start fast."""

import subprocess
import sys

import pytest

import deeplabv3

TORCH_FREE = (
    "deeplabv3",
    "deeplabv3.config",
    "deeplabv3.errors",
    "deeplabv3.files",
    "deeplabv3.model.atrous",
    "deeplabv3.evaluation.metrics",
)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_module_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_listed_and_loaded():
    assert (
        dir(deeplabv3)
        == sorted(deeplabv3.__all__)
        == ["DeepLabV3", "ModelConfig", "from_torchvision", "load_pretrained"]
    )
    from deeplabv3.model.deeplab import DeepLabV3

    assert deeplabv3.DeepLabV3 is DeepLabV3
    assert all(callable(getattr(deeplabv3, name)) for name in deeplabv3.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'UNet'"):
        deeplabv3.UNet  # noqa: B018
