"""DeepLabv3 in every variant that the paper names (Sections 3.2 and 3.3), from one configuration.

Shapes in the comments are the paper's: an image of 513 x 513 pixels, ResNet-101 at output stride 16, 21 classes.
"""

from dataclasses import replace

from torch import Tensor, nn

from deeplabv3.config import ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.model.atrous import aspp_rates, plan_rates
from deeplabv3.model.heads import ASPPHead, CascadeHead, V2Head, initialize_logits, resize
from deeplabv3.model.mobilenet import MobileNetV2
from deeplabv3.model.resnet import ResNet, initialize


class DeepLabV3(nn.Module):
    """``images (N, 3, H, W)``, normalized, to ``logits (N, num_classes, H, W)``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self._batch_norm_frozen = False
        # An impossible plan should be refused before anything is built.
        plan_rates(config.backbone, config.output_stride, config.multi_grid, config.last_block, config.stride_unit)
        mobilenet = config.backbone == "mobilenet_v2"
        self.backbone: MobileNetV2 | ResNet = (
            MobileNetV2(config.last_block) if mobilenet else ResNet(config.backbone, config.last_block)
        )
        self.head = _make_head(config, self.backbone.channels)
        initialize(self.head)
        initialize_logits(self.head)
        self.set_output_stride(config.output_stride)

    @property
    def output_stride(self) -> int:
        return self.config.output_stride

    def set_output_stride(self, output_stride: int) -> "DeepLabV3":
        """Change the network in place, weights untouched: the backbone's strides and rates and ASPP's rates follow.

        This is how a model trained at output stride 16 is evaluated at 8 (Section 4.1, Tables 4 and 6).
        """
        config = replace(self.config, output_stride=output_stride)
        self.backbone.set_rates(
            plan_rates(config.backbone, output_stride, config.multi_grid, config.last_block, config.stride_unit)
        )
        self.head.set_rates(aspp_rates(config.atrous_rates, output_stride))
        self.config = config
        return self

    def features_to_logits(self, images: Tensor) -> Tensor:
        """Logits at the features' resolution, ``(N, num_classes, h, w)``, before any upsampling."""
        self._refuse_one_value_per_channel(images)
        features = self.backbone(images)  # (N, 3, 513, 513) to (N, 2048, 33, 33)
        return self.head(features)  # (N, 21, 33, 33)

    def forward(self, images: Tensor) -> Tensor:
        """Logits at the images' resolution, ``(N, num_classes, H, W)``, of normalized images ``(N, 3, H, W)``.

        With aligned corners, sides other than k * output_stride + 1 pixels, such as 512, shift the answer by up to a
        stride: pad them to such sides, as ``predict_photo`` and the exports do.
        """
        logits = self.features_to_logits(images)  # (N, 3, 513, 513) to (N, 21, 33, 33)
        # The logits are upsampled rather than the labels downsampled (Section 4.1).
        return resize(logits, images.shape[2:], self.config.align_corners)  # (N, 21, 513, 513)

    def freeze_batch_norm(self, frozen: bool = True) -> "DeepLabV3":
        """Use the running statistics and keep every batch norm parameter still, whatever ``train()`` says (stage 2)."""
        self._batch_norm_frozen = frozen
        for norm in self._batch_norms():
            norm.weight.requires_grad_(not frozen)
            norm.bias.requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> "DeepLabV3":
        super().train(mode)
        if self._batch_norm_frozen:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def set_batch_norm_momentum(self, momentum: float) -> "DeepLabV3":
        """Set PyTorch's momentum: 1 minus the decay that the paper states (0.9997 in Section 4.1 is 0.0003 here)."""
        for norm in self._batch_norms():
            norm.momentum = momentum
        return self

    def _refuse_one_value_per_channel(self, images: Tensor) -> None:
        """Raise a :class:`UserError` with place and remedy, which torch's own error for this does not give."""
        if not self.training or images.shape[0] > 1:
            return
        # Synchronized batch norm, a subclass, sees the images of other processes too.
        if not any(type(norm) is nn.BatchNorm2d and norm.training for norm in self._batch_norms()):
            return
        pooling = self.config.head == "aspp" and self.config.image_pooling and self.config.head_batch_norm
        if pooling or max(images.shape[2:]) <= self.output_stride:
            place = "image pooling" if pooling else f"a crop within one output stride ({self.output_stride} pixels)"
            raise UserError(
                f"{place} leaves one value per channel in a training batch of one image, and batch norm needs two; "
                "raise 'batch_size' to at least 2, or freeze batch norm."
            )

    def _batch_norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]


def _make_head(config: ModelConfig, in_channels: int) -> ASPPHead | CascadeHead | V2Head:
    rates = aspp_rates(config.atrous_rates, config.output_stride)
    if config.head == "cascade":
        return CascadeHead(in_channels, config.num_classes)
    if config.head == "v2":
        return V2Head(in_channels, config.num_classes, rates)
    return ASPPHead(
        in_channels,
        config.num_classes,
        rates,
        config.image_pooling,
        config.head_channels,
        config.dropout,
        config.extra_convolution,
        config.head_batch_norm,
    )
