"""Several processes, one run: torchrun starts them, each trains on its share of every batch (one GPU each).

What comes out is the run of one process with the same global batch, to rounding and to dropout's draws: gradients are
summed over all pixels of the batch, and batch norm's statistics are those of the whole batch. Statistics of a share
alone are what made a public code base lose 24 points on eight GPUs (Table 9 shows what small batches cost).
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deeplabv3.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run: this one is number ``rank`` of ``size``."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every process's ``value``."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether ``flag`` is true in any process."""
        return bool(self.sum(torch.tensor(float(flag), device=device)).item())

    def gather(self, value: Any) -> list[Any]:
        """Every process's ``value``, in every process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def share(self, module: nn.Module) -> nn.Module:
        """``module`` with gradients averaged over the processes."""
        if self.size == 1:
            return module
        device = next(module.parameters()).device
        with warnings.catch_warnings():
            # Statistics are synchronized layer by layer, so the buffers are equal already. The option is going to have
            # another name, which PyTorch 2.11 does not know.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(module, [device] if device.type == "cuda" else None, broadcast_buffers=False)

    def without_exchange(self, module: nn.Module):
        """Within this context gradients stay in this process; the next backward pass outside exchanges them."""
        return module.no_sync() if self.size > 1 else nullcontext()

    def unwrap(self, module: nn.Module) -> nn.Module:
        """The module that was shared or compiled."""
        module = getattr(module, "_orig_mod", module)
        return module.module if isinstance(module, DistributedDataParallel) else module


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def join(timeout_s: float = 600.0) -> Iterator[ProcessGroup]:
    """The processes that torchrun has started this process in; outside torchrun, :data:`SINGLE_PROCESS`."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield SINGLE_PROCESS
        return
    backend, card = "gloo", None
    if torch.cuda.is_available():
        local, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= cards:
            raise UserError(
                f"torchrun started process {local + 1} on a machine with {cards} GPUs; lower --nproc-per-node."
            )
        torch.cuda.set_device(local)
        backend, card = "nccl", torch.device("cuda", local)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), device_id=card)
    processes = ProcessGroup(dist.get_rank(), size)
    try:
        yield processes
    except RuntimeError as error:
        if not _is_connection_error(error):
            raise
        raise UserError(
            f"process {processes.rank} of {size} lost contact with another one, which may have died ({_first_line(error)}); "
            "see its own message, then start the same command again: the run goes on from its last checkpoint."
        ) from error
    # Only where all went well: while others wait for this process, NCCL would wait for them here, and a process that
    # failed would not get to say why.
    dist.destroy_process_group()


def restarted() -> bool:
    """Whether torchrun has started this process in place of one that failed (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def _is_connection_error(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def convert_sync_batchnorm(model: nn.Module, processes: ProcessGroup) -> nn.Module:
    """Make every batch norm of ``model`` use the statistics of the whole batch, over all processes."""
    if processes.world_size == 1:
        return model
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _BatchNormOnCPU
    return model


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's share in it has the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


class _BatchNormOnCPU(nn.BatchNorm2d):
    """Synchronized batch norm by its definition: PyTorch's own is for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        count = torch.tensor(float(x.numel() // x.shape[1]))
        dist.all_reduce(count)
        whole = x.float()  # under autocast x may be bfloat16, whose sums are too coarse
        mean = _Sum.apply(whole.sum((0, 2, 3))) / count
        centered = whole - mean[:, None, None]
        variance = _Sum.apply(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
