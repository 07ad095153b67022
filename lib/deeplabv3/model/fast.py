"""The same network, faster: what pays at inference, as measured by ``deeplabv3 bench model`` (notebook 9)."""

from copy import deepcopy

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from deeplabv3.model.deeplab import DeepLabV3


def fold_batch_norm(model: DeepLabV3) -> DeepLabV3:
    """A copy of ``model`` for inference whose convolutions have absorbed the batch norm behind them.

    At inference a batch norm is one multiplication and one addition per channel, with numbers that no longer change:
    they scale the convolution's weights and make its bias. Logits stay the same up to rounding; the copy can change its
    output stride like any other, and cannot be trained.
    """
    folded = deepcopy(model).eval()
    for parent in list(folded.modules()):
        previous = None
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                # Every batch norm in this library is registered right behind its convolution.
                parent.set_submodule(previous, fuse_conv_bn_eval(parent.get_submodule(previous), layer))
                parent.set_submodule(name, nn.Identity())
            previous = name
    return folded.eval().requires_grad_(False)


def fast(model: DeepLabV3, compiled: bool = False) -> nn.Module:
    """A copy of ``model`` for inference with the same logits up to rounding: batch norm folded, channels last.

    ``compiled`` adds ``torch.compile`` with frozen weights, which also fuses ReLU and the residual sums into the
    convolutions. Its first call on every new picture size takes tens of seconds, and on a CPU it needs a C++ compiler:
    worth it for many pictures of one size. Only calling it is compiled, not the whole-image
    evaluation, which asks for features and has sizes by the hundred. Call the result under ``torch.inference_mode()``
    or ``torch.no_grad()``, without which PyTorch does not freeze.
    """
    folded = fold_batch_norm(model).to(memory_format=torch.channels_last)
    return torch.compile(folded, options={"freezing": True}) if compiled else folded
