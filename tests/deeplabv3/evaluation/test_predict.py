"""Networks from anywhere with their classes, and classes at the image's own size."""

import io

import numpy as np
import pytest
import torch
from conftest import small_config
from PIL import Image
from torchvision.models import segmentation

from deeplabv3.config import MULTI_SCALE, VOC_CLASSES, EvaluationConfig
from deeplabv3.data.voc import palette, palette_png
from deeplabv3.errors import UserError
from deeplabv3.evaluation import predict as predict_module
from deeplabv3.evaluation.inference import predict, predict_batches
from deeplabv3.evaluation.predict import (
    class_shares,
    load_weights,
    predict_photo,
)
from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3

TIGHT = EvaluationConfig(output_stride=8, padding="tight")

# --- weights


def test_checkpoint_provides_classes(tmp_path, make_model):
    model = make_model()
    settings = {"model": vars(model.config), "data": {"classes": {"0": "background", "8": "cat", "12": "dog"}}}
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(1, 1.0, settings, model.state_dict(), {}))
    loaded, classes = load_weights(str(tmp_path / "c.safetensors"))
    assert classes == {0: "background", 8: "cat", 12: "dog"}
    assert not loaded.training
    assert torch.equal(loaded.head.classifier.weight, model.head.classifier.weight)


@pytest.fixture(scope="module")
def torchvision_state() -> dict:
    torch.manual_seed(0)
    return segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    ).state_dict()


def test_torchvision_weights_load_from_file(tmp_path, torchvision_state):
    torch.save(torchvision_state, tmp_path / "deeplab.pth")
    model, classes = load_weights(f"torchvision:{tmp_path / 'deeplab.pth'}")
    assert tuple(classes.values()) == VOC_CLASSES and list(classes) == list(range(21))
    assert (model.config.backbone, model.output_stride) == ("resnet50", 8)
    del torchvision_state["backbone.layer4.2.conv3.weight"]
    torch.save(torchvision_state, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"cut\.pth"):
        load_weights(f"torchvision:{tmp_path / 'cut.pth'}")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth.*deeplabv3_resnet50.*; fetch"):
        load_weights(f"torchvision:{tmp_path / 'other.pth'}")


@pytest.mark.parametrize(
    ("source", "kind"), [("torchvision", "DeepLabV3_ResNet101"), ("torchvision:resnet50", "DeepLabV3_ResNet50")]
)
def test_torchvision_weights_are_downloaded(monkeypatch, make_model, source, kind):
    asked = []

    def download(weights, **options):
        asked.append((type(weights).__name__, weights.name, options["check_hash"]))
        return {}

    for enum in (segmentation.DeepLabV3_ResNet50_Weights, segmentation.DeepLabV3_ResNet101_Weights):
        monkeypatch.setattr(enum, "get_state_dict", download)
    monkeypatch.setattr(predict_module, "from_torchvision", lambda state, name: make_model(num_classes=21))
    _, classes = load_weights(source)
    assert asked == [(f"{kind}_Weights", "COCO_WITH_VOC_LABELS_V1", True)]
    assert classes[20] == "tvmonitor"


def test_failed_download_names_url(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(segmentation.DeepLabV3_ResNet101_Weights, "get_state_dict", fail)
    with pytest.raises(UserError, match=r"no route.*https://download\.pytorch\.org/\S+\.pth.*torchvision:FILE"):
        load_weights("torchvision")


@pytest.mark.parametrize("source", ["nowhere.safetensors", "torchvision:nowhere.pth", "torchvision:resnet18"])
def test_unknown_weights_are_user_error(source):
    with pytest.raises(UserError, match=source.split(":")[-1]):
        load_weights(source)


# --- prediction


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blurred noise: regions of some size, at any resolution the same."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_small_photo_is_predicted_as_in_evaluation(make_model):
    model, image = make_model(), photo(75, 100)
    for config in (TIGHT, EvaluationConfig(16, MULTI_SCALE, True, padding="tight")):
        assert (predict_photo(model, image, config) == predict(model, image, config)).all()


def test_large_photo_prediction_has_full_size(make_model):
    model, large = make_model(), photo(750, 1000)
    found = predict_photo(model, large, TIGHT, max_size=100)
    assert found.shape == (750, 1000) and found.dtype == np.uint8
    small = predict(model, np.asarray(Image.fromarray(large).resize((100, 75), Image.Resampling.BILINEAR)), TIGHT)
    blocks = small.repeat(10, 0).repeat(10, 1)
    assert len(np.unique(small)) > 1
    assert 0.9 < (found == blocks).mean() < 1, "the same regions, with smoother borders than blocks of 10 pixels"


@pytest.mark.parametrize("power", [4, 0.05], ids=["sure", "hardly sure"])
def test_enlarged_classes_are_most_probable(power):
    """By interpolated probabilities, class after class, without those that are nowhere the most probable."""
    shares = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32) ** power
    shares[3] = 0.001
    shares /= shares.sum(0)
    large = np.stack([np.asarray(Image.fromarray(s).resize((70, 60), Image.Resampling.BILINEAR)) for s in shares])
    found = predict_module._enlarged(shares, 60, 70)
    assert (found == large.argmax(0)).all()
    assert set(np.unique(found)) == {0, 1, 2, 4}


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2), (3, 2000), (17, 33)])
def test_photos_of_extreme_shapes_are_predicted(make_model, size):
    model, image = make_model(), photo(*size)
    for config in (TIGHT, EvaluationConfig(8, (0.5, 1.5), True, padding="tight")):
        assert predict_photo(model, image, config, max_size=129).shape == size


def test_predict_photo_restores_model(make_model):
    model = make_model().train()
    predict_photo(model, photo(80, 90), TIGHT, max_size=50)
    assert model.training and model.output_stride == 16


def test_photo_alone_is_predicted_at_the_models_output_stride(make_model):
    model, photo = make_model().set_output_stride(8), np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    config = EvaluationConfig(output_stride=8, padding="tight")
    assert np.array_equal(predict_photo(model, photo), predict_photo(model, photo, config))


@pytest.mark.parametrize(
    "photo", [np.zeros((9, 9, 3), np.float32), np.zeros((9, 9, 3), np.uint16), np.zeros((9, 9), np.uint8)]
)
def test_what_would_become_black_is_refused(make_model, photo):
    with pytest.raises(UserError, match=r"give RGB, \(H, W, 3\) uint8"):
        predict_photo(make_model(), photo)
    with pytest.raises(UserError, match=r"give RGB, \(H, W, 3\) uint8"):
        list(predict_batches(make_model(), [photo], EvaluationConfig()))


def test_class_shares_are_percentages():
    assert class_shares(np.array([[0, 2], [2, 2]], dtype=np.uint8), 4).tolist() == [25, 0, 75, 0]


def test_palette_png_keeps_values_and_voc_colors():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.open(io.BytesIO(palette_png(values)))
    assert image.mode == "P"
    assert (np.asarray(image) == values).all()
    assert (np.asarray(image.convert("RGB")) == palette()[values]).all()


def test_network_with_255_classes_is_predicted(make_model):
    model = DeepLabV3(small_config(num_classes=255)).eval()
    assert predict_photo(model, photo(40, 50), TIGHT, max_size=30).dtype == np.uint8
