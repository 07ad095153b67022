"""Heads: what each of them computes, and that each of them learns."""

import pytest
import torch
from conftest import small_config
from torch.nn import functional as F

from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import ASPPHead, V2Head, resize

VARIANTS = {
    "aspp": {},
    "aspp without pooling": {"image_pooling": False},
    "aspp with four rates": {"atrous_rates": (1, 2, 3, 4)},
    "aspp without rates": {"atrous_rates": ()},
    "aspp as in torchvision": {"extra_convolution": True, "align_corners": False, "layout": "torchvision"},
    "cascade to block4": {"head": "cascade"},
    "cascade to block7": {"head": "cascade", "last_block": 7, "multi_grid": (1, 2, 1)},
    "v2": {"head": "v2"},
    "mobilenet": {"backbone": "mobilenet_v2"},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("size", [(33, 47), (50, 65)])
def test_logits_have_the_size_of_the_images(make_model, variant, size):
    model = make_model(**variant).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
        assert model.features_to_logits(torch.randn(1, 3, *size)).shape[2:] == tuple(-(-n // 16) for n in size)
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_one_batch_is_learned_by_heart(variant):
    torch.manual_seed(0)
    model = DeepLabV3(small_config(**variant | {"output_stride": 8})).train()
    labels = torch.zeros(2, 33, 33, dtype=torch.long)
    labels[0, :, 17:], labels[1, 17:] = 1, 2
    images = F.one_hot(labels, 3).permute(0, 3, 1, 2) + 0.3 * torch.randn(2, 3, 33, 33)
    optimiser = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    first = None
    for _ in range(50):
        loss = F.cross_entropy(model(images), labels)
        first = first or loss.item()
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimiser.step()
    assert 0.9 < first < 1.3  # log 3: the logits start near zero
    assert loss.item() < 0.03


def test_logits_start_near_zero():
    model = DeepLabV3(small_config())
    for layer in (model.head.classifier, *DeepLabV3(small_config(head="v2")).head.classifiers):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.3)
        assert not layer.bias.any()


def test_only_image_pooling_sees_the_whole_picture():
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


def test_image_pooling_is_the_mean_of_the_features():
    head = ASPPHead(4, 2, (), True, channels=8, dropout=0.0).eval()
    features = torch.randn(2, 4, 5, 7)
    with torch.no_grad():
        pooled = head.image_pooling(features)
        convolution, norm, _ = head.image_pooling.project
        expected = F.relu(norm(convolution(features.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(pooled, expected.expand(2, 8, 5, 7))


def test_aspp_is_written_out():
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


def test_v2_is_the_sum_of_atrous_classifiers():
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
def test_aligned_corners_share_positions_with_the_pixels(align_corners, exact):
    """Crops of k * 16 + 1 pixels: feature (i, j) lies on pixel (16 i, 16 j)."""
    logits = torch.randn(1, 2, 3, 5)
    large = resize(logits, (33, 65), align_corners)
    assert large.shape == (1, 2, 33, 65)
    assert torch.allclose(large[:, :, ::16, ::16], logits, atol=1e-5) == exact
