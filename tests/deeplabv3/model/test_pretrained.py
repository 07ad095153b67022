"""The network that comes with the library, and hubconf."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_config
from matplotlib.cbook import get_sample_data
from PIL import Image

from deeplabv3 import DeepLabV3, load_pretrained
from deeplabv3.data.transforms import normalize
from deeplabv3.errors import UserError
from deeplabv3.evaluation.export import export_weights
from deeplabv3.evaluation.predict import load_weights
from deeplabv3.model import pretrained

HOME = Path(__file__).resolve().parents[3]
ANIMALS = ["background", "cat", "cow", "dog", "horse", "person", "sheep"]


def test_pretrained_network_has_its_classes():
    model, classes = load_pretrained()
    assert list(classes.values()) == ANIMALS
    assert classes[8] == "cat" and model.config.num_classes == 7
    assert not model.training
    assert all(value.dtype != torch.float16 for value in model.state_dict().values())
    assert pretrained.FILE.stat().st_size <= 10e6


def test_bfloat16_keeps_the_logits_of_a_photograph():
    """A network that was trained for hours: after short training MobileNetV2 amplifies what rounding disturbs."""
    model, _ = load_pretrained()
    with Image.open(get_sample_data("grace_hopper.jpg")) as photograph:
        image = np.array(photograph.convert("RGB").resize((129, 129)))
    images = normalize(torch.from_numpy(image)[None])
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(images)
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded - expected).square().mean().sqrt() / expected.std() < 0.05  # measured: 0.02
    assert (rounded.argmax(1) == expected.argmax(1)).float().mean() > 0.98


def test_damaged_pretrained_file_is_refused(tmp_path, monkeypatch):
    content = bytearray(pretrained.FILE.read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    monkeypatch.setattr(pretrained, "FILE", tmp_path / "damaged.safetensors")
    with pytest.raises(UserError, match="missing or damaged; install the package again"):
        load_pretrained()


def test_exported_weights_are_those_of_the_network(tmp_path, make_model):
    model = make_model().eval()
    file = tmp_path / "weights.safetensors"
    export_weights(model, file, {0: "background", 3: "square", 7: "disc"})
    loaded, classes = load_weights(str(file))
    assert classes == {0: "background", 3: "square", 7: "disc"}
    assert loaded.config == small_config()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-6)


def test_hubconf_returns_the_pretrained_network():
    script = "import torch, sys; model = torch.hub.load(sys.argv[1], sys.argv[2], source='local'); print(type(model))"
    command = [sys.executable, "-c", script, str(HOME), "deeplabv3_mobilenet_v2_animals"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert DeepLabV3.__name__ in done.stdout
