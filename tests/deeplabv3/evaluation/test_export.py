"""Exported networks give the logits and predictions of the network they are made from, on images as they are read."""

import json

import pytest
import torch

from deeplabv3.config import EvaluationConfig
from deeplabv3.data.transforms import normalize
from deeplabv3.errors import UserError
from deeplabv3.evaluation import export
from deeplabv3.evaluation.export import CHECKED, Exported, check, export_onnx, export_torch
from deeplabv3.evaluation.inference import predict

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


def draw(*size):
    return torch.randint(256, (*size, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def assert_predicts_as(model, found, images):
    """Logits of an exported network are the network's, and their classes those of prediction at the images' size."""
    strategy = EvaluationConfig(model.output_stride, padding="tight")
    for image, scores in zip(images.numpy(), found, strict=True):
        assert scores.shape[1:] == image.shape[:2]
        different = scores.argmax(0).numpy() != predict(model, image, strategy)
        assert different.mean() < 0.01  # nearly tied pixels
    height, width = images.shape[1:3]
    if (height - 1) % model.output_stride == (width - 1) % model.output_stride == 0:
        expected = logits(model, normalize(images, model.config.mean, model.config.std))
        assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("changes", IN_TORCH.values(), ids=IN_TORCH)
def test_exported_program_keeps_logits(tmp_path, make_model, changes):
    model = make_model(**changes).eval()
    difference, largest = export_torch(model, tmp_path / "network.pt2", ABOUT)
    assert difference < 1e-4 * largest
    about = {"about.json": ""}
    program = torch.export.load(tmp_path / "network.pt2", extra_files=about).module()
    assert json.loads(about["about.json"]) == {"classes": {"0": "background", "8": "cat"}, "output_stride": 16}
    narrowest = 2 if torch.__version__.startswith("2.11.") else 1
    for batch, height, width in SIZES:
        images = draw(batch, height, max(width, narrowest))
        assert_predicts_as(model, logits(program, images), images)


@pytest.mark.parametrize("changes", IN_ONNX.values(), ids=IN_ONNX)
def test_onnx_keeps_logits(tmp_path, make_model, changes):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    model = make_model(**changes).eval()
    difference, largest = export_onnx(model, tmp_path / "network.onnx", ABOUT)
    assert difference < 1e-4 * largest
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    assert session.get_outputs()[0].shape == ["batch", 3, "height", "width"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == {"0": "background", "8": "cat"}
    for batch, height, width in SIZES:
        images = draw(batch, height, width)
        assert_predicts_as(model, torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), images)


def test_exported_network_has_its_own_normalization(make_model):
    model = make_model(mean=(0.5, 0.25, 0.75), std=(0.5, 0.5, 0.25)).eval()
    images = draw(1, 60, 70)
    assert_predicts_as(model, logits(Exported(model), images), images)
    other = make_model().eval()
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(logits(Exported(model), images), logits(Exported(other), images), atol=1e-2)


def test_export_leaves_model_unchanged(tmp_path, make_model):
    model = make_model(backbone="mobilenet_v2").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_torch(model, tmp_path / "network.pt2", {})
    assert model.training and model.output_stride == 16
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_check_refuses_wrong_logits(make_model):
    model = Exported(make_model())
    assert check(model, lambda images: logits(model, images))[0] == 0
    seen = []

    def slightly_wrong(images):
        seen.append(tuple(images.shape))
        found = logits(model, images)
        found[-1, -1, -1, -1] += 0.1
        return found

    with pytest.raises(UserError, match="not kept"):
        check(model, slightly_wrong)
    assert seen == [(batch, height, width, 3) for batch, height, width in CHECKED]
    with pytest.raises(UserError, match="not kept"):
        check(model, lambda images: logits(model, images) * float("nan"))


def test_wrong_export_leaves_no_file(tmp_path, make_model, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    path = tmp_path / "network.pt2"
    path.write_bytes(b"an earlier one")
    with pytest.raises(UserError):
        export_torch(make_model(), path, {})
    assert [file.name for file in tmp_path.iterdir()] == ["network.pt2"]
    assert path.read_bytes() == b"an earlier one"


def test_program_of_one_size_is_refused(tmp_path, make_model, monkeypatch):
    """As PyTorch 2.11 exports max pooling."""

    def refuse(images):
        raise AssertionError("Guard failed: (-1 + images.size()[2]) // 2 % 2 == 0")

    monkeypatch.setattr(export, "check", lambda model, exported: refuse(None))
    with pytest.raises(UserError, match=r"refuses images of other sizes .* newer PyTorch, or to ONNX"):
        export_torch(make_model(backbone="mobilenet_v2"), tmp_path / "network.pt2", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "name"),
    [(export_onnx, "network.pt"), (export_torch, "network.onnx"), (export_torch, "nowhere/network.pt2")],
)
def test_invalid_export_path_is_refused(tmp_path, make_model, write, name):
    with pytest.raises(UserError, match=name.split("/")[0]):
        write(make_model(), tmp_path / name, {})
    assert not list(tmp_path.iterdir())


def test_missing_export_packages_are_named(tmp_path, make_model, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(UserError, match=r"needs onnxscript;.*'export'"):
        export_onnx(make_model(), tmp_path / "network.onnx", {})
