"""Strides and rates against the paper's figures and tables, and against what convolutions really do."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models import resnet50

from deeplabv3.errors import UserError
from deeplabv3.model.atrous import (
    BACKBONES,
    aspp_rates,
    backbone_layers,
    count_valid_weights,
    effective_kernel,
    nominal_stride,
    plan_rates,
    receptive_field,
    valid_weights_formula,
)

GRIDS = ((1, 1, 1), (1, 2, 1), (1, 2, 3), (1, 2, 4), (2, 2, 2))
"""Table 3."""


def stride_after_blocks(plan, stem_stride: int = 4) -> list[int]:
    """Output stride after the stem and after every block."""
    strides = [stem_stride]
    for block in range(1, plan[-1].block + 1):
        stride = strides[-1]
        for unit in plan:
            stride *= unit.stride if unit.block == block else 1
        strides.append(stride)
    return strides


def rates_of(plan, block: int) -> list[int]:
    return [unit.rate for unit in plan if unit.block == block]


def atrous_convolution_1d(x: np.ndarray, w: np.ndarray, rate: int, padding: int, stride: int) -> np.ndarray:
    """Equation (1), y[i] = sum over k of x[i + rate k] w[k], at every ``stride``-th position of a padded signal."""
    padded = np.zeros(len(x) + 2 * padding)
    for i in range(len(x)):
        padded[padding + i] = x[i]
    y = []
    for start in range(0, len(padded) - rate * (len(w) - 1), stride):
        total = 0.0
        for k in range(len(w)):
            total += padded[start + rate * k] * w[k]
        y.append(total)
    return np.array(y)


def atrous_convolution_2d(x: np.ndarray, w: np.ndarray, rate: int, padding: int, stride: int) -> np.ndarray:
    """Equation (1) for ``x (C, H, W)`` and ``w (D, C, K, K)``; taps on the padding are left out instead of padded."""
    extent = rate * (w.shape[2] - 1)
    y = np.zeros((len(w), *((n + 2 * padding - extent - 1) // stride + 1 for n in x.shape[1:])))
    for d, i, j in np.ndindex(*y.shape):
        for c, k, m in np.ndindex(*w.shape[1:]):
            row, column = i * stride - padding + rate * k, j * stride - padding + rate * m
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                y[d, i, j] += x[c, row, column] * w[d, c, k, m]
    return y


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_atrous_convolution_1d_matches_torch(kernel):
    """Whole numbers in double precision: the sums are exact in any order, so that equal means equal."""
    rng = np.random.default_rng(kernel)
    compared = 0
    for rate, padding, stride, size in product((1, 2, 3, 5, 12), (0, 1, 2, 5, 12), (1, 2, 3), (1, 2, 7, 12, 31)):
        if size + 2 * padding > rate * (kernel - 1):
            x, w = rng.integers(-9, 10, size).astype(float), rng.integers(-9, 10, kernel).astype(float)
            signal, weights = torch.from_numpy(x)[None, None], torch.from_numpy(w)[None, None]
            expected = F.conv1d(signal, weights, stride=stride, padding=padding, dilation=rate)
            assert np.array_equal(atrous_convolution_1d(x, w, rate, padding, stride), expected[0, 0].numpy())
            compared += 1
    assert compared > 150


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_atrous_convolution_2d_matches_torch(kernel):
    rng = np.random.default_rng(kernel)
    compared = 0
    for rate, padding, stride, size in product((1, 2, 3, 6), (0, 1, 2, 6), (1, 2, 3), ((1, 5), (6, 4), (7, 7))):
        if min(size) + 2 * padding > rate * (kernel - 1):
            x = rng.integers(-9, 10, (2, *size)).astype(float)
            w = rng.integers(-9, 10, (2, 2, kernel, kernel)).astype(float)
            expected = F.conv2d(
                torch.from_numpy(x)[None], torch.from_numpy(w), stride=stride, padding=padding, dilation=rate
            )
            assert np.array_equal(atrous_convolution_2d(x, w, rate, padding, stride), expected[0].numpy())
            compared += 1
    assert compared > 70


@pytest.mark.parametrize("backbone", BACKBONES)
def test_figure_3_without_atrous_convolution(backbone):
    plan = plan_rates(backbone, 256, last_block=7)
    assert stride_after_blocks(plan) == [4, 8, 16, 32, 64, 128, 256, 256]
    assert {unit.rate for unit in plan} == {1}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_figure_3_with_atrous_convolution(backbone):
    plan = plan_rates(backbone, 16, last_block=7)
    assert stride_after_blocks(plan) == [4, 8, 16, 16, 16, 16, 16, 16]
    assert [set(rates_of(plan, block)) for block in range(1, 8)] == [{1}, {1}, {1}, {2}, {4}, {8}, {16}]


BLOCK_RATES = {
    8: (1, 1, 2, 4, 8, 16, 32),
    16: (1, 1, 1, 2, 4, 8, 16),
    32: (1, 1, 1, 1, 2, 4, 8),
    64: (1, 1, 1, 1, 1, 2, 4),
    128: (1, 1, 1, 1, 1, 1, 2),
    256: (1, 1, 1, 1, 1, 1, 1),
}
"""Rates of block1 … block7 by output stride, written down by hand: Fig. 3 (b) at 16, Section 4.1's at 8, (a) at 256."""


@pytest.mark.parametrize("stride_unit", ["last", "first"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("output_stride", BLOCK_RATES)
def test_rates_are_block_rate_times_multi_grid(backbone, output_stride, stride_unit):
    """Section 3.2.1, for all of Table 3's grids and every depth; torchvision's first units keep the previous rate."""
    first_unit_strided = stride_unit == "first" and backbone != "mobilenet_v2"
    for grid, last_block in product(GRIDS, (4, 5, 6, 7)):
        if output_stride > nominal_stride(last_block):
            continue
        plan = plan_rates(backbone, output_stride, grid, last_block, stride_unit)
        for block in range(1, last_block + 1):
            units = rates_of(plan, block)
            rates = [BLOCK_RATES[output_stride][block - 1]] * len(units)
            if first_unit_strided and block > 1:
                rates[0] = BLOCK_RATES[output_stride][block - 2]
            if block >= 4:
                rates = [rate * unit_rate for rate, unit_rate in zip(rates, grid, strict=True)]
            assert units == rates
        halved = [*range(last_block)] if first_unit_strided else [*range(1, last_block), last_block - 1]
        assert stride_after_blocks(plan) == [4] + [min(4 * 2**times, output_stride) for times in halved]


@pytest.mark.parametrize(
    ("output_stride", "grid", "stride_unit", "expected"),
    [
        # Section 3.2.1: "when output stride = 16 and Multi Grid = (1, 2, 4), the three convolutions will have rates
        # = 2 * (1, 2, 4) = (2, 4, 8)"
        (16, (1, 2, 4), "last", {3: {1}, 4: [2, 4, 8]}),
        (16, (2, 2, 2), "last", {3: {1}, 4: [4, 4, 4]}),
        (32, (1, 2, 4), "last", {3: {1}, 4: [1, 2, 4]}),
        (8, (1, 1, 1), "last", {2: {1}, 3: {2}, 4: [4, 4, 4], 5: [8, 8, 8], 6: [16, 16, 16], 7: [32, 32, 32]}),
        (8, (1, 2, 1), "last", {3: {2}, 4: [4, 8, 4], 5: [8, 16, 8]}),
        (16, (1, 1, 1), "first", {3: {1}, 4: [1, 2, 2], 5: [2, 4, 4]}),
        (16, (1, 2, 4), "first", {3: {1}, 4: [1, 4, 8]}),
        (8, (1, 2, 4), "first", {3: {1, 2}, 4: [2, 8, 16]}),
    ],
)
def test_rates_of_blocks(output_stride, grid, stride_unit, expected):
    plan = plan_rates("resnet101", output_stride, grid, 7, stride_unit)
    for block, rates in expected.items():
        found = rates_of(plan, block)
        assert (set(found) if isinstance(rates, set) else found) == rates


@pytest.mark.parametrize("stride_unit", ["last", "first"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_output_stride_keeps_rate_times_stride(backbone, stride_unit):
    """Rate x stride of the features is, in input pixels, what it is in the network without atrous convolution."""

    def reach(plan):
        stride, found = BACKBONES[backbone].stem_stride, []
        for unit in plan:
            found.append(unit.rate * stride)
            stride *= unit.stride
        return found, stride

    for last_block, grid in product((4, 5, 6, 7), GRIDS):
        nominal, _ = reach(plan_rates(backbone, nominal_stride(last_block), grid, last_block, stride_unit))
        for output_stride in (4, 8, 16, 32, 64, 128, 256):
            if output_stride <= nominal_stride(last_block):
                found, final_stride = reach(plan_rates(backbone, output_stride, grid, last_block, stride_unit))
                assert found == nominal
                assert final_stride == output_stride


def test_mobilenet_plan_ignores_stride_unit():
    """Its pretrained strides sit where the paper's do."""
    assert plan_rates("mobilenet_v2", 8, (1, 2, 4)) == plan_rates("mobilenet_v2", 8, (1, 2, 4), stride_unit="first")


@pytest.mark.parametrize(("output_stride", "dilate"), [(16, [False, False, True]), (8, [False, True, True])])
def test_first_unit_strides_match_torchvision(output_stride, dilate):
    with torch.device("meta"):
        reference = resnet50(replace_stride_with_dilation=dilate)
    layers = [unit for name in ("layer1", "layer2", "layer3", "layer4") for unit in getattr(reference, name)]
    ours = [(unit.stride, unit.rate) for unit in plan_rates("resnet50", output_stride, stride_unit="first")]
    assert ours == [(unit.conv2.stride[0], unit.conv2.dilation[0]) for unit in layers]


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [(4, (24, 48, 72)), (8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9)), (256, (1, 1, 1))],
)
def test_aspp_rates_follow_the_output_stride(output_stride, expected):
    assert aspp_rates((6, 12, 18), output_stride) == expected


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("vgg16", 16), "vgg16"),
        (("resnet50", 12), "output_stride 12"),
        (("resnet50", 2), "output_stride 2"),
        (("resnet50", 64), "block4"),
        (("resnet50", 512, (1, 1, 1), 7), "output_stride 512"),
        (("resnet50", 16, (1, 2)), "multi_grid"),
        (("resnet50", 16, (1, 0, 1)), "multi_grid"),
        (("resnet50", 16, (1, 2, 1.5)), "multi_grid"),
        (("resnet50", 16, (1, 1, 1), 8), "last_block"),
        (("resnet50", 16, (1, 1, 1), 4, "caffe"), "caffe"),
    ],
)
def test_impossible_plan_is_user_error(arguments, word):
    with pytest.raises(UserError, match=word):
        plan_rates(*arguments)


@pytest.mark.parametrize(("backbone", "field"), [("resnet50", 483), ("resnet101", 1027), ("mobilenet_v2", 491)])
def test_receptive_field_matches_published_values(backbone, field):
    """Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", 2019."""
    for output_stride in (32, 16, 8):
        assert receptive_field(backbone_layers(backbone, plan_rates(backbone, output_stride))) == field


@pytest.mark.parametrize("layers", [[(3, 1, 1)], [(3, 2, 1), (3, 1, 4)], [(7, 2, 1), (3, 2, 1), (3, 1, 2), (3, 1, 3)]])
def test_receptive_field_matches_gradient_in_1d(layers):
    signal = torch.zeros(1, 1, 401, requires_grad=True)
    x = signal
    for kernel, stride, rate in layers:
        assert effective_kernel(kernel, rate) == 1 + (kernel - 1) * rate
        x = F.conv1d(x, torch.ones(1, 1, kernel), stride=stride, dilation=rate)
    x[0, 0, x.shape[2] // 2].backward()
    reached = signal.grad[0, 0].nonzero()
    assert receptive_field(layers) == reached.max() - reached.min() + 1


@pytest.mark.parametrize("size", [65, 33, 21, 8])
def test_figure_4_enumeration_convolution_and_closed_form_agree(size):
    ones, filter_of_ones = torch.ones(1, 1, size, size), torch.ones(1, 1, 3, 3)
    for rate in range(1, 97):
        counts = count_valid_weights(size, rate)
        valid = F.conv2d(ones, filter_of_ones, padding=rate, dilation=rate).round().int()
        assert counts == {number: int((valid == number).sum()) for number in (1, 2, 3, 4, 6, 9)}
        fractions = valid_weights_formula(size, rate)
        assert {n: f * size**2 for n, f in fractions.items()} == pytest.approx(counts, abs=1e-6)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (1, (0.939, 0.060, 0.001, 0, 0)),
        (6, (0.665, 0.301, 0.034, 0, 0)),
        (12, (0.398, 0.466, 0.136, 0, 0)),
        (18, (0.199, 0.494, 0.307, 0, 0)),
        (24, (0.068, 0.386, 0.545, 0, 0)),
        (36, (0, 0, 0.796, 0.192, 0.012)),
        (48, (0, 0, 0.274, 0.499, 0.228)),
        (60, (0, 0, 0.024, 0.260, 0.716)),
        (65, (0, 0, 0, 0, 1)),
        (96, (0, 0, 0, 0, 1)),
    ],
)
def test_figure_4_values(rate, expected):
    fractions = valid_weights_formula(65, rate)
    assert [fractions[number] for number in (9, 6, 4, 2, 1)] == pytest.approx(expected, abs=6e-4)


def test_crop_of_321_leaves_few_valid_weights():
    """Table 8: at output stride 16 rate 18 has 21 x 21 features there, and 33 x 33 at crop 513."""

    def mean_taps(size):
        return sum(taps * fraction for taps, fraction in valid_weights_formula(size, 18).items())

    assert mean_taps(21) == pytest.approx(1.65, abs=0.005)
    assert mean_taps(33) == pytest.approx(3.64, abs=0.005)
    assert valid_weights_formula(21, 18)[1] == pytest.approx(0.51, abs=0.005)
