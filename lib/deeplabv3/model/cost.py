"""Parameters and multiply-adds by formula: what a configuration costs, without building its network.

A k x k convolution holds k² · C_in / groups · C_out weights, and each of them is multiplied once per output position.
The rate is in neither formula: the price of a smaller output stride is in the positions, four times as many at half the
stride (Sections 3.1 and 3.2). Batch norm, ReLU, pooling and upsampling are not counted as multiply-adds, as usual.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from deeplabv3.config import ModelConfig
from deeplabv3.errors import require
from deeplabv3.model.atrous import GRID_BLOCK, UnitPlan, aspp_rates, backbone_spec, plan_rates
from deeplabv3.model.mobilenet import BLOCK_CHANNELS, STAGES, STEM_FEATURES
from deeplabv3.model.resnet import EXPANSION, WIDTHS

Size = tuple[int, int]
"""Height and width in feature positions (in pixels where the image enters)."""


@dataclass(frozen=True)
class LayerCost:
    """One convolution: ``name`` is that of its module, ``height`` x ``width`` the size of its output.

    ``norm`` is true where batch norm follows; a convolution without it has a bias.
    """

    name: str
    kernel: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    rate: int = 1
    groups: int = 1
    norm: bool = True

    @property
    def weights(self) -> int:
        """Values in the filters."""
        return self.kernel**2 * (self.in_channels // self.groups) * self.out_channels

    @property
    def parameters(self) -> int:
        """Weights, and per output channel batch norm's scale and shift, or else the bias."""
        return self.weights + self.out_channels * (2 if self.norm else 1)

    @property
    def multiply_adds(self) -> int:
        """Products for one image: every weight once per output position, also where it falls on the zero padding."""
        return self.weights * self.height * self.width


def layer_costs(config: ModelConfig, height: int, width: int) -> list[LayerCost]:
    """Every convolution of the network on a ``height`` x ``width`` image, in the order of computation.

    A configuration that has no network is a :class:`~deeplabv3.errors.UserError`, as it is when the network is built.
    """
    require(height >= 1 and width >= 1, "height and width", (height, width), "whole numbers of at least 1")
    plan = plan_rates(config.backbone, config.output_stride, config.multi_grid, config.last_block, config.stride_unit)
    backbone = _mobilenet_v2 if config.backbone == "mobilenet_v2" else _resnet
    layers = list(backbone(config, plan, (height, width)))
    features = layers[-1]
    return layers + list(_head(config, features.out_channels, (features.height, features.width)))


def parameters(config: ModelConfig) -> int:
    """Trainable values of the network; no size, output stride or rate changes them."""
    return sum(layer.parameters for layer in layer_costs(config, 1, 1))


def multiply_adds(config: ModelConfig, height: int = 513, width: int = 513) -> int:
    """Multiply-adds of one forward pass on one image, by default one of the paper's size."""
    return sum(layer.multiply_adds for layer in layer_costs(config, height, width))


def _strided(size: Size, stride: int) -> Size:
    """Output size of a layer whose padding keeps the size at stride 1, as that of all layers here does."""
    return -(-size[0] // stride), -(-size[1] // stride)


def _resnet(config: ModelConfig, plan: tuple[UnitPlan, ...], size: Size) -> Iterator[LayerCost]:
    widths = WIDTHS[config.backbone]
    (kernel, stride), (_, pooling_stride) = backbone_spec(config.backbone).stem
    channels = widths[0]
    size = _strided(size, stride)
    yield LayerCost("backbone.conv1", kernel, 3, channels, *size)
    size = _strided(size, pooling_stride)
    for unit in plan:
        name = f"backbone.block{unit.block}.{unit.unit - 1}"
        inner = widths[min(unit.block, GRID_BLOCK) - 1]
        outer = inner * EXPANSION
        strided = _strided(size, unit.stride)
        if channels != outer:
            yield LayerCost(f"{name}.downsample.0", 1, channels, outer, *strided)
        yield LayerCost(f"{name}.conv1", 1, channels, inner, *size)
        yield LayerCost(f"{name}.conv2", 3, inner, inner, *strided, unit.rate)
        yield LayerCost(f"{name}.conv3", 1, inner, outer, *strided)
        channels, size = outer, strided


def _mobilenet_v2(config: ModelConfig, plan: tuple[UnitPlan, ...], size: Size) -> Iterator[LayerCost]:
    stem = backbone_spec(config.backbone).stem
    table = [(expansion, channels) for expansion, channels, count in STAGES for _ in range(count)]
    last_feature = len(table) - (STEM_FEATURES - 1)  # units of block1 … block4
    names = [f"backbone.features.{number}" for number in range(1, len(table) + 1)]
    names += [f"backbone.block{unit.block}.{unit.unit - 1}" for unit in plan[last_feature:]]
    table += [(6, BLOCK_CHANNELS[unit.unit - 1]) for unit in plan[last_feature:]]
    geometry = [(stride, 1) for _, stride in stem[1:]] + [(unit.stride, unit.rate) for unit in plan]

    kernel, stride = stem[0]
    channels, size = 32, _strided(size, stride)
    yield LayerCost("backbone.features.0.0", kernel, 3, channels, *size)
    for name, (expansion, out_channels), (stride, rate) in zip(names, table, geometry, strict=True):
        inner, index = channels * expansion, 0
        if expansion != 1:
            yield LayerCost(f"{name}.conv.0.0", 1, channels, inner, *size)
            index = 1
        size = _strided(size, stride)
        yield LayerCost(f"{name}.conv.{index}.0", 3, inner, inner, *size, rate, groups=inner)
        yield LayerCost(f"{name}.conv.{index + 1}", 1, inner, out_channels, *size)
        channels = out_channels


def _head(config: ModelConfig, in_channels: int, size: Size) -> Iterator[LayerCost]:
    rates = aspp_rates(config.atrous_rates, config.output_stride)
    if config.head == "cascade":
        yield LayerCost("head.classifier", 1, in_channels, config.num_classes, *size, norm=False)
    elif config.head == "v2":
        for number, rate in enumerate(rates):
            name = f"head.classifiers.{number}"
            yield LayerCost(name, 3, in_channels, config.num_classes, *size, rate, norm=False)
    else:
        channels, branches = config.head_channels, 1 + len(rates) + config.image_pooling
        norm = config.head_batch_norm
        yield LayerCost("head.branches.0.0", 1, in_channels, channels, *size, norm=norm)
        for number, rate in enumerate(rates, start=1):
            yield LayerCost(f"head.branches.{number}.0", 3, in_channels, channels, *size, rate, norm=norm)
        if config.image_pooling:
            yield LayerCost("head.image_pooling.project.0", 1, in_channels, channels, 1, 1, norm=norm)
        yield LayerCost("head.project.0", 1, branches * channels, channels, *size, norm=norm)
        if config.extra_convolution:
            yield LayerCost("head.extra.0", 3, channels, channels, *size, norm=norm)
        yield LayerCost("head.classifier", 1, channels, config.num_classes, *size, norm=False)
