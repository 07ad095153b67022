"""Backbones: a strided network made dense keeps its features, and torchvision's networks are reproduced."""

import pytest
import torch
from conftest import randomise, small_config
from torchvision.models import mobilenet_v2

from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.mobilenet import MobileNetV2

CASES = [
    ("small_resnet20", "paper", (1, 1, 1), 4),
    ("small_resnet20", "torchvision", (1, 1, 1), 4),
    ("small_resnet29", "paper", (1, 2, 4), 4),
    ("small_resnet29", "torchvision", (1, 2, 1), 4),
    ("small_resnet20", "paper", (1, 1, 1), 7),
    ("small_resnet20", "torchvision", (1, 2, 1), 6),
    ("mobilenet_v2", "paper", (1, 1, 1), 4),
    ("mobilenet_v2", "paper", (1, 1, 1), 5),
]


def features(model, images):
    with torch.no_grad():
        return model.backbone(images)


def strided_network(backbone, layout, grid, last_block):
    torch.manual_seed(0)
    config = small_config(backbone=backbone, layout=layout, multi_grid=grid, last_block=last_block, head="cascade")
    return randomise(DeepLabV3(config)).double().eval()


@pytest.mark.parametrize(("backbone", "layout", "grid", "last_block"), CASES)
@pytest.mark.parametrize("size", [(97, 129), (96, 90)])
def test_a_strided_network_made_dense_has_the_same_features(backbone, layout, grid, last_block, size):
    """Every 2nd, 4th … feature of the dense network is a feature of the strided one, in double precision to 1e-10."""
    model = strided_network(backbone, layout, grid, last_block)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    coarsest = 32 * 2 ** (last_block - 4)
    strided = features(model.set_output_stride(coarsest), images)
    assert (strided - features(model, -images)).std() > 0.1  # they depend on the picture
    for output_stride in (8, 16, coarsest // 2):
        step = coarsest // output_stride
        dense = features(model.set_output_stride(output_stride), images)
        assert dense.shape[2] == -(-size[0] // output_stride)
        torch.testing.assert_close(dense[:, :, ::step, ::step], strided, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("backbone", "layout"), [("small_resnet20", "paper"), ("mobilenet_v2", "paper")])
def test_without_the_rates_the_features_differ(backbone, layout):
    """The check above notices a single rate that is not doubled."""
    model = strided_network(backbone, layout, (1, 1, 1), 4)
    images = torch.randn(1, 3, 97, 97, dtype=torch.double)
    strided = features(model.set_output_stride(32), images)
    model.set_output_stride(16)
    last = model.backbone.unit(4, 3) if backbone == "mobilenet_v2" else model.backbone.block4[2]
    last.set_geometry(stride=1, rate=1)
    assert (features(model, images)[:, :, ::2, ::2] - strided).abs().max() > 1e-3


def test_mobilenet_features_are_torchvisions():
    torch.manual_seed(0)
    reference = randomise(mobilenet_v2(weights=None)).eval()
    config = small_config(backbone="mobilenet_v2", output_stride=32, multi_grid=(1, 1, 1))
    ours = DeepLabV3(config).eval()
    assert isinstance(ours.backbone, MobileNetV2)
    state = reference.state_dict()
    ours.backbone.load_state_dict({name: state[name] for name in ours.backbone.state_dict()})
    images = torch.randn(2, 3, 97, 128)
    with torch.no_grad():
        expected = reference.features[:18](images)
        assert (expected[0] - expected[1]).std() > 0.1  # they depend on the picture
    torch.testing.assert_close(features(ours, images), expected, rtol=1e-4, atol=1e-4)
