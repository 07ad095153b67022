"""Atrous arithmetic: which stride and rate every convolution gets, and what follows from it (Sections 3.1 to 3.3).

Nothing else in the project writes a rate down by hand: the model, the notebooks and the tests all ask
:func:`plan_rates` and :func:`aspp_rates`.
"""

from dataclasses import dataclass
from math import prod

from deeplabv3.config import STRIDE_UNITS
from deeplabv3.errors import UserError

GRID_BLOCK = 4
"""The first block that the multi-grid applies to; blocks 5 to 7 are its replicas (Section 3.2.1)."""


@dataclass(frozen=True)
class BackboneSpec:
    """The shape of a backbone as far as strides and rates are concerned.

    ``units`` counts the units (with one 3x3 convolution each) of block1 … block4; ``stem`` lists the stem's layers as
    (kernel, stride) pairs, whose strides multiply to 4, the output stride of "Conv1 + Pool1" in Fig. 3.
    """

    units: tuple[int, int, int, int]
    stem: tuple[tuple[int, int], ...]

    @property
    def stem_stride(self) -> int:
        return prod(stride for _, stride in self.stem)


_RESNET_STEM = ((7, 2), (3, 2))
_SMALL_STEM = ((3, 2), (3, 2))

BACKBONES = {
    "resnet50": BackboneSpec((3, 4, 6, 3), _RESNET_STEM),
    "resnet101": BackboneSpec((3, 4, 23, 3), _RESNET_STEM),
    "small_resnet20": BackboneSpec((1, 1, 1, 3), _SMALL_STEM),
    "small_resnet29": BackboneSpec((1, 2, 3, 3), _SMALL_STEM),
    # features.0 to features.2 are the stem; features.4, 7 and 14 carry the strides of block1, block2 and block3 in
    # their last unit, just as the paper's ResNets do, so the pretrained weights and the paper's rates agree.
    "mobilenet_v2": BackboneSpec((2, 3, 7, 3), ((3, 2), (3, 1), (3, 2))),
}


@dataclass(frozen=True)
class UnitPlan:
    """Stride and rate of the 3x3 convolution of one unit: ``unit`` counts from 1 within ``block``."""

    block: int
    unit: int
    stride: int
    rate: int


def backbone_spec(backbone: str) -> BackboneSpec:
    """The spec of a backbone by name; an unknown name is a :class:`UserError`."""
    if backbone not in BACKBONES:
        raise UserError(f"backbone {backbone!r} is unknown; choose one of {', '.join(BACKBONES)}.")
    return BACKBONES[backbone]


def nominal_stride(last_block: int = GRID_BLOCK) -> int:
    """Output stride of a network that ends in block ``last_block`` without any atrous convolution (Fig. 3 (a))."""
    return 4 * 2 ** (last_block - 1)


def plan_rates(
    backbone: str,
    output_stride: int,
    multi_grid: tuple[int, int, int] = (1, 1, 1),
    last_block: int = GRID_BLOCK,
    stride_unit: str = "last",
) -> tuple[UnitPlan, ...]:
    """Stride and rate of the 3x3 convolution of every unit of block1 … block``last_block`` (Sections 3.1, 3.2, Fig. 3).

    Walk through the units in order. A strided unit that would make the features coarser than ``output_stride`` loses
    its stride, and the rate of every *later* convolution doubles: each weight still sees what it saw. A unit of block4
    and beyond multiplies the rate by its entry of ``multi_grid`` (Section 3.2.1).

    ``stride_unit`` is the unit of a block that has its stride. ``"last"``: the last unit (of the last block none), so
    that all units of a block run at one block rate and block4 at output stride 16 has rates (2, 2, 2) x grid.
    ``"first"``: the first unit of block2 and later, as torchvision's ImageNet weights were trained; that first unit
    then runs at the previous block's rate, (1, 2, 2) x grid, and the pretrained features stay what they were. For
    MobileNetV2 both names mean the same network.
    """
    spec = backbone_spec(backbone)
    _check_plan(output_stride, multi_grid, last_block, stride_unit)
    units_per_block = spec.units + (spec.units[3],) * (last_block - GRID_BLOCK)
    first_unit_strided = stride_unit == "first" and backbone != "mobilenet_v2"

    plan, stride, rate = [], spec.stem_stride, 1
    for block, units in enumerate(units_per_block, start=1):
        for unit in range(1, units + 1):
            first, last = unit == 1 and block > 1, unit == units and block < last_block
            has_stride = first if first_unit_strided else last
            unit_stride = 2 if has_stride else 1
            unit_rate = multi_grid[unit - 1] if block >= GRID_BLOCK else 1
            if stride * unit_stride > output_stride:
                plan.append(UnitPlan(block, unit, 1, rate * unit_rate))
                rate *= unit_stride
            else:
                plan.append(UnitPlan(block, unit, unit_stride, rate * unit_rate))
                stride *= unit_stride
    return tuple(plan)


def _check_plan(output_stride: int, multi_grid: tuple[int, ...], last_block: int, stride_unit: str) -> None:
    if stride_unit not in STRIDE_UNITS:
        raise UserError(f"stride_unit {stride_unit!r} is unknown; choose 'last' or 'first'.")
    if last_block not in (4, 5, 6, 7):
        raise UserError(f"last_block is {last_block!r}; the cascade ends in block 4, 5, 6 or 7.")
    if len(multi_grid) != 3 or any(not isinstance(r, int) or r < 1 for r in multi_grid):
        raise UserError(f"multi_grid is {multi_grid!r}; it takes three unit rates of at least 1, such as (1, 2, 4).")
    allowed = [stride for stride in (4, 8, 16, 32, 64, 128, 256) if stride <= nominal_stride(last_block)]
    if output_stride not in allowed or not isinstance(output_stride, int):
        raise UserError(
            f"output_stride {output_stride!r} is not possible for a network that ends in block{last_block}; "
            f"choose one of {', '.join(map(str, allowed))}."
        )


def aspp_rates(rates_at_16: tuple[int, ...], output_stride: int) -> tuple[int, ...]:
    """The rates of ASPP's 3x3 convolutions at ``output_stride``, from those stated for output stride 16 (Section 3.3).

    They are doubled at output stride 8, so that the same weights see the same pixels; at 32 and coarser they are
    halved, rounded down, and at least 1 (the paper gives no rates there).
    """
    return tuple(max(1, rate * 16 // output_stride) for rate in rates_at_16)


def effective_kernel(kernel: int, rate: int) -> int:
    """Extent in feature positions of a ``kernel`` x ``kernel`` filter with ``rate - 1`` zeros between its weights."""
    return kernel + (kernel - 1) * (rate - 1)


def receptive_field(layers: list[tuple[int, int, int]]) -> int:
    """Side length in input pixels that one output position sees, for layers of (kernel, stride, rate) in order."""
    field, stride = 1, 1
    for kernel, layer_stride, rate in layers:
        field += (effective_kernel(kernel, rate) - 1) * stride
        stride *= layer_stride
    return field


def backbone_layers(backbone: str, plan: tuple[UnitPlan, ...]) -> list[tuple[int, int, int]]:
    """(kernel, stride, rate) of the stem and of every unit of ``plan``: the input of :func:`receptive_field`."""
    stem = [(kernel, stride, 1) for kernel, stride in backbone_spec(backbone).stem]
    return stem + [(3, unit.stride, unit.rate) for unit in plan]


def count_valid_weights(size: int, rate: int) -> dict[int, int]:
    """Fig. 4 by enumeration: how many of the ``size`` x ``size`` positions see 1, 2, 3, 4, 6 or 9 valid weights.

    A weight of the 3x3 filter is valid where it falls on the feature map and not on the zero padding around it.
    """
    per_axis = [sum(0 <= position + tap * rate < size for tap in (-1, 0, 1)) for position in range(size)]
    counts = {1: 0, 2: 0, 3: 0, 4: 0, 6: 0, 9: 0}
    for vertical in per_axis:
        for horizontal in per_axis:
            counts[vertical * horizontal] += 1
    return counts


def valid_weights_formula(size: int, rate: int) -> dict[int, float]:
    """Fig. 4 in closed form: the fraction of positions with 1, 2, 3, 4, 6 and 9 valid weights (any size and rate).

    Along one axis ``size - 2 * rate`` positions keep three taps, the ones nearer than ``rate`` to exactly one border
    keep two, and the ones nearer than ``rate`` to both keep only the center; the two axes are independent.
    """
    three = max(0, size - 2 * rate) / size
    one = min(size, max(0, 2 * rate - size)) / size
    two = 1 - three - one
    return {1: one**2, 2: 2 * one * two, 3: 2 * one * three, 4: two**2, 6: 2 * two * three, 9: three**2}
