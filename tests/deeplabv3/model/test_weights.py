"""Weights from elsewhere: what fits is loaded, what does not is refused in a sentence."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import randomize, small_config
from safetensors.torch import save_file
from torch import nn
from torchvision.models import mobilenet_v2, resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import (
    deeplabv3_mobilenet_v3_large,
    deeplabv3_resnet50,
    deeplabv3_resnet101,
    fcn_resnet50,
)
from torchvision.models.segmentation.deeplabv3 import ASPP

from deeplabv3 import from_torchvision
from deeplabv3.errors import UserError
from deeplabv3.model import weights
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.weights import load_backbone_weights, read_weights


def mobilenet_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return randomize(mobilenet_v2(weights=None)).state_dict()


def mobilenet(**changes) -> DeepLabV3:
    torch.manual_seed(0)
    return DeepLabV3(small_config(backbone="mobilenet_v2", **changes)).eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_torchvision_weights_are_loaded_completely(tmp_path, suffix):
    state = mobilenet_weights()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    model = mobilenet()
    load_backbone_weights(model, path)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[name])


def test_resnet_features_match_torchvision(tmp_path):
    """The classifier is left out, and the names layer1 … layer4 become block1 … block4."""
    torch.manual_seed(0)
    with torch.device("meta"):
        reference = resnet50(weights=None)
    reference = randomize(reference.to_empty(device="cpu"))
    torch.save(reference.state_dict(), tmp_path / "resnet50.pth")
    config = small_config(backbone="resnet50", stride_unit="first", output_stride=32, multi_grid=(1, 1, 1))
    model = DeepLabV3(config).eval()
    load_backbone_weights(model, tmp_path / "resnet50.pth")

    hooked = {}
    reference.eval().layer4.register_forward_hook(lambda module, inputs, output: hooked.update(features=output))
    images = torch.randn(2, 3, 65, 97, dtype=torch.double)
    with torch.no_grad():
        reference.double()(images)
        assert (hooked["features"][0] - hooked["features"][1]).std() > 0.1  # they depend on the image
        torch.testing.assert_close(model.backbone.double()(images), hooked["features"], rtol=1e-9, atol=1e-9)


def test_weights_without_batch_counters_are_loaded(tmp_path):
    """torchvision's ResNet files are older than batch norm's ``num_batches_tracked`` and do not hold it."""
    state = {name: value for name, value in mobilenet_weights().items() if "num_batches_tracked" not in name}
    save_file(state, tmp_path / "old.safetensors")
    model = mobilenet()
    load_backbone_weights(model, tmp_path / "old.safetensors")
    for name, value in model.backbone.state_dict().items():
        assert "num_batches_tracked" in name or torch.equal(value, state[name])


@pytest.mark.parametrize("backbone", ["small_resnet20", "mobilenet_v2"])
def test_added_blocks_start_as_block4(tmp_path, backbone):
    """Units 2 and 3 fit whole; the first unit of block5 takes other channels than block4's and keeps those random."""
    torch.manual_seed(0)
    source = randomize(DeepLabV3(small_config(backbone=backbone, head="cascade")))
    names = {name: source.backbone.torchvision_name(name) for name in source.backbone.state_dict()}
    save_file({names[name]: value for name, value in source.backbone.state_dict().items()}, tmp_path / "w.safetensors")
    model = DeepLabV3(small_config(backbone=backbone, head="cascade", last_block=7))
    random = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    load_backbone_weights(model, tmp_path / "w.safetensors")

    for block in (5, 6, 7):
        for number in (1, 2, 3):
            original = model.backbone.unit(4, number).state_dict()
            for name, value in model.backbone.unit(block, number).state_dict().items():
                if name in original and original[name].shape == value.shape:
                    assert torch.equal(value, original[name])
                else:
                    assert number == 1
                    full = f"block{block}.{number - 1}.{name}"
                    assert torch.equal(value, random[full])


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (b"", ".safetensors"),
        (b"<html>404 not found</html>", ".safetensors"),
        (b"", ".pth"),
        (b"<html>404 not found</html>", ".pth"),
        (b"\x80\x02}\x96", ".pth"),
        (b"\x80\x02h\x05.", ".pth"),
    ],
)
def test_damaged_weights_error_names_file(tmp_path, content, suffix):
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_weights(path)


@pytest.mark.parametrize("lost", [10, 200, 2000])
@pytest.mark.parametrize(("suffix", "save"), [(".safetensors", save_file), (".pth", torch.save)])
def test_truncated_weights_error_names_file(tmp_path, suffix, save, lost):
    path = tmp_path / f"cut{suffix}"
    save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(UserError, match="cut"):
        read_weights(path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"state_dict": [1]}, {"features.0.0.weight": 1}])
def test_file_without_state_dict_is_named(tmp_path, content):
    path = tmp_path / "something.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match="something"):
        load_backbone_weights(mobilenet(), path)


STATE = {"conv1.weight": torch.ones(2), "fc.bias": torch.zeros(1)}

LAYOUTS = {
    "torchvision's script": {
        "model": STATE, "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"last_epoch": 3}, "epoch": 3, "args": argparse.Namespace(lr=0.1, device="cuda"),
    },
    "state_dict": {"state_dict": STATE, "epoch": 7, "best_acc1": torch.tensor(0.7)},
    "model_state_dict": {"epoch": 1, "model_state_dict": STATE, "loss": 0.2},
    "model_state": {"cur_itrs": 30000, "model_state": STATE, "best_score": 0.8},
    "nested": {"model": {"state_dict": STATE}},
    "DataParallel": {f"module.{name}": value for name, value in STATE.items()},
    "torch.compile": {f"_orig_mod.{name}": value for name, value in STATE.items()},
    "DDP of torch.compile": {"model": {f"module._orig_mod.{name}": value for name, value in STATE.items()}},
    "torch.compile of DDP": {f"_orig_mod.module.{name}": value for name, value in STATE.items()},
    "Lightning": {"state_dict": {f"model.{name}": v for name, v in STATE.items()} | {"loss.weight": torch.ones(3)}},
    "averaged": {"n_averaged": torch.tensor(5)} | {f"module.{name}": value for name, value in STATE.items()},
    "parameters": {name: nn.Parameter(value) for name, value in STATE.items()},
    "score of numpy, as VainF's": {"model_state": STATE, "best_score": np.float64(0.7)},
}  # fmt: skip


@pytest.mark.parametrize("content", LAYOUTS.values(), ids=LAYOUTS)
def test_state_dict_is_found_in_other_layouts(tmp_path, content):
    torch.save(content, tmp_path / "theirs.pth")
    found = read_weights(tmp_path / "theirs.pth")
    assert found.keys() == STATE.keys() and all(found[name].equal(value) for name, value in STATE.items())


def test_prefix_is_removed_from_safetensors(tmp_path):
    save_file({f"module.{name}": value for name, value in STATE.items()}, tmp_path / "theirs.safetensors")
    assert read_weights(tmp_path / "theirs.safetensors").keys() == STATE.keys()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (nn.Conv2d(1, 1, 1), "torch.nn.modules.conv.Conv2d"),
        (nn.DataParallel(nn.Linear(1, 1)), "torch.nn.parallel.data_parallel.DataParallel"),
        ({"model": STATE, "output_dir": Path("runs")}, "pathlib.*Path"),
    ],
)
def test_pickled_objects_get_line_that_saves_tensors(tmp_path, monkeypatch, content, named, zipped):
    """The line that the sentence names does what it says."""
    path = tmp_path / "whole.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=f"whole.pth holds more than tensors .{named}") as caught:
        read_weights(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and "\x1b" not in sentence and "fetch" not in sentence
    exec(sentence.partition("alone: ")[2], {})
    assert read_weights(tmp_path / "whole_tensors.pth")


def test_torchscript_is_no_damaged_file(tmp_path):
    torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), tmp_path / "traced.pt")
    with pytest.raises(UserError, match=r"traced.pt holds more than tensors \(TorchScript\)"):
        read_weights(tmp_path / "traced.pt")


@pytest.mark.parametrize("make", [deeplabv3_resnet50, deeplabv3_resnet101])
def test_network_of_one_output_is_refused(make):
    with torch.device("meta"):
        state = make(weights=None, weights_backbone=None, num_classes=1).state_dict()
    with pytest.raises(UserError, match=r"weights crack\.pth have one output, a sigmoid's"):
        from_torchvision(state, "weights crack.pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_are_not_finite_are_refused(tmp_path, suffix):
    state = {"a.weight": torch.ones(3), "b.weight": torch.tensor([1.0, float("nan")]), "count": torch.tensor(3)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    with pytest.raises(UserError, match=r"not finite, in b\.weight"):
        read_weights(path)


def test_missing_weights_error_names_file(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_backbone_weights(mobilenet(), tmp_path / "nowhere.safetensors")


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_foreign_objects_are_not_unpickled(tmp_path):
    mark = tmp_path / "executed"
    torch.save({"a": torch.zeros(1), "b": Malicious(mark)}, tmp_path / "malicious.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Malicious(mark), protocol=2))
    for name in ("malicious.pth", "raw.pth"):
        with pytest.raises(UserError, match=name):
            read_weights(tmp_path / name)
    assert not mark.exists()


def test_weights_of_other_backbone_change_nothing(tmp_path):
    save_file(mobilenet_weights(), tmp_path / "mobilenet.safetensors")
    model = DeepLabV3(small_config())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match="do not fit backbone 'small_resnet20'"):
        load_backbone_weights(model, tmp_path / "mobilenet.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_other_shape_are_refused(tmp_path):
    state = mobilenet_weights()
    state["features.14.conv.0.0.weight"] = torch.zeros(7, 7)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"features\.14\.conv\.0\.0\.weight.*\(7, 7\)"):
        load_backbone_weights(mobilenet(), tmp_path / "w.safetensors")


def test_imagenet_weights_are_kept_in_folder(workspace, monkeypatch):
    """``deeplabv3 data get weights`` puts them there, and training needs no network afterwards."""
    asked = []

    def get_state_dict(model_dir=None, **options):
        asked.append(model_dir)
        if model_dir is None:
            raise OSError("no network")
        torch.save(mobilenet_weights(), Path(model_dir) / "mobilenet_v2-0123abcd.pth")
        return mobilenet_weights()

    source = SimpleNamespace(url="https://host/models/mobilenet_v2-0123abcd.pth", get_state_dict=get_state_dict)
    monkeypatch.setattr(weights, "_imagenet", lambda backbone: source)
    with pytest.raises(UserError, match=r"could not be downloaded \(no network\); fetch https://host"):
        load_backbone_weights(mobilenet(), "imagenet")
    kept = weights.download_imagenet_weights("mobilenet_v2", workspace / "weights")
    assert kept == workspace / "weights" / "mobilenet_v2-0123abcd.pth"
    assert asked == [None, workspace / "weights"]
    model = mobilenet()
    load_backbone_weights(model, "imagenet", workspace / "weights")
    assert asked == [None, workspace / "weights"]
    assert torch.equal(model.backbone.state_dict()["features.0.0.weight"], mobilenet_weights()["features.0.0.weight"])


def test_small_backbones_have_no_imagenet_weights():
    with pytest.raises(UserError, match="small_resnet20"):
        load_backbone_weights(DeepLabV3(small_config()), "imagenet")


SIZES = ((65, 65), (97, 64), (33, 130))
"""As trained, taller than wide, and sizes that no output stride divides."""


def torchvision_network(make: Callable[..., nn.Module]) -> nn.Module:
    """Random weights and batch norm statistics, and yet logits of order 1."""
    with torch.device("meta"):  # torchvision's own random weights take seconds and are not wanted
        reference = make(weights=None, weights_backbone=None, num_classes=5)
    reference = randomize(reference.to_empty(device="cpu")).eval()
    for name, layer in reference.named_modules():
        if name.endswith("bn3"):  # or else every unit doubles the variance of its input
            layer.weight.data *= 0.1
    return reference


@pytest.mark.parametrize(
    ("make", "form"),
    [(deeplabv3_resnet50, "module"), (deeplabv3_resnet50, "state dict"), (deeplabv3_resnet101, "module")],
)
def test_logits_match_torchvision(make, form):
    """In float32 to 1e-4, where a rounding error is 1e-7 of the largest activation and some hundred layers add them."""
    reference = torchvision_network(make)
    ours = from_torchvision(reference if form == "module" else dict(reference.state_dict()))
    assert (ours.output_stride, ours.config.backbone) == (8, make.__name__.removeprefix("deeplabv3_"))
    for size in SIZES if form == "module" else SIZES[:1]:
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected, found = reference(images)["out"], ours(images)
        assert 1 < expected.std() < 10
        assert (expected[0] - expected[1]).std() > 0.5  # they depend on the image
        assert (found - expected).abs().max() <= 1e-4


def test_logits_match_torchvision_in_double_precision():
    """To 1e-11: what float32 leaves open is rounding."""
    reference = torchvision_network(deeplabv3_resnet50)
    ours = from_torchvision(reference).double()
    images = torch.randn(1, 3, 49, 66, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference.double()(images)["out"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("changed", ["rates", "strides"])
def test_modules_with_other_strides_or_rates_are_refused(changed):
    """Their weights fit, and their logits are others."""
    reference = torchvision_network(deeplabv3_resnet50)
    if changed == "rates":
        reference.classifier[0] = ASPP(2048, (6, 12, 18))
    else:
        reference.backbone = IntermediateLayerGetter(resnet50(weights=None), {"layer4": "out"})
    with pytest.raises(UserError, match="strides or rates of their own"):
        from_torchvision(reference)


@pytest.mark.parametrize("make", [mobilenet_v2, fcn_resnet50, deeplabv3_mobilenet_v3_large])
def test_other_torchvision_networks_are_refused(make):
    with torch.device("meta"):
        other = make(weights=None) if make is mobilenet_v2 else make(weights=None, weights_backbone=None)
    with pytest.raises(UserError, match="deeplabv3_resnet50"):
        from_torchvision(other.state_dict())
