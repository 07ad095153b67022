"""Backbones: a strided network made dense keeps its features, and each feature sees what its rates say."""

import pytest
import torch
from conftest import randomize, small_config
from torch import nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

from deeplabv3.model.atrous import backbone_layers, plan_rates, receptive_field
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.mobilenet import DepthwiseConv2d, MobileNetV2

CASES = [
    ("small_resnet20", "last", (1, 1, 1), 4),
    ("small_resnet20", "first", (1, 1, 1), 4),
    ("small_resnet29", "last", (1, 2, 4), 4),
    ("small_resnet29", "first", (1, 2, 1), 4),
    ("small_resnet20", "last", (1, 1, 1), 7),
    ("small_resnet20", "first", (1, 2, 1), 6),
    ("mobilenet_v2", "last", (1, 1, 1), 4),
    ("mobilenet_v2", "last", (1, 1, 1), 5),
]


def features(model, images):
    with torch.no_grad():
        return model.backbone(images)


def strided_network(backbone, stride_unit, grid, last_block):
    torch.manual_seed(0)
    config = small_config(
        backbone=backbone, stride_unit=stride_unit, multi_grid=grid, last_block=last_block, head="cascade"
    )
    with torch.device("meta"):  # drawing the initial weights of large networks would take longer than the test
        model = DeepLabV3(config)
    model = randomize(model.to_empty(device="cpu")).double().eval()
    for name, module in model.named_modules():
        if name.endswith("bn3"):  # or else every unit doubles the variance of its input
            module.weight.data *= 0.2
    return model


@pytest.mark.parametrize(
    ("backbone", "stride_unit", "grid", "last_block", "size"),
    [(*case, size) for case in CASES for size in ((97, 129), (96, 90))]
    + [("resnet50", stride_unit, (1, 2, 4), 4, (65, 98)) for stride_unit in ("last", "first")],
)
def test_strided_network_made_dense_keeps_features(backbone, stride_unit, grid, last_block, size):
    """Every 2nd, 4th … feature of the dense network is a feature of the strided one.

    To 1e-12 in double precision, for features whose spread is about 3: the same sums, perhaps in another order. No
    border is excluded. Position k of the strided network is position k s of the dense one, and k lies outside the
    strided features (k < 0 or k >= ceil(n / s)) exactly where k s lies outside the dense ones (k s < 0 or k s >= n): a
    tap falls on zero padding in both or in neither, in whatever layer and for whatever size of image.
    """
    model = strided_network(backbone, stride_unit, grid, last_block)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    coarsest = 32 * 2 ** (last_block - 4)
    strided = features(model.set_output_stride(coarsest), images)
    assert (strided - features(model, -images)).std() > 0.1  # they depend on the image
    for output_stride in {4, 8, 16, coarsest // 2}:
        step = coarsest // output_stride
        dense = features(model.set_output_stride(output_stride), images)
        assert dense.shape[2] == -(-size[0] // output_stride)
        torch.testing.assert_close(dense[:, :, ::step, ::step], strided, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("backbone", "stride_unit"), [("small_resnet20", "last"), ("mobilenet_v2", "last")])
def test_missing_rate_changes_features(backbone, stride_unit):
    """The check above notices a single rate that is not doubled."""
    model = strided_network(backbone, stride_unit, (1, 1, 1), 4)
    images = torch.randn(1, 3, 97, 97, dtype=torch.double)
    strided = features(model.set_output_stride(32), images)
    model.set_output_stride(16)
    model.backbone.unit(4, 3).set_geometry(stride=1, rate=1)
    assert (features(model, images)[:, :, ::2, ::2] - strided).abs().max() > 1e-3


def test_mobilenet_features_match_torchvision():
    """In double precision to 1e-12, for features whose spread is about 3."""
    torch.manual_seed(0)
    reference = randomize(mobilenet_v2(weights=None)).double().eval()
    config = small_config(backbone="mobilenet_v2", output_stride=32, multi_grid=(1, 1, 1))
    ours = DeepLabV3(config).double().eval()
    assert isinstance(ours.backbone, MobileNetV2)
    state = reference.state_dict()
    ours.backbone.load_state_dict({name: state[name] for name in ours.backbone.state_dict()})
    for size in ((65, 65), (97, 128), (50, 33)):
        images = torch.randn(2, 3, *size, dtype=torch.double)
        with torch.no_grad():
            expected = reference.features[:18](images)
        assert (expected[0] - expected[1]).std() > 0.1  # they depend on the image
        torch.testing.assert_close(features(ours, images), expected, rtol=0, atol=1e-12)


def transparent_backbone(backbone, last_block):
    """All weights positive and batch norm neutral: no gradient is lost on its way to the image, and none cancels."""
    with torch.device("meta"):
        model = DeepLabV3(small_config(backbone=backbone, head="cascade", last_block=last_block))
    for module in model.to_empty(device="cpu").modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model.backbone.double().eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("backbone", "stride_unit", "last_block"),
    [
        ("resnet50", "last", 4),
        ("small_resnet29", "first", 4),
        ("small_resnet20", "last", 7),
        ("small_resnet20", "first", 7),
        ("mobilenet_v2", "last", 4),
        ("mobilenet_v2", "last", 5),
    ],
)
def test_receptive_field_matches_gradient_of_network(monkeypatch, backbone, stride_unit, last_block):
    """An image one pixel high, wide enough for the field of its central feature; the field is counted in pixels."""
    # The maximum passes the gradient to one of its pixels, the average over the same window to all.
    monkeypatch.setattr(F, "max_pool2d", F.avg_pool2d)
    network = transparent_backbone(backbone, last_block)
    measured = []
    for output_stride, grid in ((8, (1, 1, 1)), (8, (1, 2, 4)), (16, (1, 2, 1)), (32, (1, 2, 3)), (32, (2, 2, 2))):
        plan = plan_rates(backbone, output_stride, grid, last_block, stride_unit)
        network.set_rates(plan)
        field = receptive_field(backbone_layers(backbone, plan))
        # ReLU6 is linear below 6, and sums of units double their input: 1e-6 stays far below.
        image = torch.full((1, 3, 1, field + 301), 1e-6, dtype=torch.double, requires_grad=True)
        middle = network(image)
        middle[0, :, 0, middle.shape[3] // 2].sum().backward()
        reached = image.grad[0, 0, 0].nonzero()
        assert reached.min() > 0 and reached.max() < image.shape[3] - 1
        assert reached.max() - reached.min() + 1 == field
        measured.append(field)
    assert measured[1] > measured[0]  # a multi-grid widens it


@pytest.mark.parametrize(
    ("stride", "rate", "training", "dtype"),
    [
        (1, 1, True, torch.bfloat16),
        (2, 1, True, torch.float32),
        (1, 2, True, torch.float32),
        (2, 1, False, torch.bfloat16),
    ],
)
def test_depthwise_convolution_trains_in_float32_where_bfloat16_is_slow(stride, rate, training, dtype):
    layer = DepthwiseConv2d(4, 4, 3, stride, padding=rate, dilation=rate, groups=4).train(training)
    x = torch.randn(2, 4, 9, 9).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == dtype
    if dtype == torch.float32:
        assert torch.equal(found, layer(x.float()))
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_network_of_another_type_trains(dtype):
    model = DeepLabV3(small_config(backbone="mobilenet_v2")).to(dtype).train()
    logits = model(torch.randn(2, 3, 65, 65, dtype=dtype))
    logits.sum().backward()
    assert logits.dtype == dtype
