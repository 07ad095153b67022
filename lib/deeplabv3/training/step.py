"""One training step: learning rates, loss, gradients, SGD (Section 4.1)."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplabv3.config import VOID, TrainingConfig
from deeplabv3.data.transforms import normalize
from deeplabv3.device import autocast
from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import upsample


def training_step(
    model_with_loss: nn.Module,
    optimizer: torch.optim.SGD,
    config: TrainingConfig,
    seed: int,
    step: int,
    images: Tensor,
    labels: Tensor,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Tensor:
    """Update the parameters once. Return the loss of the whole batch, a scalar on the network's device (no GPU sync).

    Args:
        model_with_loss: a :class:`ModelWithLoss`, also compiled or wrapped
        optimizer: made by :func:`make_optimizer`
        config: what is trained
        seed: of the run, for dropout
        step: number of the step, from 0
        images: this process's share of the batch, ``(N, H, W, 3)`` uint8
        labels: their labels, ``(N, H, W)`` uint8
        processes: those that share the batch
    """
    # Dropout depends on the step and the process alone, so that a resumed run draws the same.
    torch.manual_seed((seed * 1_000_003 + step) * processes.world_size + processes.rank)
    for group, lr in zip(optimizer.param_groups, learning_rates(config, step), strict=True):
        group["lr"] = lr

    parts = config.grad_accum_steps
    num_valid = None  # segmentation_loss counts the valid pixels itself
    if parts > 1 or processes.world_size > 1:
        output_stride = processes.unwrap(model_with_loss).model.output_stride
        num_valid = processes.all_reduce(_num_valid_pixels(labels, config, output_stride))  # (), of the whole batch
        num_valid = num_valid / processes.world_size  # gradients are averaged over processes, but their sum is wanted

    optimizer.zero_grad(set_to_none=True)
    loss = torch.zeros((), device=labels.device)  # ()
    for part, (images_part, labels_part) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
        # (N / parts, H, W, 3) and (N / parts, H, W); processes exchange gradients in the last part alone
        with processes.no_sync(model_with_loss) if part < parts - 1 else nullcontext():
            loss_part = model_with_loss(images_part, labels_part, num_valid)  # ()
            loss_part.backward()
        loss += loss_part.detach()  # ()
    if config.backbone_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], config.backbone_clip_norm)
    optimizer.step()
    return processes.all_reduce(loss) / processes.world_size  # ()


class ModelWithLoss(nn.Module):
    """The network with its loss: the module that is compiled and wrapped in DistributedDataParallel."""

    def __init__(self, model: DeepLabV3, config: TrainingConfig):
        super().__init__()
        self.model, self.config = model, config

    def forward(self, images: Tensor, labels: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Loss of images ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8."""
        images = normalize(images, self.model.config.mean, self.model.config.std)  # (N, 3, H, W) float32
        labels = labels.long()  # (N, H, W) int64
        return segmentation_loss(
            self.model, images, labels, self.config.upsample_logits, num_valid, self.config.precision
        )  # ()


def segmentation_loss(
    model: DeepLabV3,
    images: Tensor,
    labels: Tensor,
    upsample_logits: bool = True,
    num_valid: Tensor | None = None,
    precision: str = "float32",
) -> Tensor:
    """Cross-entropy, summed over the pixels that are not void and divided by ``num_valid``; a scalar.

    Args:
        model: the network
        images: normalized, ``(N, 3, H, W)`` float32
        labels: ``(N, H, W)`` int64
        upsample_logits: compare at the labels' size; if false the labels are downsampled to the logits' size, which
            loses thin parts and 1.2 points (Table 8)
        num_valid: pixels of the whole batch that are not void, of which ``images`` may be a part; by default counted
            here, which makes the loss a mean
        precision: of the network, one of PRECISIONS; logits are upsampled and compared in float32
    """
    with autocast(images.device, precision):
        logits = model.features_to_logits(images)  # (N, num_classes, H / output_stride, W / output_stride)
    logits = logits.float()
    if upsample_logits:
        logits = upsample(logits, labels.shape[1:], model.config.align_corners)  # (N, num_classes, H, W)
    else:
        labels = downsample_labels(labels, logits.shape[2:])  # (N, H / output_stride, W / output_stride)
    # Summed here: cross_entropy() would add up by atomic additions on a GPU, in no fixed order.
    total = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="none").sum()  # ()
    if num_valid is None:
        num_valid = (labels != VOID).sum()  # ()
    # A batch that is all void has loss 0, where a mean would be 0 / 0.
    return total / num_valid.clamp(min=1)  # ()


def downsample_labels(labels: Tensor, size: Sequence[int]) -> Tensor:
    """Labels ``(N, H, W)`` at the logits' ``size`` ``(h, w)``: the pixels at the logits' centers (corners aligned)."""
    rows, columns = (
        torch.linspace(0, label_side - 1, logits_side, device=labels.device).round().long()
        for label_side, logits_side in zip(labels.shape[1:], size, strict=True)
    )  # (h,) and (w,)
    return labels[:, rows[:, None], columns]  # (N, h, w)


def _num_valid_pixels(labels: Tensor, config: TrainingConfig, output_stride: int) -> Tensor:
    if not config.upsample_logits:
        labels = downsample_labels(labels, [-(-side // output_stride) for side in labels.shape[1:]])
    return (labels != VOID).sum()


def make_optimizer(model: DeepLabV3, config: TrainingConfig) -> torch.optim.SGD:
    """SGD with two parameter groups: 0 is the backbone, 1 the head. On a GPU one kernel updates all parameters."""
    groups = [[p for p in part.parameters() if p.requires_grad] for part in (model.backbone, model.head)]
    return torch.optim.SGD(
        [{"params": group} for group in groups],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=all(p.is_cuda for group in groups for p in group) or None,
    )


def get_momentum(model: DeepLabV3, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Momentum of each parameter that has been updated, by the parameter's name."""
    states = {name: optimizer.state.get(parameter, {}) for name, parameter in model.named_parameters()}
    return {name: state["momentum_buffer"] for name, state in states.items() if "momentum_buffer" in state}


def set_momentum(model: DeepLabV3, optimizer: torch.optim.SGD, momentum: dict[str, Tensor]) -> None:
    """Give the optimizer the momentum that :func:`get_momentum` returned."""
    parameters = dict(model.named_parameters())
    for name, value in momentum.items():
        # In the memory layout of its parameter (channels last), which the fused kernel on a GPU expects.
        momentum_buffer = torch.empty_like(parameters[name]).copy_(value)
        optimizer.state[parameters[name]]["momentum_buffer"] = momentum_buffer


def learning_rates(config: TrainingConfig, step: int) -> tuple[float, float]:
    """Learning rates of backbone and head at ``step``."""
    head = config.lr * poly(step, config.iterations, config.power)
    warmup = linear_warmup(step, config.backbone_freeze_steps, config.backbone_warmup_steps)
    return head * config.backbone_lr_factor * warmup, head


def poly(step: int, iterations: int, power: float = 0.9) -> float:
    """Factor ``(1 - step / iterations) ** power`` on the learning rate: 1 at step 0, 0 at ``iterations``."""
    return (1 - step / iterations) ** power


def linear_warmup(step: int, freeze_steps: int, warmup_steps: int) -> float:
    """Factor on the learning rate: 0 for ``freeze_steps``, then linearly up to 1 over ``warmup_steps``.

    Not in the paper, whose runs are long: in short runs from pretrained weights a new head should settle first.
    """
    if step < freeze_steps:
        return 0.0
    return min(1.0, (step - freeze_steps + 1) / (warmup_steps + 1))
