"""Networks for inference alone: batch norm folded into the convolutions, and compiled."""

from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from deeplabv3.model.deeplab import DeepLabV3


def fold_batch_norm(model: DeepLabV3) -> DeepLabV3:
    """Copy of ``model`` for inference whose batch norm is part of the convolutions.

    At inference a batch norm is one multiplication and one addition per channel, with numbers that no longer change:
    they scale the convolution's weights and make its bias. Logits stay the same up to rounding; the copy can change its
    output stride, and cannot be trained.
    """
    folded = deepcopy(model).eval()
    for parent in list(folded.modules()):
        # Every batch norm in this library is registered right behind its convolution.
        for (name, convolution), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
                parent.set_submodule(norm_name, nn.Identity())
    return folded.eval().requires_grad_(False)


def optimize_for_inference(model: DeepLabV3, compiled: bool = False, precision: str = "float32") -> DeepLabV3:
    """Copy of ``model`` for inference with the same logits up to rounding: batch norm folded, channels last.

    ``compiled`` adds ``torch.compile`` with frozen weights, which also fuses ReLU and the residual sums into the
    convolutions. Its first call on every new image size takes tens of seconds, and on a CPU it needs a C++ compiler:
    worth it for many images of one size. Call the result under ``torch.inference_mode()`` or ``torch.no_grad()``,
    without which PyTorch does not freeze. With ``precision`` "bfloat16" the copy is for ``torch.autocast``, which would
    otherwise round every weight anew in each call; the logits are the same.
    """
    folded = fold_batch_norm(model).to(memory_format=torch.channels_last)
    if precision == "bfloat16":
        folded = folded.to(torch.bfloat16)
    if compiled:  # this part alone: whole-image evaluation calls it, and so does forward()
        folded.features_to_logits = torch.compile(  # type: ignore[method-assign]
            folded.features_to_logits, options={"freezing": True}
        )
    return folded
