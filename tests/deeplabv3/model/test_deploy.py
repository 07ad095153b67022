"""Exported networks: the same logits in other tools, at other sizes than they were exported with."""

import json

import pytest
import torch

from deeplabv3.errors import UserError
from deeplabv3.model import deploy
from deeplabv3.model.deploy import CHECKED, check, export_onnx, export_torch

IN_TORCH = {
    "cascade of one feature": {"head": "cascade", "multi_grid": (1, 1, 1), "last_block": 7, "output_stride": 256},
    "MobileNetV2": {"backbone": "mobilenet_v2"},
}
IN_ONNX = {
    "ASPP at output stride 8": {"output_stride": 8},
    "cascade": {"head": "cascade", "multi_grid": (1, 2, 1), "last_block": 5},
    "MobileNetV2": {"backbone": "mobilenet_v2"},
    "torchvision's": {"align_corners": False, "stride_unit": "first", "extra_convolution": True},
}
ABOUT = {"classes": {0: "background", 8: "cat"}, "output_stride": 16}
SIZES = [(1, 97, 33), (2, 64, 129), (3, 30, 1)]


def logits(model, images):
    with torch.no_grad():
        return model(images)


@pytest.mark.parametrize("changes", IN_TORCH.values(), ids=IN_TORCH)
def test_torch_programs_have_the_networks_logits(tmp_path, make_model, changes):
    model = make_model(**changes).eval()
    difference, largest = export_torch(model, tmp_path / "network.pt2", ABOUT)
    assert difference < 1e-4 * largest
    about = {"about.json": ""}
    program = torch.export.load(tmp_path / "network.pt2", extra_files=about).module()
    assert json.loads(about["about.json"]) == {"classes": {"0": "background", "8": "cat"}, "output_stride": 16}
    for batch, *size in SIZES:
        height, width = (max(side, model.output_stride + 1) for side in size)
        images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
        expected = logits(model, images)
        assert torch.allclose(logits(program, images), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("changes", IN_ONNX.values(), ids=IN_ONNX)
def test_onnx_has_the_networks_logits(tmp_path, make_model, changes):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    model = make_model(**changes).eval()
    difference, largest = export_onnx(model, tmp_path / "network.onnx", ABOUT)
    assert difference < 1e-4 * largest
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert session.get_outputs()[0].shape == ["batch", 3, "height", "width"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == {"0": "background", "8": "cat"}
    for batch, height, width in SIZES:
        images = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        expected = logits(model, images)
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_the_network_itself_stays_as_it_is(tmp_path, make_model):
    model = make_model(output_stride=16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_torch(model, tmp_path / "network.pt2", {})
    assert model.training and model.output_stride == 16
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_check_sees_differences(make_model):
    model = make_model().eval()
    assert check(model, lambda images: logits(model, images))[0] == 0
    seen = []

    def slightly_wrong(images):
        seen.append(tuple(images.shape))
        found = logits(model, images)
        found[-1, -1, -1, -1] += 0.1
        return found

    with pytest.raises(UserError, match="not kept"):
        check(model, slightly_wrong)
    assert seen == [(batch, 3, height, width) for batch, height, width in CHECKED]
    with pytest.raises(UserError, match="not kept"):
        check(model, lambda images: logits(model, images) * float("nan"))


def test_a_wrong_export_leaves_no_file(tmp_path, make_model, monkeypatch):
    monkeypatch.setattr(deploy, "TOLERANCE", -1.0)
    path = tmp_path / "network.pt2"
    path.write_bytes(b"an earlier one")
    with pytest.raises(UserError):
        export_torch(make_model(), path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["network.pt2"]
    assert path.read_bytes() == b"an earlier one"


@pytest.mark.parametrize(
    ("write", "name"),
    [(export_onnx, "network.pt"), (export_torch, "network.onnx"), (export_torch, "nowhere/network.pt2")],
)
def test_names_that_cannot_be_written_are_refused_at_once(tmp_path, make_model, write, name):
    with pytest.raises(UserError, match=name.split("/")[0]):
        write(make_model(), tmp_path / name, {})
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_the_extra(tmp_path, make_model, monkeypatch):
    monkeypatch.setattr(deploy.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r"needs onnxscript;.*'export'"):
        export_onnx(make_model(), tmp_path / "network.onnx", {})
