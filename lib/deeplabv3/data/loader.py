"""Training augmentation and the stream of training samples (Section 4.1).

Every sample is a pure function of (seed, number of the sample): a resumed run sees what an uninterrupted one would have
seen, with any number of data workers.

Crops are cut on the CPU: three cores cut more than a GPU eats that takes 30 ms for a step (``deeplabv3 bench
pipeline``), so augmentation on the GPU would only take time from the network.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deeplabv3.config import SCALES
from deeplabv3.data.transforms import random_crop
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError


class TrainingSamples(Dataset):
    """Sample ``n`` of a training run: which image, and how it is cropped, follow from ``(seed, n)`` alone.

    Each epoch is a permutation of the list, cut to whole batches (10,582 mod 16 = 6 images wait for the next epoch).
    The images with numbers ``again`` stand in the list once more for each time that they are named there.
    """

    def __init__(
        self,
        data: VOCData,
        crop_size: int,
        batch_size: int,
        seed: int,
        scales: tuple[float, ...] = SCALES,
        flip: bool = True,
        again: Sequence[int] = (),
    ):
        self.data, self.crop_size, self.seed, self.scales, self.flip = data, crop_size, seed, scales, flip
        self._list = np.concatenate([np.arange(len(data)), np.array(again, dtype=np.int64)])
        self.per_epoch = len(self._list) // batch_size * batch_size
        if self.per_epoch == 0:
            raise UserError(f"list {data.list_name!r} has {len(data)} images, fewer than 'batch_size' {batch_size}; lower it.")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def index(self, n: int) -> int:
        """Which image of the list is sample ``n``."""
        epoch, position = divmod(n, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self._list)
        return int(self._order[position])

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = self.data[self.index(n)]
        rng = np.random.default_rng([self.seed, n, 1])
        return random_crop(image, label, self.crop_size, rng, self.scales, self.flip)


class _ErrorsAsValues(Dataset):
    """Hands a user's error over as a value: a data worker would bury it in a traceback."""

    def __init__(self, samples: Dataset):
        self.samples = samples

    def __getitem__(self, n: int):
        try:
            return self.samples[n]
        except UserError as error:
            return error


def collate(items: list) -> tuple[Tensor, Tensor] | UserError:
    """Samples as a batch; if reading one of them failed, its error."""
    for item in items:
        if isinstance(item, UserError):
            return item
    images, labels = zip(*items, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def _ignore_ctrl_c(_: int) -> None:
    """Ctrl-C reaches a whole process group: the trainer should finish its step then, and not lose its workers first."""
    os.setpgrp()


def batches(
    samples: TrainingSamples, first: int, last: int, batch_size: int, workers: int = 0, share: int = 0, shares: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``first`` … ``last - 1`` of a run: images ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8.

    Of ``shares`` processes that divide every batch evenly among them, this is number ``share``.
    """
    own = batch_size // shares
    fork = workers > 0 and sys.platform == "linux"
    if fork and samples.data.cached and (last - first) * own > len(samples.data):
        samples.data.cache_all()  # one copy for all workers, where each would come to decode the list for itself
    loader = DataLoader(
        _ErrorsAsValues(samples),
        batch_size=own,
        sampler=[step * batch_size + share * own + n for step in range(first, last) for n in range(own)],
        num_workers=workers,
        multiprocessing_context="fork" if fork else None,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_ignore_ctrl_c,
    )
    with worker_errors():
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item


@contextmanager
def worker_errors() -> Iterator[None]:
    """The death of a data worker, which PyTorch reports wherever the program just is, is a user's error."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError("a data worker died, often for want of memory; lower 'workers' and run again.") from error
