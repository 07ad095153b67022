"""Distributed training: torchrun starts the processes, each trains on its share of every batch (one GPU each).

The result is that of one process with the same global batch, up to rounding and dropout: gradients are summed over all
pixels of the batch, and batch norm uses the statistics of the whole batch. Statistics of a share alone made a public
code base lose 24 points on eight GPUs (Table 9 shows what small batches cost).
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from deeplabv3.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run; this one has number ``rank`` of ``world_size``."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def all_reduce(self, value: Tensor) -> Tensor:
        """Sum of ``value`` over all processes."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """True if ``flag`` is true in any process."""
        if self.world_size == 1:
            return flag
        return bool(self.all_reduce(torch.tensor(float(flag), device=device)).item())

    def all_gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, in order of their ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until all processes have come here."""
        if self.world_size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module, compiled: bool = False) -> nn.Module:
        """``module``, with gradients averaged if there are several processes, and compiled on demand."""
        if self.world_size > 1:
            device = next(module.parameters()).device
            ids = [device] if device.type == "cuda" else None
            with warnings.catch_warnings():
                # Batch norm is synchronized layer by layer, so the buffers are equal already. The option is going to
                # have another name, which PyTorch 2.11 does not know.
                warnings.simplefilter("ignore", FutureWarning)
                module = DistributedDataParallel(module, ids, broadcast_buffers=False)
        return cast(nn.Module, torch.compile(module, dynamic=False)) if compiled else module

    def no_sync(self, module: Any) -> AbstractContextManager[None]:
        """Context in which gradients add up in this process; the next backward pass outside it averages them."""
        return module.no_sync() if self.world_size > 1 else nullcontext()

    def unwrap(self, module: nn.Module) -> Any:
        """The module that :meth:`wrap` was given."""
        module = getattr(module, "_orig_mod", module)
        return module.module if isinstance(module, DistributedDataParallel) else module


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def init_distributed(timeout_s: float = 600.0) -> Iterator[ProcessGroup]:
    """The processes that torchrun or ``srun`` started this one with; else :data:`SINGLE_PROCESS`.

    A lost process is a :class:`UserError` in the others where gloo notices it. NCCL's watchdog ends the others itself,
    with a message of its own.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    backend, device = "gloo", None
    if torch.cuda.is_available():
        local_rank, num_gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if num_gpus == 1 and not dist.is_torchelastic_launched():
            local_rank = 0  # srun shows each process its own GPU alone
        if local_rank >= num_gpus:
            raise UserError(
                f"process {local_rank + 1} was started on a machine with {num_gpus} GPUs; lower --nproc-per-node, or "
                "srun's --ntasks-per-node."
            )
        torch.cuda.set_device(local_rank)
        backend, device = "nccl", torch.device("cuda", local_rank)
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s), device_id=device)
    processes = ProcessGroup(dist.get_rank(), world_size)
    try:
        yield processes
    except RuntimeError as error:
        if not _is_connection_error(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"process {processes.rank} of {world_size} lost contact with another one, which may have died ({reason}); "
            "see its own message, then start the same command again: the run goes on from its last checkpoint."
        ) from error
    # Not after an error: NCCL would wait here for processes that wait for this one, and its error would not be printed.
    dist.destroy_process_group()


def is_elastic_restart() -> bool:
    """True if torchrun started this process in place of one that failed (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def _is_connection_error(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


def convert_sync_batchnorm(model: nn.Module, processes: ProcessGroup) -> nn.Module:
    """``model``, changed in place: batch norm uses the statistics of the whole batch, over all processes."""
    if processes.world_size > 1:
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SyncBatchNorm
    return model


class _AllReduceSum(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _AllReduceSum.forward(ctx, gradient)


class SyncBatchNorm(nn.BatchNorm2d):
    """Synchronized batch norm by its definition, for equal shares of the batch.

    PyTorch's own is for GPUs only, and waits for the GPU in every layer to learn whether the shares are equal.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W), N of this process
        if not self.training:
            return super().forward(x)
        world_size = dist.get_world_size()
        x_float = x.float()  # under autocast x may be bfloat16, whose sums are too coarse
        variance, mean = torch.var_mean(x_float, (0, 2, 3), correction=0)  # (C,) and (C,), of this process
        # Variances cannot be averaged, squares can; in float64, where little is lost when the mean is subtracted again.
        mean, variance = mean.double(), variance.double()  # (C,) and (C,)
        moments = torch.cat([mean, variance + mean.square()])  # (2 C,)
        mean, square = (_AllReduceSum.apply(moments) / world_size).chunk(2)  # (C,) and (C,), of all processes
        variance = square - mean.square()  # (C,)
        with torch.no_grad():
            count = world_size * x.numel() // x.shape[1]  # values per channel
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.float(), self.momentum)
            self.running_var.lerp_((variance * count / (count - 1)).float(), self.momentum)
        scale = (self.weight * (variance + self.eps).rsqrt()).float()  # (C,)
        shift = (self.bias - mean * scale).float()  # (C,)
        return (x_float * scale[:, None, None] + shift[:, None, None]).to(x.dtype)  # (N, C, H, W)
