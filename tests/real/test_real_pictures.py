"""Real VOC images and ImageNet weights, where they are at hand; nothing is downloaded.

``$DEEPLABV3_REAL_DATA`` names a VOCdevkit and ``$DEEPLABV3_REAL_WEIGHTS`` MobileNetV2's weights; otherwise both are
looked for in ``shared/`` beside the checkout.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplabv3.config import VOID, EvaluationConfig, TrainingConfig
from deeplabv3.data.voc import VOCData
from deeplabv3.evaluation.inference import evaluate, predict_batches
from deeplabv3.evaluation.metrics import mean_iou
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference
from deeplabv3.model.pretrained import load_pretrained
from deeplabv3.model.weights import load_backbone_weights
from deeplabv3.training.trainer import Trainer
from walkthrough.experiments.shown import recorded_counts
from walkthrough.profiles import load_profile

SHARED = Path(__file__).resolve().parents[3] / "shared"
DATA = Path(os.environ.get("DEEPLABV3_REAL_DATA") or SHARED / "data" / "voc2012-animals" / "VOCdevkit")
WEIGHTS = Path(
    os.environ.get("DEEPLABV3_REAL_WEIGHTS") or SHARED / "weights" / "mobilenet_v2_imagenet_backbone.safetensors"
)
CLASSES = {0: "background", 8: "cat", 10: "cow", 12: "dog", 13: "horse", 15: "person", 17: "sheep"}

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images at {DATA}; set DEEPLABV3_REAL_DATA to a VOCdevkit with the animals"
)
needs_weights = pytest.mark.skipif(
    not WEIGHTS.is_file(), reason=f"no weights at {WEIGHTS}; set DEEPLABV3_REAL_WEIGHTS to MobileNetV2's"
)


@pytest.fixture(scope="module")
def lists() -> dict[str, VOCData]:
    return {name: VOCData(DATA, name, CLASSES) for name in ("train", "val", "trainaug")}


def first(data: VOCData, count: int) -> VOCData:
    """The same data set cut to ``count`` images spread over the list."""
    part = VOCData(data.root, data.list_name, CLASSES)
    chosen = np.linspace(0, len(part) - 1, count).astype(int)
    part.names = [part.names[index] for index in chosen]
    part._files = [part._files[index] for index in chosen]
    return part


def network() -> DeepLabV3:
    torch.manual_seed(0)
    model = DeepLabV3(load_profile("mobile").model_config())
    load_backbone_weights(model, WEIGHTS)
    return model


def test_the_classes_are_the_mobile_profiles():
    assert load_profile("mobile").data.class_map() == CLASSES


def test_the_lists_are_whole_and_apart(lists):
    assert {name: len(data) for name, data in lists.items()} == {"train": 437, "val": 445, "trainaug": 3131}
    # CoinCheung/BiSeNet #2: SBD's own val overlaps VOC's
    assert not set(lists["trainaug"].names) & set(lists["val"].names)
    assert set(lists["train"].names) <= set(lists["trainaug"].names)


def test_vocs_own_labels_are_used_where_there_are_some(lists):
    """kazuto1011/deeplab-pytorch #72: 437 of trainaug's labels are VOC's finer ones."""
    folders = [label.parent.name for _, label in lists["trainaug"]._files]
    assert folders.count("SegmentationClass") == 437
    assert folders.count("SegmentationClassAug") == 3131 - 437


def test_labels_hold_the_seven_classes_and_void(lists):
    seen = set()
    for data in (first(lists["trainaug"], 20), first(lists["val"], 20)):
        for index in range(20):
            image, label = data[index]
            assert image.shape == (*label.shape, 3)
            assert 100 < min(label.shape) <= max(label.shape) <= 500
            seen |= set(np.unique(label).tolist())
    assert seen <= {*range(7), VOID}
    assert {0, VOID} < seen and len(seen) > 5


@needs_weights
def test_two_training_steps(lists, tmp_path):
    losses = []
    settings = TrainingConfig(
        iterations=2, batch_size=2, crop_size=129, lr=0.02, batch_norm_momentum=0.01, backbone_clip_norm=1.0
    )
    model = network()
    before = model.backbone.features[0][0].weight.clone()
    Trainer(model, lists["trainaug"], settings, tmp_path, {}, report=lambda step, loss, lr: losses.append(loss)).run()
    assert len(losses) == 2
    assert np.isfinite(losses).all()
    assert 1.0 < losses[0] < 3.0  # log 7 = 1.95
    assert not torch.equal(model.backbone.features[0][0].weight, before)
    assert all(value.isfinite().all() for value in model.state_dict().values())


@needs_weights
@pytest.mark.parametrize("output_stride", [16, 8])
def test_whole_images_are_evaluated(lists, output_stride):
    model, data = network(), first(lists["val"], 3)
    settings = EvaluationConfig(output_stride=output_stride, padding="tight")
    confusions = evaluate(model, data, settings)
    for index, confusion in enumerate(confusions):
        assert confusion.sum() == (data[index][1] != VOID).sum()
    assert 0 <= mean_iou(confusions.sum(0)) <= 100


@needs_weights
def test_the_crop_of_513_holds_every_image(lists):
    """The paper pads to 513 x 513: the prediction still has the image's own size."""
    image, label = first(lists["val"], 1)[0]
    (prediction,) = predict_batches(network(), iter([image]), EvaluationConfig())
    assert prediction.shape == label.shape
    assert prediction.max() < 7


@pytest.mark.parametrize("strategy", [{}, {"output_stride": 8}, {"output_stride": 8, "scales": (0.75,)}], ids=str)
def test_network_in_the_library_has_its_recorded_counts(lists, strategy):
    """Two images of 445, with batch norm folded and as it is; the file's weights are rounded to float16."""
    data = first(lists["val"], 2)
    settings = replace(load_profile("mobile").evaluation, **strategy)
    chosen = [lists["val"].names.index(name) for name in data.names]
    expected = recorded_counts()[settings][chosen]
    model, _ = load_pretrained()
    for network in (model, optimize_for_inference(model)):
        confusions = evaluate(network, data, settings)
        assert np.array_equal(confusions.sum((1, 2)), expected.sum((1, 2)))
        assert abs(confusions - expected).sum() / 2 <= 1e-3 * expected.sum()
