"""What turns features into logits: the cascade's classifier, ASPP, and DeepLabv2's sum of atrous classifiers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolution_norm_relu(in_channels: int, out_channels: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Convolution with padding = rate, batch norm and ReLU: the unit that ASPP is made of (Section 3.3)."""
    padding = rate if kernel == 3 else 0
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def set_rate(layer: nn.Conv2d, rate: int) -> None:
    """Change the rate of a 3x3 convolution of stride 1; its output keeps the size of its input."""
    layer.dilation = layer.padding = (rate, rate)


class ImagePooling(nn.Module):
    """Image-level features: global average pooling, 1x1 convolution, back to the size of the features (Section 3.3)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.project = convolution_norm_relu(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = self.project(features.mean(dim=(2, 3), keepdim=True))
        # Upsampling a 1x1 map bilinearly is repeating it.
        return pooled.expand(-1, -1, *features.shape[2:])


class ASPPHead(nn.Module):
    """Atrous spatial pyramid pooling (Section 3.3, Fig. 5): parallel rates, concatenation, projection, logits."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        rates: tuple[int, ...],
        image_pooling: bool,
        channels: int,
        dropout: float,
        extra_convolution: bool = False,
    ):
        super().__init__()
        self.branches = nn.ModuleList([convolution_norm_relu(in_channels, channels, 1)])
        self.branches.extend(convolution_norm_relu(in_channels, channels, 3, rate) for rate in rates)
        self.image_pooling = ImagePooling(in_channels, channels) if image_pooling else None
        count = len(self.branches) + int(image_pooling)
        self.project = convolution_norm_relu(count * channels, channels, 1)
        self.dropout = nn.Dropout(dropout)
        # torchvision's DeepLabV3 has one 3x3 convolution here that the paper does not.
        self.extra = convolution_norm_relu(channels, channels, 3) if extra_convolution else None
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def set_rates(self, rates: tuple[int, ...]) -> None:
        for branch, rate in zip(self.branches[1:], rates, strict=True):
            set_rate(branch[0], rate)

    def forward(self, features: Tensor) -> Tensor:
        outputs = [branch(features) for branch in self.branches]
        if self.image_pooling is not None:
            outputs.append(self.image_pooling(features))
        x = self.dropout(self.project(torch.cat(outputs, dim=1)))
        if self.extra is not None:
            x = self.extra(x)
        return self.classifier(x)


class CascadeHead(nn.Module):
    """The cascade's 1x1 classifier on the features of its last block (Section 3.2)."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.classifier = nn.Conv2d(in_channels, num_classes, 1)

    def set_rates(self, rates: tuple[int, ...]) -> None:
        """The classifier has no rate; the cascade's rates are in its blocks."""

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(features)


class V2Head(nn.Module):
    """DeepLabv2's ASPP: the sum of one atrous 3x3 classifier per rate, without batch norm; what the paper improves."""

    def __init__(self, in_channels: int, num_classes: int, rates: tuple[int, ...]):
        super().__init__()
        self.classifiers = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in rates
        )

    def set_rates(self, rates: tuple[int, ...]) -> None:
        for classifier, rate in zip(self.classifiers, rates, strict=True):
            set_rate(classifier, rate)

    def forward(self, features: Tensor) -> Tensor:
        return sum(classifier(features) for classifier in self.classifiers)


def initialize_logits(head: nn.Module) -> None:
    """Logits start from a normal distribution of standard deviation 0.01 (the authors' public code)."""
    layers = head.classifiers if isinstance(head, V2Head) else [head.classifier]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)


def resize(logits: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Bilinear resize of ``(N, K, h, w)`` to ``(N, K, *size)``."""
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=align_corners)
