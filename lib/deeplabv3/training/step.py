"""One step of training: the loss, the optimizer, and what a step does with a batch (Section 4.1)."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deeplabv3.config import VOID, TrainingConfig
from deeplabv3.data.transforms import normalize
from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import resize


def segmentation_loss(
    model: DeepLabV3,
    images: Tensor,
    labels: Tensor,
    upsample_logits: bool = True,
    count: Tensor | None = None,
    precision: str = "float32",
) -> Tensor:
    """Cross-entropy of ``labels (N, H, W)`` int64: its sum over the pixels that are not void, divided by ``count``.

    ``count`` is by default the number of those pixels, which makes the loss their mean; for a part of a batch it is the
    number in the whole batch. The logits are upsampled to the labels' size. ``upsample_logits=False`` shrinks the
    labels to the logits' size instead, which loses thin parts: the variant that Table 8 finds 1.2 points worse.
    ``precision`` is for the network alone; logits are upsampled and compared in float32.
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model.features_to_logits(images)
    logits = logits.float()
    if upsample_logits:
        logits = resize(logits, labels.shape[1:], model.config.align_corners)
    else:
        labels = downsample_labels(labels, logits.shape[2:])
    total = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
    if count is None:
        count = (labels != VOID).sum()
    # A batch may be void throughout: it has loss 0 then, where a mean would be 0 / 0.
    return total / count.clamp(min=1)


def downsample_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels ``(N, H, W)`` at the size of the logits: of each logit, the pixel that it stands for (corners aligned)."""
    rows, columns = (
        torch.linspace(0, whole - 1, part, device=labels.device).round().long()
        for whole, part in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns]


class ModelWithLoss(nn.Module):
    """The network with its loss: what is compiled, and what the processes of a run share gradients of."""

    def __init__(self, model: DeepLabV3, settings: TrainingConfig):
        super().__init__()
        self.model, self.settings = model, settings

    def forward(self, images: Tensor, labels: Tensor, count: Tensor | None = None) -> Tensor:
        """The loss of images ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8."""
        settings = self.settings
        return segmentation_loss(
            self.model,
            normalize(images),
            labels.long(),
            settings.upsample_logits,
            count,
            settings.precision,
        )


def make_optimizer(model: DeepLabV3, settings: TrainingConfig) -> torch.optim.SGD:
    """SGD over two groups: 0 is the backbone, 1 the head; on a GPU all parameters are updated in one kernel."""
    groups = [[p for p in part.parameters() if p.requires_grad] for part in (model.backbone, model.head)]
    return torch.optim.SGD(
        [{"params": group} for group in groups],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=all(p.is_cuda for group in groups for p in group) or None,
    )


def learning_rates(settings: TrainingConfig, step: int) -> tuple[float, float]:
    """Learning rates of backbone and head at ``step``."""
    head = settings.lr * poly(step, settings.iterations, settings.power)
    return head * settings.backbone_lr_factor * linear_warmup(
        step, settings.backbone_freeze_steps, settings.backbone_warmup_steps
    ), head


def training_step(
    model_with_loss: nn.Module,
    optimizer: torch.optim.SGD,
    settings: TrainingConfig,
    seed: int,
    step: int,
    images: Tensor,
    labels: Tensor,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> Tensor:
    """One step on this process's share of a batch, images ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8.

    ``model_with_loss`` is an :class:`ModelWithLoss`, compiled or wrapped or neither. Returns the loss of the whole batch, on the
    network's device: nothing here waits for a GPU.
    """
    # Dropout at a step depends on the step (and the process) alone, resumed or not.
    torch.manual_seed((seed * 1_000_003 + step) * processes.world_size + processes.rank)
    for group, lr in zip(optimizer.param_groups, learning_rates(settings, step), strict=True):
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)
    parts = settings.grad_accum_steps
    count = None
    if parts > 1 or processes.world_size > 1:
        count = processes.all_reduce(
            _num_valid_pixels(labels, settings, processes.unwrap(model_with_loss).model.output_stride)
        )
        # Processes average their gradients, where the loss of a batch wants their sum.
        count = count / processes.world_size
    loss = torch.zeros((), device=labels.device)
    for part, (some, theirs) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
        last = part == parts - 1
        with nullcontext() if last else processes.no_sync(model_with_loss):
            value = model_with_loss(some, theirs, count)
            value.backward()
        loss += value.detach()
    if settings.backbone_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], settings.backbone_clip_norm)
    optimizer.step()
    return processes.all_reduce(loss) / processes.world_size


def _num_valid_pixels(labels: Tensor, settings: TrainingConfig, output_stride: int) -> Tensor:
    if not settings.upsample_logits:
        labels = downsample_labels(labels, tuple(-(-side // output_stride) for side in labels.shape[1:]))
    return (labels != VOID).sum()


def poly(step: int, iterations: int, power: float = 0.9) -> float:
    """The factor ``(1 - step / iterations) ** power`` on the learning rate: 1 at step 0, 0 at ``iterations``."""
    return (1 - step / iterations) ** power


def linear_warmup(step: int, hold: int, length: int) -> float:
    """0 for ``hold`` steps, then linearly up to 1 over the next ``length``: lets a new head settle first.

    Not in the paper, whose runs are long; short runs from pretrained weights want it.
    """
    if step < hold:
        return 0.0
    return min(1.0, (step - hold + 1) / (length + 1))
