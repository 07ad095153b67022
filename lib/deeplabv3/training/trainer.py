"""Training loop: batches in, checkpoints and a log out; a run that is stopped or killed resumes (Section 4.1)."""

import math
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from deeplabv3.config import RuntimeConfig, TrainingConfig
from deeplabv3.data.loader import TrainingSamples, batches
from deeplabv3.data.voc import VOCData
from deeplabv3.device import compute_settings
from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup, convert_sync_batchnorm
from deeplabv3.errors import UserError, attempt
from deeplabv3.files import CHECKPOINT
from deeplabv3.model.checkpoint import Checkpoint, checkpoints, load_checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.signals import Interrupted, stop_requests
from deeplabv3.training.log import Log
from deeplabv3.training.step import ModelWithLoss, get_momentum, make_optimizer, set_momentum, training_step

BEST = "best.safetensors"
READ_EVERY = {"cpu": 1, "cuda": 20}  # steps; reading a loss waits until the GPU has finished all work so far


@dataclass(eq=False)
class Trainer:
    """Trains a network in place, or resumes from ``folder/checkpoint.safetensors``.

    SIGINT and SIGTERM save and raise :class:`Interrupted`; a process that is killed loses at most
    ``runtime.save_every_s`` seconds. On the CPU a resumed run ends with the same bits as an uninterrupted one.
    """

    model: DeepLabV3
    data: VOCData  # training images
    config: TrainingConfig  # what is trained
    folder: Path  # gets checkpoint.safetensors, log.csv and, with validations, best.safetensors
    identity: dict  # written into the checkpoint; a checkpoint with another one is refused
    _: KW_ONLY
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)  # how it is computed
    seed: int = 0  # of samples and dropout
    device: torch.device = field(default=torch.device("cpu"))
    processes: ProcessGroup = SINGLE_PROCESS  # those of this run; each has a Trainer
    validate_every: int = 0  # steps; 0: never
    score: Callable[[DeepLabV3], float] = lambda model: math.nan  # mIoU in percent; tables use the last network
    report: Callable[[int, float, float], None] = lambda step, loss, lr: None  # called for every step

    def run(self) -> float:
        """Train to the last step. Return the seconds that training took, those before an interruption included."""
        config, num_steps, world_size = self.config, self.config.iterations, self.processes.world_size
        if config.batch_size % (world_size * config.grad_accum_steps):
            raise UserError(
                f"setting 'batch_size' is {config.batch_size}; {world_size} processes with {config.grad_accum_steps} "
                "parts each do not divide it evenly."
            )
        self.resume()
        if self.steps_done >= num_steps:
            return self.seconds
        samples = TrainingSamples(self.data, config, self.seed, self.model.config.mean_pixel)
        steps, share = (self.steps_done, num_steps), (self.processes.rank, world_size)
        # First of all data workers are forked: CUDA's and TensorBoard's threads may hold locks that a child waits for.
        stream = batches(samples, *steps, self.runtime.num_workers, *share)
        switches = compute_settings(config.precision, one_size=True, deterministic=self.runtime.deterministic)
        with switches, stop_requests() as stop, ThreadPoolExecutor(1) as self.writer:
            self.setup()
            with Log(self.folder, self.steps_done, self.processes.is_main) as self.log:
                self._train(stream, stop)
        self.processes.barrier()
        return self.seconds

    def _train(self, stream: Iterable[tuple[Tensor, Tensor]], stop: list[BaseException]) -> None:
        saved_at = time.monotonic()
        for images, labels in stream:  # (N, H, W, 3) and (N, H, W), this process's share
            self.step(images, labels)
            finished = self.steps_done == self.config.iterations
            validates = self.validate_every > 0 and self.steps_done % self.validate_every == 0
            if self.steps_done % READ_EVERY.get(self.device.type, 1) and not validates and not finished:
                continue
            self.read_losses()
            if validates:
                self.validate()
            stopped = self.processes.any(bool(stop), self.device)
            due = stopped or finished or time.monotonic() - saved_at > self.runtime.save_every_s
            if due and self.processes.is_main:
                self.save()
                saved_at = time.monotonic()
            if stopped or finished:
                self.wait_for_writer()
            if stopped:
                raise Interrupted(
                    f"stopped after step {self.steps_done} of {self.config.iterations}; the same command goes on."
                )

    def resume(self) -> None:
        """Load the newest checkpoint; a damaged one gives way, with a warning, to the one before it."""
        self.steps_done, self.began = 0, time.monotonic()
        self.momentum: dict[str, Tensor] = {}  # what the optimizer is going to start with
        paths = checkpoints(self.folder / CHECKPOINT)
        for number, path in enumerate(paths, start=1):
            checkpoint, problem = attempt(load_checkpoint, path)
            if checkpoint is not None:
                if checkpoint.settings != self.identity:
                    raise UserError(
                        f"checkpoint {path} belongs to a run with other settings; choose another folder or delete it."
                    )
                self.model.load_state_dict(checkpoint.model)
                self.momentum = checkpoint.momentum
                self.steps_done, self.began = checkpoint.step, time.monotonic() - checkpoint.seconds
                break
            if number == len(paths):
                raise UserError(problem)
            warnings.warn(f"{problem} Going on from the one before, {paths[number].name}.", stacklevel=3)
        if len(set(self.processes.all_gather(self.steps_done))) > 1:
            raise UserError(
                f"the processes of this run find different checkpoints in {self.folder}; set DEEPLABV3_WORKSPACE to a "
                "folder that all machines share."
            )

    def setup(self) -> None:
        """Prepare network, loss and optimizer for the device and the processes."""
        config = self.config
        # Channels last halves the time of a step on the CPU and suits tensor cores; results are equal to rounding.
        model = self.model.to(self.device).to(memory_format=torch.channels_last)
        model.set_batch_norm_momentum(config.batch_norm_momentum).freeze_batch_norm(config.freeze_batch_norm).train()
        if not config.freeze_batch_norm:
            convert_sync_batchnorm(model, self.processes)
        self.optimizer = make_optimizer(model, config)
        set_momentum(model, self.optimizer, self.momentum)
        self.model_with_loss = self.processes.wrap(ModelWithLoss(model, config), self.runtime.compile)
        self.unread: list[tuple[int, Tensor, float]] = []  # step, loss, learning rate
        self.written: Future | None = None  # of the checkpoint that is being written

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Train on images ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8, without waiting for a GPU."""
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        step = self.steps_done
        loss = training_step(
            self.model_with_loss, self.optimizer, self.config, self.seed, step, images, labels, self.processes
        )
        self.unread.append((step, loss, self.optimizer.param_groups[1]["lr"]))
        self.steps_done += 1

    def read_losses(self) -> None:
        """Log and report the losses since the last call; one that is not finite ends the run before it is saved."""
        for step, loss_on_device, lr in self.unread:
            loss = loss_on_device.item()
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss of run {self.folder} became {loss} at step {step}; lower 'lr' ({self.config.lr}) or set "
                    "'backbone_clip_norm'; what was saved before stays as it is."
                )
            self.log.write(step, loss, lr, self.seconds)
            self.report(step, loss, lr)
        self.unread.clear()

    def validate(self) -> None:
        """Log the network's score, and save the network as ``best.safetensors`` if it is the best so far."""
        began = time.monotonic()
        score = self.score(self.model.eval())
        self.model.train()
        if self.processes.is_main and score > self._best_score():
            checkpoint = Checkpoint(self.steps_done, self.seconds, self.identity, self.model.state_dict(), {}, score)
            save_checkpoint(self.folder / BEST, checkpoint)
        self.began += time.monotonic() - began  # validation is not training time
        self.log.write_score(self.steps_done, score)

    def _best_score(self) -> float:
        best, _ = attempt(load_checkpoint, self.folder / BEST)
        return -math.inf if best is None or best.score is None else best.score

    def save(self) -> None:
        """Begin to write the checkpoint beside the training, after the log, which is never shorter than it."""
        self.wait_for_writer()
        self.log.flush()
        momentum = get_momentum(self.model, self.optimizer) if self.steps_done < self.config.iterations else {}
        # A copy from a GPU goes to pinned memory, while the GPU goes on with what it has to do.
        weights, momentum = (
            {name: value.detach().to("cpu", non_blocking=True, copy=True) for name, value in part.items()}
            for part in (self.model.state_dict(), momentum)
        )
        copied = torch.cuda.Event() if self.device.type == "cuda" else None
        if copied is not None:
            copied.record()
        checkpoint = Checkpoint(self.steps_done, self.seconds, self.identity, weights, momentum)

        def write() -> None:
            if copied is not None:
                copied.synchronize()
            save_checkpoint(self.folder / CHECKPOINT, checkpoint, self.runtime.keep_checkpoints)

        self.written = self.writer.submit(write)

    def wait_for_writer(self) -> None:
        """Wait until the last checkpoint is on disk; raise the :class:`UserError` of a full one."""
        if self.written is not None:
            self.written.result()

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self.began
