"""Costs by formula against the framework, which builds the networks and counts what it executes."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from conftest import small_config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from deeplabv3.config import ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.model.cost import layer_costs, multiply_adds, parameters
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough.paper import tables

GRIDS = ((1, 1, 1), (1, 2, 1), (1, 2, 3), (1, 2, 4), (2, 2, 2))


def cascade(backbone: str, last_block: int, multi_grid=(1, 1, 1), output_stride: int = 16) -> ModelConfig:
    return ModelConfig(21, backbone, "cascade", output_stride, multi_grid, last_block)


def aspp(multi_grid=(1, 2, 4), rates=(6, 12, 18), pooling: bool = True, output_stride: int = 16) -> ModelConfig:
    settings = {"atrous_rates": rates, "image_pooling": pooling, "output_stride": output_stride}
    return ModelConfig(21, "resnet101", "aspp", multi_grid=multi_grid, **settings)


def v2(multi_grid: tuple, rates: tuple, output_stride: int = 16) -> ModelConfig:
    settings = {"atrous_rates": rates, "image_pooling": False, "output_stride": output_stride}
    return ModelConfig(21, "resnet101", "v2", multi_grid=multi_grid, **settings)


TABLES = {
    1: [cascade("resnet50", 7, output_stride=stride) for stride in (8, 16, 32, 64, 128, 256)],
    2: [cascade(backbone, block) for backbone in ("resnet50", "resnet101") for block in (4, 5, 6, 7)],
    3: [cascade("resnet101", block, grid) for grid in GRIDS for block in (4, 5, 6, 7)],
    4: [cascade("resnet101", 7, (1, 2, 1), stride) for stride in (16, 8)],
    5: [
        aspp((1, 1, 1), (6, 12, 18), False),
        aspp((1, 2, 1), (6, 12, 18), False),
        aspp((1, 2, 4), (6, 12, 18), False),
        aspp((1, 2, 4), (6, 12, 18, 24), False),
        aspp((1, 2, 4), (6, 12, 18), True),
    ],
    6: [aspp(output_stride=stride) for stride in (16, 8)],
    8: 4 * [aspp()],
    9: 4 * [aspp()],
    10: 2 * [aspp(output_stride=stride) for stride in (8, 16, 32)],
    14: [
        *2 * [v2((1, 1, 1), (3, 6, 9, 12), 8)],
        *2 * [v2((1, 2, 4), (6, 12, 18, 24))],
        cascade("resnet101", 7, (1, 2, 1)),
        *3 * [aspp()],
        replace(aspp(), head_batch_norm=False),
    ],
}
"""The networks of the paper's tables, row by row."""


@pytest.mark.parametrize("number", tables.NUMBERS)
def test_networks_match_paper_tables(number):
    cells = [cell for cell in tables.load(number).cells if cell.variant is not None]
    networks = [ModelConfig(**cell.variant) for cell in cells]
    if number in (4, 6):  # one network at the output strides of its evaluation
        strides = dict.fromkeys(cell.evaluation["output_stride"] for cell in cells)
        networks = [replace(networks[0], output_stride=stride) for stride in strides]
    assert networks == TABLES[number]


@cache  # tables share rows
def framework_counts(config: ModelConfig, height: int, width: int) -> tuple[int, int, list[tuple]]:
    """Parameters, multiply-adds, and each convolution as it is executed; nothing is computed on the meta device."""
    with torch.device("meta"):
        model = DeepLabV3(config).eval()
        images = torch.empty(1, 3, height, width)
    executed = []

    def note(name: str):
        def hook(layer: nn.Conv2d, _, output: torch.Tensor) -> None:
            assert layer.kernel_size[0] == layer.kernel_size[1] and layer.dilation[0] == layer.dilation[1]
            channels = (layer.in_channels, layer.out_channels, layer.groups)
            executed.append((name, layer.kernel_size[0], *channels, layer.dilation[0], *output.shape[2:]))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(name))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2, executed


def formula_counts(config: ModelConfig, height: int, width: int) -> tuple[int, int, list[tuple]]:
    return (
        parameters(config),
        multiply_adds(config, height, width),
        [
            (c.name, c.kernel, c.in_channels, c.out_channels, c.groups, c.rate, c.height, c.width)
            for c in layer_costs(config, height, width)
        ],
    )


@pytest.mark.parametrize("number", TABLES)
def test_table_network_costs_match_torch(number):
    for config in TABLES[number]:
        assert formula_counts(config, 513, 513) == framework_counts(config, 513, 513)


@pytest.mark.parametrize(
    "changes",
    [
        {"stride_unit": "first", "backbone": "resnet101", "extra_convolution": True},
        {"stride_unit": "first", "backbone": "resnet50", "head": "cascade", "last_block": 6, "output_stride": 64},
        {"stride_unit": "first", "output_stride": 8},
        {"backbone": "small_resnet29", "output_stride": 32, "head": "v2", "atrous_rates": (6, 12, 18, 24)},
        {"head": "cascade", "last_block": 5, "num_classes": 7},
        {"atrous_rates": (), "head_channels": 24},
        {"atrous_rates": (), "image_pooling": False, "extra_convolution": True},
        {"head_batch_norm": False, "extra_convolution": True},
        {"backbone": "mobilenet_v2", "num_classes": 21},
        {"backbone": "mobilenet_v2", "output_stride": 8, "image_pooling": False},
        {"backbone": "mobilenet_v2", "output_stride": 16, "head": "cascade", "last_block": 7},
        {"backbone": "mobilenet_v2", "output_stride": 256, "head": "v2", "last_block": 7, "atrous_rates": (6,)},
    ],
    ids=str,
)
def test_variant_costs_match_torch(changes):
    config = small_config(**changes)
    assert formula_counts(config, 97, 130) == framework_counts(config, 97, 130)


@pytest.mark.parametrize("size", [(1, 1), (1, 66), (64, 17), (224, 225)])
def test_indivisible_sizes_are_rounded_up(size):
    assert formula_counts(small_config(), *size) == framework_counts(small_config(), *size)


@pytest.mark.parametrize(
    ("stride_unit", "output_stride", "billions"),
    [("first", 16, 71.1), ("first", 8, 246.2), ("last", 16, 68.9), ("last", 8, 245.1)],
)
def test_paper_model_multiply_adds(stride_unit, output_stride, billions):
    """ResNet-101 with the plain stem on a 513 x 513 image.

    In the paper's layout the last unit of a block already works on the positions of the next one.
    """
    config = ModelConfig(output_stride=output_stride, stride_unit=stride_unit)
    assert multiply_adds(config) / 1e9 == pytest.approx(billions, abs=0.05)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "small_resnet20", "mobilenet_v2"])
def test_rates_do_not_change_cost(backbone):
    """At one output stride neither the multi-grid nor ASPP's rates change the cost (Section 3.1)."""
    configs = [small_config(backbone=backbone, multi_grid=g, atrous_rates=r) for g in GRIDS for r in ((1, 2), (6, 12))]
    assert len({(parameters(config), multiply_adds(config)) for config in configs}) == 1
    assert len({tuple(layer_costs(config, 513, 513)) for config in configs}) == len(configs)


def test_impossible_network_cost_is_user_error():
    with pytest.raises(UserError, match="output_stride 64"):
        parameters(small_config(output_stride=64))
    with pytest.raises(UserError, match="vgg16"):
        multiply_adds(small_config(backbone="vgg16"))
    with pytest.raises(UserError, match="height and width"):
        multiply_adds(ModelConfig(), 0, 513)
