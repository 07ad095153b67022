"""ResNets with an output stride, and block5 … block7 behind them (Section 3.2, Fig. 3).

Shapes in the comments are the paper's: an image of 513 x 513 pixels, ResNet-101 at output stride 16,
with the stride in the last unit of a block (``stride_unit="last"``). Multi-grid is in the rates: see ``plan_rates``.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from deeplabv3.model.atrous import BACKBONES, UnitPlan

WIDTHS = {
    "resnet50": (64, 128, 256, 512),
    "resnet101": (64, 128, 256, 512),
    "small_resnet20": (8, 16, 24, 32),
    "small_resnet29": (8, 16, 24, 32),
}
"""Channels of the 3x3 convolutions in block1 … block4."""

EXPANSION = 4
"""Output channels of a unit, as a multiple of its width."""


class Bottleneck(nn.Module):
    """One unit: 1x1, 3x3 and 1x1 convolution around a shortcut; the 3x3 has the stride and the rate (Section 3.2).

    ReLU and sum work in place: no gradient needs the values that they overwrite, and they cost memory traffic alone.
    Module names are torchvision's, so its ImageNet weights fit by name.
    """

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def set_geometry(self, stride: int, rate: int) -> None:
        """Give the 3x3 convolution its stride and rate; the weights stay untouched."""
        self.conv2.stride = (stride, stride)
        self.conv2.dilation = self.conv2.padding = (rate, rate)

    def forward(self, x: Tensor) -> Tensor:
        # Example: the last unit of block2, which has a stride of 2. x: (N, 512, 65, 65)
        stride = self.conv2.stride[0]
        # A 1x1 convolution of stride s is a 1x1 convolution of every s-th position: one rule serves both shortcuts.
        shortcut = x[:, :, ::stride, ::stride] if stride > 1 else x  # (N, 512, 33, 33)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)  # in the first unit of block2 (N, 256, 65, 65) to (N, 512, 65, 65)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)  # (N, 128, 65, 65)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # (N, 128, 33, 33)
        return F.relu(self.bn3(self.conv3(x)).add_(shortcut), inplace=True)  # (N, 512, 33, 33)


class ResNet(nn.Module):
    """``images (N, 3, H, W)`` to ``features (N, channels, h, w)``, ending in block4 … block7."""

    def __init__(self, backbone: str, last_block: int):
        super().__init__()
        widths = WIDTHS[backbone] + (WIDTHS[backbone][3],) * (last_block - 4)
        units = BACKBONES[backbone].units + (BACKBONES[backbone].units[3],) * (last_block - 4)
        kernel = BACKBONES[backbone].stem[0][0]
        in_channels = widths[0]
        self.conv1 = nn.Conv2d(3, in_channels, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.blocks = [f"block{number}" for number in range(1, last_block + 1)]
        for name, width, count in zip(self.blocks, widths, units, strict=True):
            block = nn.Sequential()
            for _ in range(count):
                block.append(Bottleneck(in_channels, width))
                in_channels = width * EXPANSION
            self.add_module(name, block)
        self.channels = in_channels
        initialize(self)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                # A unit starts as its shortcut, which lets a deep stack without pretrained weights learn from step one.
                nn.init.zeros_(module.bn3.weight)

    def unit(self, block: int, number: int) -> Bottleneck:
        """Unit ``number`` (from 1) of ``block`` (from 1)."""
        return cast(Bottleneck, self.get_submodule(f"block{block}.{number - 1}"))

    def set_rates(self, plan: tuple[UnitPlan, ...]) -> None:
        """Apply a plan of :func:`deeplabv3.model.atrous.plan_rates` in place."""
        for unit in plan:
            self.unit(unit.block, unit.unit).set_geometry(unit.stride, unit.rate)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)  # (N, 3, 513, 513) to (N, 64, 257, 257)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # (N, 64, 129, 129), output stride 4
        for name in self.blocks:
            x = self.get_submodule(name)(x)  # (N, 256, 65, 65), (N, 512, 33, 33), (N, 1024, 33, 33), (N, 2048, 33, 33)
        return x  # (N, 2048, 33, 33)

    def torchvision_name(self, key: str) -> str:
        """Name that torchvision's ResNet gives to one of our parameters (block5 … block7 have none)."""
        return key.replace("block", "layer") if key.startswith("block") else key


def initialize(module: nn.Module) -> None:
    """He initialization for convolutions (fan out, as torchvision's ResNets have it), 1 and 0 for batch norm."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
