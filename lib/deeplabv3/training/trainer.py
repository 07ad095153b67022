"""The training loop: batches in, checkpoints and a log out; stopped or killed anywhere, it goes on (Section 4.1)."""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deeplabv3.config import TrainingConfig
from deeplabv3.data.loader import TrainingSamples, batches, worker_errors
from deeplabv3.data.voc import VOCData
from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup, convert_sync_batchnorm
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import Checkpoint, checkpoints, load_checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.signals import Interrupted, _stop_requests
from deeplabv3.training.log import Log
from deeplabv3.training.step import ModelWithLoss, make_optimizer, training_step

READ_EVERY = {"cpu": 1, "cuda": 20}
"""Losses are read every so many steps: reading one waits until the GPU has finished all that it was given."""


@dataclass(frozen=True)
class Validation:
    """``score(model)``, mIoU in percent, is taken every ``every`` steps; best.safetensors is the best network so far.

    The paper keeps the last one, and so do the tables here: a network that was chosen for its val mIoU has seen val.
    """

    every: int
    score: Callable[[DeepLabV3], float]


def train(
    model: DeepLabV3,
    data: VOCData,
    settings: TrainingConfig,
    folder: Path,
    identity: dict,
    *,
    seed: int = 0,
    workers: int = 0,
    device: str | torch.device = "cpu",
    compiled: bool = False,
    processes: ProcessGroup = SINGLE_PROCESS,
    validation: Validation | None = None,
    keep: int = 2,
    save_every_s: float = 60.0,
    report: Callable[[int, float, float], None] = lambda step, loss, lr: None,
) -> float:
    """Train ``model`` in place, or go on where ``folder/checkpoint.safetensors`` stands.

    ``identity`` is written into the checkpoint; one with another identity is refused, a damaged one gives way, with a
    warning, to the one before it (the last ``keep`` are kept). ``report(step, loss, lr)`` is called for every step.
    SIGINT and SIGTERM save and raise :class:`Interrupted`; a process that is killed outright loses at most
    ``save_every_s`` seconds. On the CPU, a run that was stopped ends with the same bits as one that was not.
    Returns the seconds that training took, those before an interruption included.
    """
    device = torch.device(device)
    if settings.batch_size % (processes.world_size * settings.grad_accum_steps):
        raise UserError(
            f"setting 'batch_size' is {settings.batch_size}; {processes.world_size} processes with {settings.grad_accum_steps} parts each do not "
            "divide it evenly."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run folder {folder} cannot be made ({error}); set DEEPLABV3_WORKSPACE.") from error
    # Channels last halves the time of a step on the CPU and suits tensor cores; the numbers stay the same to rounding.
    model.to(device, memory_format=torch.channels_last).set_batch_norm_momentum(settings.batch_norm_momentum)
    model.freeze_batch_norm(settings.freeze_batch_norm).train()
    if not settings.freeze_batch_norm:
        model = convert_sync_batchnorm(model, processes)
    optimizer = make_optimizer(model, settings)
    state = _Run(model, optimizer, folder, identity, keep)
    start = state.restore()
    if len(set(processes.all_gather(start))) > 1:
        raise UserError(
            f"the processes of this run find different checkpoints in {folder}; set DEEPLABV3_WORKSPACE to a folder "
            "that all machines share."
        )
    if start >= settings.iterations:
        return state.seconds
    model_with_loss = processes.wrap(ModelWithLoss(model, settings))
    if compiled:
        model_with_loss = torch.compile(model_with_loss, dynamic=False)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # every batch has one size: measure once which algorithm is fastest

    again = (
        data.indices_with_classes(settings.hard_classes) * (settings.hard_class_copies - 1)
        if settings.hard_classes
        else []
    )
    samples = TrainingSamples(data, settings.crop_size, settings.batch_size, seed, settings.scales, settings.flip, again)
    stream = batches(samples, start, settings.iterations, settings.batch_size, workers, processes.rank, processes.world_size)
    read_every = READ_EVERY.get(device.type, 1)
    unread: list[tuple[int, Tensor, float]] = []
    saved_at = time.monotonic()
    with worker_errors(), Log(folder, start) if processes.is_main else _NoLog() as log, _stop_requests() as stop:
        for step, (images, labels) in enumerate(stream, start=start):
            batch = (part.to(device, non_blocking=True) for part in (images, labels))
            with _memory_suffices(settings):
                loss = training_step(model_with_loss, optimizer, settings, seed, step, *batch, processes)
            unread.append((step, loss, optimizer.param_groups[1]["lr"]))
            done = step + 1
            validates = validation is not None and done % validation.every == 0
            if done % read_every and not validates and done < settings.iterations:
                continue
            for number, value, lr in unread:
                _require_finite(value := value.item(), folder, number, settings)
                log.write(number, value, lr, state.seconds)
                report(number, value, lr)
            unread.clear()
            if validates:
                log.write_score(done, state.validate(validation, done, processes))
            stops, finished = processes.any(stop.is_set(), device), done == settings.iterations
            if processes.is_main and (stops or finished or time.monotonic() - saved_at > save_every_s):
                log.flush()  # the log is never shorter than the checkpoint
                state.save(done, finished)
                saved_at = time.monotonic()
            if stops:
                raise Interrupted(f"stopped after step {done} of {settings.iterations}; the same command goes on.")
    processes.barrier()
    return state.seconds


class _Run:
    """What a run saves and restores: weights, momentum, step and the time so far."""

    def __init__(self, model: DeepLabV3, optimizer: torch.optim.SGD, folder: Path, identity: dict, keep: int):
        self.model, self.optimizer, self.identity, self.keep = model, optimizer, identity, keep
        self.path, self.best = folder / "checkpoint.safetensors", folder / "best.safetensors"
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def save(self, step: int, finished: bool = False) -> None:
        momentum = {} if finished else self._momentum()
        save_checkpoint(
            self.path, Checkpoint(step, self.seconds, self.identity, self.model.state_dict(), momentum), self.keep
        )

    def restore(self) -> int:
        """Load the newest checkpoint that can be read; the step that comes next."""
        found = checkpoints(self.path)
        for number, path in enumerate(found):
            try:
                checkpoint = load_checkpoint(path)
                break
            except UserError as error:
                if number == len(found) - 1:
                    raise
                warnings.warn(f"{error} Going on from the one before, {found[number + 1].name}.", stacklevel=3)
        else:
            return 0
        if checkpoint.settings != self.identity:
            raise UserError(
                f"checkpoint {path} belongs to a run with other settings; choose another folder or delete it."
            )
        self.model.load_state_dict(checkpoint.model)
        parameters = dict(self.model.named_parameters())
        for name, value in checkpoint.momentum.items():
            # In the layout of its parameter (channels last), which the one kernel on a GPU takes for granted.
            momentum = torch.empty_like(parameters[name]).copy_(value)
            self.optimizer.state[parameters[name]]["momentum_buffer"] = momentum
        self._began = time.monotonic() - checkpoint.seconds
        return checkpoint.step

    def validate(self, validation: Validation, step: int, processes: ProcessGroup) -> float:
        """The network's score now; where it is the best so far, the network is kept."""
        began = time.monotonic()
        score = validation.score(self.model.eval())
        self.model.train()
        if processes.is_main and score > self._best_score():
            state = self.model.state_dict()
            save_checkpoint(self.best, Checkpoint(step, self.seconds, self.identity, state, {}, score))
        self._began += time.monotonic() - began  # is no training, and images/s should not count it
        return score

    def _best_score(self) -> float:
        try:
            return load_checkpoint(self.best).score
        except UserError:  # there is none, or a damaged one, which is no reason to end a run
            return -math.inf

    def _momentum(self) -> dict[str, Tensor]:
        return {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if "momentum_buffer" in self.optimizer.state.get(parameter, {})
        }


class _NoLog:
    """The log of a process that does not lead: none."""

    def __enter__(self) -> "_NoLog":
        return self

    def __exit__(self, *_: object) -> None: ...

    def write(self, *_: object) -> None: ...

    write_score = write


def _require_finite(loss: float, folder: Path, step: int, settings: TrainingConfig) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss of run {folder} became {loss} at step {step}; lower 'lr' ({settings.lr}) or set "
            f"'backbone_clip_norm'; what was saved before stays as it is."
        )


@contextmanager
def _memory_suffices(settings: TrainingConfig):
    """That a step does not fit the GPU is the user's to mend."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory does not hold a step; raise 'training.grad_accum_steps' ({settings.grad_accum_steps}), or lower "
            f"'training.batch_size' ({settings.batch_size}) or 'training.crop_size' ({settings.crop_size})."
        ) from error
