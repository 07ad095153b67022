"""ResNets with an output stride, and block5 … block7 behind them (Section 3.2, Fig. 3)."""

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
    """One unit: 1x1, 3x3 and 1x1 convolution around a shortcut; the 3x3 carries the stride and the rate.

    ReLU and sum work in place: no gradient needs the values that they overwrite, and memory traffic is what a
    convolution's neighbors cost.

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
        stride = self.conv2.stride[0]
        # A 1x1 convolution of stride s is a 1x1 convolution of every s-th position: one rule serves both shortcuts.
        shortcut = x[:, :, ::stride, ::stride] if stride > 1 else x
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)).add_(shortcut), inplace=True)


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
        self.blocks: list[str] = []
        for number, (width, count) in enumerate(zip(widths, units, strict=True), start=1):
            block = nn.Sequential()
            for _ in range(count):
                block.append(Bottleneck(in_channels, width))
                in_channels = width * EXPANSION
            self.add_module(f"block{number}", block)
            self.blocks.append(f"block{number}")
        self.channels = in_channels
        initialize(self)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                # A unit starts as its shortcut, which lets a deep stack without pretrained weights learn from step one.
                nn.init.zeros_(module.bn3.weight)

    def set_rates(self, plan: tuple[UnitPlan, ...]) -> None:
        """Apply a plan of :func:`deeplabv3.model.atrous.plan_rates` in place."""
        for unit in plan:
            self.get_submodule(f"block{unit.block}")[unit.unit - 1].set_geometry(unit.stride, unit.rate)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)  # output stride 4
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return x

    def torchvision_name(self, key: str) -> str:
        """The name that torchvision's ResNet gives to one of our parameters (block5 … block7 have none)."""
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
