"""MobileNetV2 with an output stride, and block5 … block7 behind it.

The paper uses ResNets; its authors later released a MobileNetV2 model for PASCAL VOC too, and it makes real training
possible without a GPU. Shapes in the comments are those of an image of 513 x 513 pixels at output stride 16.
"""

from typing import cast

import torch
from torch import Tensor, nn

from deeplabv3.model.atrous import BACKBONES, UnitPlan
from deeplabv3.model.resnet import initialize

STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
"""Expansion, output channels and number of units of the 17 inverted residuals, features.1 … features.17."""

STEM_FEATURES = 3
"""features.0 … features.2 reach output stride 4; block1 starts behind them (see ``BACKBONES["mobilenet_v2"]``)."""

BLOCK_CHANNELS = (160, 160, 320)
"""Output channels of features.15 … features.17, which are block4; block5 … block7 repeat them."""


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, 1x1 projection; the depthwise one has the stride and the rate.

    Module names are torchvision's, so its ImageNet weights fit by name.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int):
        super().__init__()
        width = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(convolution_norm_relu6(in_channels, width, 1))
        self.depthwise_index = len(layers)
        layers.append(convolution_norm_relu6(width, width, 3, groups=width))
        layers += [nn.Conv2d(width, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*layers)
        self.same_channels = in_channels == out_channels

    @property
    def depthwise(self) -> nn.Conv2d:
        return cast(nn.Conv2d, self.get_submodule(f"conv.{self.depthwise_index}.0"))

    def set_geometry(self, stride: int, rate: int) -> None:
        """Give the 3x3 convolution its stride and rate; the weights stay untouched."""
        self.depthwise.stride = (stride, stride)
        self.depthwise.dilation = self.depthwise.padding = (rate, rate)

    def forward(self, x: Tensor) -> Tensor:
        # Example: the second unit of block4. A unit that has a stride changes the channels too, and has no shortcut.
        output = self.conv(x)  # (N, 160, 33, 33) to (N, 160, 33, 33)
        return output.add_(x) if self.same_channels else output  # (N, 160, 33, 33)


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution that trains in float32 under a CPU's autocast where it has a stride or a rate.

    Its gradient in bfloat16 takes 3 to 15 times as long (PyTorch 2.15).
    """

    def forward(self, x: Tensor) -> Tensor:
        slow = self.training and torch.is_autocast_enabled("cpu") and max(*self.stride, *self.dilation) > 1
        if not slow or x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def convolution_norm_relu6(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, batch norm and ReLU6; at stride 1 the output has the size of the input."""
    conv2d = nn.Conv2d if groups == 1 else DepthwiseConv2d
    return nn.Sequential(
        conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(inplace=True),
    )


class MobileNetV2(nn.Module):
    """``images (N, 3, H, W)`` to ``features (N, 320, h, w)``, ending in block4 … block7."""

    channels = BLOCK_CHANNELS[-1]

    def __init__(self, last_block: int):
        super().__init__()
        self.features = nn.Sequential(convolution_norm_relu6(3, 32, 3, stride=2))
        in_channels = 32
        for expansion, out_channels, count in STAGES:
            for _ in range(count):
                self.features.append(InvertedResidual(in_channels, out_channels, expansion))
                in_channels = out_channels
        stem_end = cast(InvertedResidual, self.features[STEM_FEATURES - 1])
        stem_end.set_geometry(stride=2, rate=1)  # the stem's second stride; never made dense
        self.extra_blocks = [f"block{number}" for number in range(5, last_block + 1)]
        for name in self.extra_blocks:
            block = nn.Sequential()
            for out_channels in BLOCK_CHANNELS:
                block.append(InvertedResidual(in_channels, out_channels, expansion=6))
                in_channels = out_channels
            self.add_module(name, block)
        initialize(self)

    def unit(self, block: int, number: int) -> InvertedResidual:
        """Unit ``number`` (from 1) of ``block`` (from 1)."""
        before = STEM_FEATURES + sum(BACKBONES["mobilenet_v2"].units[: block - 1])
        name = f"features.{before + number - 1}" if block <= 4 else f"block{block}.{number - 1}"
        return cast(InvertedResidual, self.get_submodule(name))

    def set_rates(self, plan: tuple[UnitPlan, ...]) -> None:
        """Apply a plan of :func:`deeplabv3.model.atrous.plan_rates` in place."""
        for unit in plan:
            self.unit(unit.block, unit.unit).set_geometry(unit.stride, unit.rate)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)  # (N, 3, 513, 513) to (N, 320, 33, 33)
        for name in self.extra_blocks:
            x = self.get_submodule(name)(x)  # (N, 320, 33, 33)
        return x  # (N, 320, 33, 33)

    def torchvision_name(self, key: str) -> str:
        """Name that torchvision's MobileNetV2 gives to one of our parameters: the same one."""
        return key
