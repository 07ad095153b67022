"""The training loop: SGD with momentum, poly learning rate, upsampled logits, batch norm as told (Section 4.1)."""

import csv
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplabv3.data.augment import SCALES, TrainingSamples, batches, normalise
from deeplabv3.data.voc import VOID, VOCData
from deeplabv3.errors import UserError, require, require_scales
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deeplabv3.training.schedule import poly, ramp


@dataclass(frozen=True)
class TrainingSettings:
    """How a run trains. The defaults are the paper's stage 1 (Section 4.1), with the authors' public weight decay.

    ``batch_norm_momentum`` is PyTorch's, 1 minus the paper's decay. The four ``backbone_*`` settings are not from the
    paper: they let short runs start from pretrained weights (factor on the learning rate, steps during which the
    backbone is held still, steps over which its rate then rises, and the norm that its gradient is clipped to).
    """

    iterations: int = 30_000
    batch: int = 16
    crop: int = 513
    lr: float = 0.007
    power: float = 0.9
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_norm_momentum: float = 0.0003
    freeze_batch_norm: bool = False
    upsample_logits: bool = True
    scales: tuple[float, ...] = SCALES
    flip: bool = True
    backbone_lr_factor: float = 1.0
    backbone_hold: int = 0
    backbone_ramp: int = 0
    backbone_clip_norm: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(self.scales))
        require_scales(self.scales)
        for name in ("iterations", "batch", "crop"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 1, name, value, "a whole number of at least 1")
        for name in ("lr", "power", "weight_decay", "backbone_lr_factor", "backbone_hold", "backbone_ramp"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")
        clip = self.backbone_clip_norm
        require(clip is None or clip > 0, "backbone_clip_norm", clip, "a number above 0, or null")
        for name in ("momentum", "batch_norm_momentum"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")


class Interrupted(UserError):
    """Training was asked to stop and has saved its checkpoint."""


def segmentation_loss(model: DeepLabV3, images: Tensor, labels: Tensor, upsample_logits: bool = True) -> Tensor:
    """Mean cross-entropy over the pixels that are not void.

    The logits are upsampled to the labels' size. ``upsample_logits=False`` shrinks the labels to the logits' size
    instead, which loses thin parts: the variant that Table 8 finds 1.2 points worse.
    """
    if upsample_logits:
        logits = model(images)
    else:
        logits = model.features_to_logits(images)
        labels = F.interpolate(labels[:, None].float(), size=logits.shape[2:], mode="nearest")[:, 0].long()
    total = F.cross_entropy(logits, labels, ignore_index=VOID, reduction="sum")
    # A batch may be void throughout: it has loss 0 then, where a mean would be 0 / 0.
    return total / (labels != VOID).sum().clamp(min=1)


def make_optimiser(model: DeepLabV3, settings: TrainingSettings) -> torch.optim.SGD:
    """SGD over two groups: 0 is the backbone, 1 the head."""
    groups = [[p for p in part.parameters() if p.requires_grad] for part in (model.backbone, model.head)]
    return torch.optim.SGD(
        [{"params": group} for group in groups],
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )


def learning_rates(settings: TrainingSettings, step: int) -> tuple[float, float]:
    """Learning rates of backbone and head at ``step``."""
    head = settings.lr * poly(step, settings.iterations, settings.power)
    return head * settings.backbone_lr_factor * ramp(step, settings.backbone_hold, settings.backbone_ramp), head


def train(
    model: DeepLabV3,
    data: VOCData,
    settings: TrainingSettings,
    folder: Path,
    identity: dict,
    *,
    seed: int = 0,
    workers: int = 0,
    device: str | torch.device = "cpu",
    save_every_s: float = 60.0,
    report: Callable[[int, float, float], None] = lambda step, loss, lr: None,
) -> float:
    """Train ``model`` in place, or go on where ``folder/checkpoint.safetensors`` stands.

    ``identity`` is written into the checkpoint; one with another identity is refused. ``report(step, loss, lr)`` is
    called after every step. SIGINT and SIGTERM save and raise :class:`Interrupted`; a process that is killed outright
    loses at most ``save_every_s`` seconds. On the CPU, a run that was stopped ends with the same bits as one that was
    not.
    Returns the seconds that training took, those before an interruption included.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run folder {folder} cannot be made ({error}); set DEEPLABV3_WORKSPACE.") from error
    path = folder / "checkpoint.safetensors"
    # Channels last halves the time of a step on the CPU and suits tensor cores; the numbers stay the same to rounding.
    model.to(device, memory_format=torch.channels_last).set_batch_norm_momentum(settings.batch_norm_momentum)
    model.freeze_batch_norm(settings.freeze_batch_norm).train()
    optimiser = make_optimiser(model, settings)
    start, seconds = _restore(path, model, optimiser, identity) if path.exists() else (0, 0.0)
    if start >= settings.iterations:
        return seconds
    began = time.monotonic() - seconds

    def save(step: int) -> None:
        log.flush()  # the log is never shorter than the checkpoint
        momentum = _momentum(model, optimiser) if step < settings.iterations else {}
        save_checkpoint(path, Checkpoint(step, time.monotonic() - began, identity, model.state_dict(), momentum))

    samples = TrainingSamples(data, settings.crop, settings.batch, seed, settings.scales, settings.flip)
    stream = batches(samples, start, settings.iterations, settings.batch, workers)
    saved_at = time.monotonic()
    with _Log(folder / "log.csv", start) as log, _stop_requests() as stop:
        for step, (pictures, labels) in enumerate(stream, start=start):
            loss = _step(model, optimiser, settings, seed, step, pictures.to(device), labels.to(device))
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss of run {folder} became {loss} at step {step}; lower 'lr' ({settings.lr}) or set "
                    f"'backbone_clip_norm'; what was saved before stays as it is."
                )
            lr = optimiser.param_groups[1]["lr"]
            log.write(step, loss, lr)
            report(step, loss, lr)
            if stop.is_set() and step + 1 < settings.iterations:
                save(step + 1)
                raise Interrupted(f"stopped after step {step + 1} of {settings.iterations}; the same command goes on.")
            if time.monotonic() - saved_at > save_every_s:
                save(step + 1)
                saved_at = time.monotonic()
        save(settings.iterations)
    return time.monotonic() - began


def _step(
    model: DeepLabV3,
    optimiser: torch.optim.SGD,
    settings: TrainingSettings,
    seed: int,
    step: int,
    pictures: Tensor,
    labels: Tensor,
) -> float:
    torch.manual_seed(seed * 1_000_003 + step)  # dropout at a step depends on the step alone, resumed or not
    for group, lr in zip(optimiser.param_groups, learning_rates(settings, step), strict=True):
        group["lr"] = lr
    loss = segmentation_loss(model, normalise(pictures), labels, settings.upsample_logits)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if settings.backbone_clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(optimiser.param_groups[0]["params"], settings.backbone_clip_norm)
    optimiser.step()
    return loss.item()


def _momentum(model: DeepLabV3, optimiser: torch.optim.SGD) -> dict[str, Tensor]:
    return {
        name: optimiser.state[parameter]["momentum_buffer"]
        for name, parameter in model.named_parameters()
        if "momentum_buffer" in optimiser.state.get(parameter, {})
    }


def _restore(path: Path, model: DeepLabV3, optimiser: torch.optim.SGD, identity: dict) -> tuple[int, float]:
    checkpoint = load_checkpoint(path)
    if checkpoint.settings != identity:
        raise UserError(f"checkpoint {path} belongs to a run with other settings; choose another folder or delete it.")
    model.load_state_dict(checkpoint.model)
    parameters = dict(model.named_parameters())
    for name, value in checkpoint.momentum.items():
        optimiser.state[parameters[name]]["momentum_buffer"] = value.to(parameters[name].device)
    return checkpoint.step, checkpoint.seconds


class _Log:
    """``log.csv`` with step, loss and learning rate; a run that resumes drops the lines behind its checkpoint."""

    def __init__(self, path: Path, start: int):
        rows = list(csv.reader(path.open())) if path.exists() else []
        kept = [row for row in rows[1:] if len(row) == 3 and row[0].isdigit() and int(row[0]) < start]
        self._file = path.open("w", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerows([["step", "loss", "lr"], *kept])

    def __enter__(self) -> "_Log":
        return self

    def write(self, step: int, loss: float, lr: float) -> None:
        self._writer.writerow([step, f"{loss:.6f}", f"{lr:.8f}"])

    def flush(self) -> None:
        self._file.flush()

    def __exit__(self, *_) -> None:
        self._file.close()


@contextmanager
def _stop_requests():
    """An event that SIGINT and SIGTERM set, instead of breaking into the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
