"""Heads: what each of them computes."""

import pytest
import torch
from conftest import small_config
from torch import nn
from torch.nn import functional as F

from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import ASPPHead, V2Head, resize, upsample


def test_logits_start_near_zero():
    model, without_norm = DeepLabV3(small_config()), DeepLabV3(small_config(head_batch_norm=False))
    v2 = DeepLabV3(small_config(head="v2"))
    for layer in (model.head.classifier, without_norm.head.classifier, *v2.head.classifiers):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.3)
        assert not layer.bias.any()


def test_only_image_pooling_sees_the_whole_image():
    """A far corner changes the logits of the other corner through the global average alone (Section 3.3)."""
    torch.manual_seed(0)
    changed = {}
    for pooling in (False, True):
        head = ASPPHead(4, 2, (1, 2), pooling, channels=8, dropout=0.0).eval()
        features = torch.randn(1, 4, 9, 9)
        other = features.clone()
        other[:, :, 8, 8] += 5
        with torch.no_grad():
            difference = (head(other) - head(features)).abs().amax(dim=1)[0]
        changed[pooling] = difference > 1e-6
    near = torch.zeros(9, 9, dtype=torch.bool)
    for rate in (0, 1, 2):
        for dy in (0, rate):
            for dx in (0, rate):
                near[8 - dy, 8 - dx] = True
    assert torch.equal(changed[False], near)
    assert changed[True].all()


def test_image_pooling_is_mean_of_features():
    head = ASPPHead(4, 2, (), True, channels=8, dropout=0.0).eval()
    features = torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        pooled = head.image_pooling(features)
        convolution, norm, _ = head.image_pooling.project
        expected = F.relu(norm(convolution(features.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(pooled, expected.expand(2, 8, 5, 7))


def test_aspp_matches_written_out_computation():
    """Fig. 5: a 1x1 and one 3x3 convolution per rate, the image's features, concatenation, 1x1, logits."""
    torch.manual_seed(0)
    head = ASPPHead(4, 2, (2, 3), True, channels=8, dropout=0.0).eval()
    features = torch.randn(1, 4, 9, 9)

    def unit(layers, x, rate=1):
        weight = layers[0].weight
        padding = rate * (weight.shape[2] // 2)
        return F.relu(layers[1](F.conv2d(x, weight, padding=padding, dilation=rate)))

    with torch.no_grad():
        outputs = [unit(branch, features, rate) for branch, rate in zip(head.branches, (1, 2, 3), strict=True)]
        outputs.append(unit(head.image_pooling.project, features.mean((2, 3), keepdim=True)).expand(1, 8, 9, 9))
        expected = head.classifier(unit(head.project, torch.cat(outputs, 1)))
        torch.testing.assert_close(head(features), expected)


def test_aspp_concatenation_stays_in_channels_last():
    seen = []
    head = ASPPHead(4, 2, (2, 3), True, channels=8, dropout=0.0).to(memory_format=torch.channels_last)
    head.project.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    head(torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sizes", [(33, 33, 513, 513), (3, 4, 33, 50), (1, 1, 7, 9), (5, 5, 5, 5), (9, 9, 4, 5)])
def test_upsample_equals_interpolate_with_its_gradient(sizes, align_corners):
    height, width, *size = sizes
    torch.manual_seed(0)
    logits = torch.randn(2, 3, height, width).to(memory_format=torch.channels_last).requires_grad_()
    expected = F.interpolate(logits, size=size, mode="bilinear", align_corners=align_corners)
    found = upsample(logits, size, align_corners)
    # Without aligned corners, both round the positions between the features.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if align_corners else 1e-5)
    gradient = torch.randn(expected.shape)
    pair = (torch.autograd.grad(output, logits, gradient)[0] for output in (found, expected))
    torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-4)  # sums of hundreds of values


def test_aspp_without_batch_norm_has_biases():
    """And starts as the one with batch norm does: its units' weights have He's scale and not the classifier's."""
    head, usual = (DeepLabV3(small_config(head_batch_norm=norm)).head for norm in (False, True))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in head.modules())
    for unit, normalized in zip((*head.branches, head.project), (*usual.branches, usual.project), strict=True):
        assert unit[0].bias is not None and not unit[0].bias.any() and normalized[0].bias is None
        assert unit[0].weight.std().item() == pytest.approx(normalized[0].weight.std().item(), rel=0.2)


def test_v2_head_is_sum_of_classifiers():
    torch.manual_seed(0)
    head = V2Head(4, 3, (1, 2))
    head.set_rates((2, 4))
    features = torch.randn(2, 4, 9, 9)
    expected = sum(
        F.conv2d(features, layer.weight, layer.bias, padding=rate, dilation=rate)
        for layer, rate in zip(head.classifiers, (2, 4), strict=True)
    )
    torch.testing.assert_close(head(features), expected)


@pytest.mark.parametrize(("align_corners", "exact"), [(True, True), (False, False)])
def test_aligned_corners_keep_feature_positions(align_corners, exact):
    """Crops of k * 16 + 1 pixels: feature (i, j) lies on pixel (16 i, 16 j)."""
    logits = torch.randn(1, 2, 3, 5)
    large = resize(logits, (33, 65), align_corners)
    assert large.shape == (1, 2, 33, 65)
    assert torch.allclose(large[:, :, ::16, ::16], logits, atol=1e-5) == exact
