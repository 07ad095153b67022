"""Heads, from features to logits: ASPP (Section 3.3), the cascade's classifier (3.2), DeepLabv2's classifiers.

Shapes in the comments are the paper's: an image of 513 x 513 pixels, ResNet-101 at output stride 16, 21 classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolution_norm_relu(
    in_channels: int, out_channels: int, kernel: int, rate: int = 1, norm: bool = True
) -> nn.Sequential:
    """Convolution with padding = rate, batch norm (or a bias) and ReLU: the unit of ASPP (Section 3.3)."""
    padding = rate if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=rate, bias=not norm),
        nn.BatchNorm2d(out_channels) if norm else nn.Identity(),
        nn.ReLU(inplace=True),
    )


def _set_rates(layers: nn.ModuleList, rates: tuple[int, ...]) -> None:
    """Change the rates of 3x3 convolutions of stride 1, one for each; their outputs keep the size of their inputs."""
    convolutions = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]
    for convolution, rate in zip(convolutions, rates, strict=True):
        convolution.dilation = convolution.padding = (rate, rate)


class ImagePooling(nn.Module):
    """Image-level features: global average pooling, 1x1 convolution, back to the size of the features (Section 3.3)."""

    def __init__(self, in_channels: int, out_channels: int, norm: bool = True):
        super().__init__()
        self.project = convolution_norm_relu(in_channels, out_channels, 1, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3), keepdim=True)  # (N, 2048, 33, 33) to (N, 2048, 1, 1)
        pooled = self.project(pooled)  # (N, 256, 1, 1)
        # Upsampling a 1x1 map bilinearly is repeating it. Repeated without a copy it would not be in channels last, and
        # the concatenation of all branches would leave this layout.
        pooled = pooled.expand(-1, -1, *features.shape[2:])  # (N, 256, 33, 33)
        return pooled.contiguous(memory_format=torch.channels_last)  # (N, 256, 33, 33)


class ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling (Section 3.3, Fig. 5): parallel rates, concatenation, projection, logits.

    Args:
        in_channels: channels of the features.
        num_classes: channels of the logits.
        rates: one per 3x3 convolution, beside which there is one 1x1 convolution.
        image_pooling: add :class:`ImagePooling` to the branches.
        channels: filters of every branch and of the projection, 256 in the paper.
        dropout: share of the projection's values that training sets to zero.
        extra_convolution: one more 3x3 convolution before the classifier, as torchvision's DeepLabV3 has it.
        norm: batch norm behind every convolution but the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        rates: tuple[int, ...],
        image_pooling: bool,
        channels: int,
        dropout: float,
        extra_convolution: bool = False,
        norm: bool = True,
    ):
        super().__init__()
        self.branches = nn.ModuleList([convolution_norm_relu(in_channels, channels, 1, norm=norm)])
        self.branches.extend(convolution_norm_relu(in_channels, channels, 3, rate, norm) for rate in rates)
        self.image_pooling = ImagePooling(in_channels, channels, norm) if image_pooling else None
        count = len(self.branches) + int(image_pooling)
        self.project = convolution_norm_relu(count * channels, channels, 1, norm=norm)
        self.dropout = nn.Dropout(dropout)
        self.extra = convolution_norm_relu(channels, channels, 3, norm=norm) if extra_convolution else None
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def set_rates(self, rates: tuple[int, ...]) -> None:
        _set_rates(self.branches[1:], rates)

    def forward(self, features: Tensor) -> Tensor:
        outputs = [branch(features) for branch in self.branches]  # (N, 2048, 33, 33) to four times (N, 256, 33, 33)
        if self.image_pooling is not None:
            outputs.append(self.image_pooling(features))  # a fifth (N, 256, 33, 33)
        x = torch.cat(outputs, dim=1)  # (N, 1280, 33, 33)
        x = self.dropout(self.project(x))  # (N, 256, 33, 33)
        if self.extra is not None:
            x = self.extra(x)  # (N, 256, 33, 33)
        return self.classifier(x)  # (N, 21, 33, 33)


class CascadeHead(nn.Module):
    """1x1 classifier of the cascade, on the features of its last block (Section 3.2)."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.classifier = nn.Conv2d(in_channels, num_classes, 1)

    def set_rates(self, rates: tuple[int, ...]) -> None:
        """Do nothing: the cascade's rates are in its blocks."""

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features)  # (N, 2048, 33, 33) to (N, 21, 33, 33)


class V2Head(nn.Module):
    """ASPP of DeepLabv2, which Section 3.3 revisits: the sum of one atrous 3x3 classifier per rate, no batch norm."""

    def __init__(self, in_channels: int, num_classes: int, rates: tuple[int, ...]):
        super().__init__()
        self.classifiers = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates
        )

    def set_rates(self, rates: tuple[int, ...]) -> None:
        _set_rates(self.classifiers, rates)

    def forward(self, features: Tensor) -> Tensor:
        return sum(classifier(features) for classifier in self.classifiers)  # (N, 2048, 33, 33) to (N, 21, 33, 33)


def initialize_logits(head: nn.Module) -> None:
    """Draw the classifiers' weights with standard deviation 0.01 (the authors' public code); their biases are 0."""
    for name, layer in head.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and name.startswith("classifier"):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


def upsample(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear upsampling of ``(N, K, h, w)`` to ``(N, K, H, W)`` as two matrix products, ``size`` being ``(H, W)``.

    It equals :func:`resize` to rounding. In training it is faster, and equal on a GPU from run to run, where
    ``F.interpolate`` adds up gradients by atomic additions in no fixed order.
    """
    (height, width), (logits_height, logits_width) = size, logits.shape[2:]
    rows = _bilinear_weights(logits_height, height, align_corners, logits.device)  # (H, h)
    columns = _bilinear_weights(logits_width, width, align_corners, logits.device)  # (W, w)
    return rows @ (logits.contiguous() @ columns.T)  # (N, K, h, w) to (N, K, h, W) to (N, K, H, W)


def _bilinear_weights(length: int, upsampled: int, align_corners: bool, device: torch.device) -> Tensor:
    """Weights ``(upsampled, length)`` of linear upsampling: a row has those of one output value."""
    identity = torch.eye(length, device=device)[None]  # (1, length, length)
    return F.interpolate(identity, size=upsampled, mode="linear", align_corners=align_corners)[0].T


def resize(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear resize of ``(N, K, h, w)`` to ``(N, K, H, W)``, ``size`` being ``(H, W)``."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits  # (N, K, H, W)
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=align_corners)  # (N, K, H, W)
