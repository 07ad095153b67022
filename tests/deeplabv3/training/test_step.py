"""The training step: learning rates, the loss, parts of a batch, bfloat16, and settings that are refused."""

import math

import pytest
import torch
from conftest import small_config
from torch import nn
from training_helpers import new_model, short_config

from deeplabv3.config import VOID, TrainingConfig
from deeplabv3.errors import UserError
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.step import (
    ModelWithLoss,
    downsample_labels,
    linear_warmup,
    make_optimizer,
    poly,
    segmentation_loss,
    training_step,
)

# --- learning rates and optimizer


@pytest.mark.parametrize(
    ("step", "iterations", "power", "expected"),
    [
        (0, 30_000, 0.9, 1.0),
        (15_000, 30_000, 0.9, 0.535887),  # 0.5 ** 0.9
        (29_999, 30_000, 0.9, 9.3459e-05),  # (1 / 30000) ** 0.9
        (30_000, 30_000, 0.9, 0.0),
        (1, 4, 1.0, 0.75),
        (1, 4, 2.0, 0.5625),
    ],
)
def test_poly_equals_values_by_hand(step, iterations, power, expected):
    assert poly(step, iterations, power) == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize(
    ("freeze_steps", "warmup_steps", "expected"),
    [(0, 0, [1, 1, 1, 1]), (2, 0, [0, 0, 1, 1]), (0, 3, [0.25, 0.5, 0.75, 1]), (1, 1, [0, 0.5, 1, 1])],
)
def test_linear_warmup_equals_values_by_hand(freeze_steps, warmup_steps, expected):
    assert [linear_warmup(step, freeze_steps, warmup_steps) for step in range(4)] == pytest.approx(expected)


def test_optimizer_has_the_settings_and_two_groups():
    model = new_model().freeze_batch_norm()
    optimizer = make_optimizer(model, short_config(momentum=0.8, weight_decay=0.03))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.8, 0.8]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.03, 0.03]
    expected = [{id(p) for p in part.parameters() if p.requires_grad} for part in (model.backbone, model.head)]
    assert [{id(p) for p in group["params"]} for group in optimizer.param_groups] == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 0},
        {"batch_size": 0},
        {"crop_size": -1},
        {"crop_size": 8},
        {"batch_size": 2.5},
        {"lr": -1.0},
        {"lr": float("inf")},
        {"weight_decay": float("nan")},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": ("a",)},
        {"grad_accum_steps": 3},
        {"grad_accum_steps": 0},
        {"precision": "half"},
    ],
)
def test_impossible_settings_are_refused_by_name(changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        TrainingConfig(**{"batch_size": 4} | changes)


# --- the loss


class FixedLogits(nn.Module):
    """A network whose logits, at the features' resolution, are given."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.config = small_config(align_corners=True)

    def features_to_logits(self, images):
        return self.logits


def test_void_pixels_do_not_count():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 5, 5))
    labels[:, 1:3, 2:] = VOID
    logits = torch.randn(2, 3, 5, 5)
    images = torch.zeros(2, 3, 5, 5)
    loss = segmentation_loss(FixedLogits(logits), images, labels)

    by_hand = [
        -math.log(torch.softmax(logits[n, :, y, x].double(), 0)[labels[n, y, x]])
        for n in range(2)
        for y in range(5)
        for x in range(5)
        if labels[n, y, x] != VOID
    ]
    assert loss.item() == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    changed = torch.where((labels == VOID)[:, None], torch.randn(2, 3, 5, 5) * 100, logits)
    assert segmentation_loss(FixedLogits(changed), images, labels).item() == loss.item()


@pytest.mark.parametrize("upsample", [True, False])
def test_void_batch_has_loss_and_gradient_zero(upsample):
    model = FixedLogits(torch.randn(1, 3, 3, 3))
    loss = segmentation_loss(model, torch.zeros(1, 3, 9, 9), torch.full((1, 9, 9), VOID), upsample)
    loss.backward()
    assert loss.item() == 0
    assert not model.logits.grad.any()


def test_downsampled_labels_lose_thin_parts():
    """Table 8: the ground truth keeps its size, the logits are upsampled to it."""
    logits = torch.tensor([[4.0, 0.0]]).view(1, 2, 1, 1).repeat(1, 1, 3, 3)  # sure of class 0 everywhere
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[0, 1] = 1  # a line that none of the 3 x 3 nearest label pixels lies on
    images = torch.zeros(1, 3, 9, 9)
    right, wrong = math.log(1 + math.exp(-4)), math.log(1 + math.exp(4))
    upsampled = segmentation_loss(FixedLogits(logits), images, labels)
    downsampled = segmentation_loss(FixedLogits(logits), images, labels, upsample_logits=False)
    assert upsampled.item() == pytest.approx((8 * right + wrong) / 9, rel=1e-5)
    assert downsampled.item() == pytest.approx(right, rel=1e-5)


def test_downsampled_labels_keep_void():
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[:, :5] = VOID
    model = FixedLogits(torch.randn(1, 2, 3, 3))
    segmentation_loss(model, torch.zeros(1, 3, 9, 9), labels, upsample_logits=False).backward()
    has_gradient = model.logits.grad[0].abs().sum(0) > 0
    assert has_gradient.any(1).tolist() == [False, False, True]


@pytest.mark.parametrize("size", [17, 33, 65])
def test_downsampled_labels_are_every_eighth_pixel(size):
    labels = torch.arange(size * size).view(1, size, size)
    assert torch.equal(downsample_labels(labels, ((size - 1) // 8 + 1,) * 2), labels[:, ::8, ::8])


def test_downsampled_labels_of_any_size_keep_corners():
    labels = torch.arange(30 * 47).view(1, 30, 47)
    small = downsample_labels(labels, (4, 6))
    assert [small[0, y, x].item() for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == [0, 46, 29 * 47, 30 * 47 - 1]


# --- the step


def random_batch(number: int = 4, size: int = 33) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels; every image has another share of void."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (number, size, size, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (number, size, size), generator=generator, dtype=torch.uint8)
    for n in range(number):
        labels[n, : 8 * n] = VOID
    return images, labels


def after_one_step(frozen: bool, **changes) -> tuple[dict, float]:
    """State and loss."""
    model = new_model().freeze_batch_norm(frozen).train()
    config = TrainingConfig(iterations=10, batch_size=4, crop_size=33, lr=0.5, freeze_batch_norm=frozen, **changes)
    optimizer = make_optimizer(model, config)
    loss = training_step(ModelWithLoss(model, config), optimizer, config, 0, 0, *random_batch())
    return model.state_dict(), loss.item()


@pytest.mark.parametrize("upsample", [True, False], ids=["upsampled logits", "downsampled labels"])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradient_is_that_of_the_batch(parts, upsample):
    """With frozen batch norm, whose statistics are a part's otherwise; void pixels are spread unevenly over parts."""
    expected, expected_loss = after_one_step(True, upsample_logits=upsample)
    state, loss = after_one_step(True, upsample_logits=upsample, grad_accum_steps=parts)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    before = DeepLabV3(small_config()).state_dict()
    for name, value in state.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(expected["head.classifier.weight"], before["head.classifier.weight"])


def test_batch_norm_sees_one_accumulated_part():
    """Accumulation has the statistics of a smaller batch, as the setting's comment and notebook 6 say."""
    whole, _ = after_one_step(False)
    parts, _ = after_one_step(False, grad_accum_steps=2)
    name = next(name for name in whole if name.endswith("running_var"))
    assert not torch.allclose(whole[name], parts[name], rtol=1e-6)


def test_bfloat16_is_near_and_keeps_weights_float32():
    exact, exact_loss = after_one_step(True)
    rounded, loss = after_one_step(True, precision="bfloat16")
    assert loss == pytest.approx(exact_loss, rel=0.02)
    assert loss != exact_loss
    assert {value.dtype for value in rounded.values()} == {value.dtype for value in exact.values()}
