"""Training samples and the batches made of them (Section 4.1).

Every sample is a pure function of (seed, number of the sample): a resumed run sees what an uninterrupted one would have
seen, with any number of data workers.

Crops are cut on the CPU: three cores cut more crops than a GPU needs that takes 30 ms for a step (``deeplabv3 bench
pipeline``), so augmentation on the GPU would only take time from the network.
"""

import os
import sys
from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from deeplabv3.config import TrainingConfig
from deeplabv3.data.transforms import MEAN_PIXEL, random_crop
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError, attempt


class TrainingSamples(Dataset):
    """Random crops of the training images: image and crop of sample ``n`` depend on ``(seed, n)`` alone.

    Each epoch is a permutation of the images, cut to whole batches (10,582 mod 16 = 6 images are left out of it).
    Images with one of ``config.hard_classes`` are in it ``hard_class_copies`` times (Section 4.3).

    Args:
        data: training images
        config: batch and crop size, scales, flip and hard classes
        seed: of the order, the crops and the flips
        color: that crops are padded with
    """

    def __init__(self, data: VOCData, config: TrainingConfig, seed: int, color: tuple[int, ...] = MEAN_PIXEL):
        self.data, self.config, self.seed, self.color = data, config, seed, color
        hard_indices = data.indices_with_classes(config.hard_classes) if config.hard_classes else []
        self._indices = np.array([*range(len(data)), *hard_indices * (config.hard_class_copies - 1)], dtype=np.int64)
        self.per_epoch = len(self._indices) // config.batch_size * config.batch_size
        if self.per_epoch == 0:
            raise UserError(
                f"list {data.list_name!r} has {len(data)} images, fewer than 'batch_size' {config.batch_size}; lower "
                "it."
            )
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def index(self, n: int) -> int:
        """Index of the image that sample ``n`` is cut from."""
        epoch, position = divmod(n, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self._indices)
        return int(self._order[position])

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Image ``(crop_size, crop_size, 3)`` and label ``(crop_size, crop_size)`` of sample ``n``, both uint8."""
        image, label = self.data[self.index(n)]
        rng, config = np.random.default_rng([self.seed, n, 1]), self.config
        return random_crop(image, label, config.crop_size, rng, config.scales, config.flip, self.color)


class _ErrorsAsValues(Dataset):
    """Returns a UserError instead of raising it: a data worker would bury it in a traceback."""

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray] | UserError:
        sample, problem = attempt(self.samples.__getitem__, n)
        return UserError(problem) if sample is None else sample


def collate(items: list) -> tuple[Tensor, Tensor] | UserError:
    """Samples as a batch, images ``(N, H, W, 3)`` and labels ``(N, H, W)``; if one could not be read, its error."""
    for item in items:
        if isinstance(item, UserError):
            return item
    images, labels = (torch.from_numpy(np.stack(part)) for part in zip(*items, strict=True))
    if get_worker_info() is None:
        return images, labels
    try:
        # PyTorch would do it in a thread of the worker, whose error nobody sees: the training would wait for ever.
        return images.share_memory_(), labels.share_memory_()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        return UserError(
            f"shared memory, /dev/shm, does not hold the data workers' batches ({reason}); give the container more "
            "with --shm-size=2g or --ipc=host, or lower 'runtime.num_workers'."
        )


def _ignore_ctrl_c(_: int) -> None:
    """Leave the process group that Ctrl-C reaches: the trainer finishes its step then, and needs its workers for it."""
    if hasattr(os, "setpgrp"):  # not on Windows
        os.setpgrp()


def batches(
    samples: TrainingSamples,
    first: int,
    last: int,
    num_workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Batches ``first`` … ``last - 1`` of a run: images ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8.

    The data workers start in this call.

    Args:
        samples: samples of the run; batch ``b`` has ``b * batch_size`` … ``(b + 1) * batch_size - 1`` of them
        first: number of the first batch
        last: number after the last batch
        num_workers: data workers; 0 cuts the crops in this process
        rank: number of this process
        world_size: number of processes; each yields its even share, ``N = batch_size / world_size`` crops a batch
    """
    batch_size = samples.config.batch_size
    share = batch_size // world_size
    fork = num_workers > 0 and sys.platform == "linux"
    if fork and samples.data.cached and (last - first) * share > len(samples.data):
        samples.data.cache_all()  # one copy for all workers; otherwise each would decode the list for itself
    loader = DataLoader(
        _ErrorsAsValues(samples),
        batch_size=share,
        sampler=[step * batch_size + rank * share + n for step in range(first, last) for n in range(share)],
        num_workers=num_workers,
        multiprocessing_context="fork" if fork else None,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_ctrl_c,
    )
    return _raise_errors(iter(loader))


def _raise_errors(stream: Iterator[tuple[Tensor, Tensor] | UserError]) -> Generator[tuple[Tensor, Tensor], None, None]:
    for batch in stream:
        if isinstance(batch, UserError):
            raise batch
        yield batch
