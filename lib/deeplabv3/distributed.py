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
    """The processes that torchrun started this one with; outside torchrun :data:`SINGLE_PROCESS`."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    backend, device = "gloo", None
    if torch.cuda.is_available():
        local_rank, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= num_gpus:
            raise UserError(
                f"torchrun started process {local_rank + 1} on a machine with {num_gpus} GPUs; lower --nproc-per-node."
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
    if processes.world_size == 1:
        return model
    if next(model.parameters()).is_cuda:
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = _SyncBatchNormCPU
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


class _SyncBatchNormCPU(nn.BatchNorm2d):
    """Synchronized batch norm by its definition: PyTorch's own is for GPUs only."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W), N of this process
        if not self.training:
            return super().forward(x)
        count = torch.tensor(float(x.numel() // x.shape[1]))  # (), values per channel
        dist.all_reduce(count)
        x_float = x.float()  # under autocast x may be bfloat16, whose sums are too coarse
        mean = _AllReduceSum.apply(x_float.sum((0, 2, 3))) / count  # (C,)
        centered = x_float - mean[:, None, None]  # (N, C, H, W)
        variance = _AllReduceSum.apply(centered.square().sum((0, 2, 3))) / count  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()  # (C,)
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)  # (N, C, H, W)
