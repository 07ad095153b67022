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
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from deeplabv3.data.voc import VOID, VOCData
from deeplabv3.errors import UserError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
MEAN_PIXEL = tuple(round(255 * value) for value in MEAN)
"""What pictures are padded with: it is zero, or nearly, after normalisation."""

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""Random scales of the paper, 0.5 to 2.0, in the steps of the authors' public code."""


def random_crop(
    picture: np.ndarray,
    label: np.ndarray,
    crop: int,
    rng: np.random.Generator,
    scales: tuple[float, ...] = SCALES,
    flip: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Scale by one of ``scales``, pad bottom and right with the mean pixel (label 255), crop at random, flip or not.

    Only the part of the picture that the crop keeps is resized, which is the same and much faster. Returns
    ``(crop, crop, 3)`` and ``(crop, crop)``, both uint8.
    """
    height, width = label.shape
    scale = scales[rng.integers(len(scales))]
    scaled_height, scaled_width = max(1, round(height * scale)), max(1, round(width * scale))
    top = int(rng.integers(max(scaled_height - crop, 0) + 1))
    left = int(rng.integers(max(scaled_width - crop, 0) + 1))
    kept_height, kept_width = min(crop, scaled_height - top), min(crop, scaled_width - left)
    y, x = height / scaled_height, width / scaled_width
    box = (left * x, top * y, min((left + kept_width) * x, width), min((top + kept_height) * y, height))

    flipped = flip and bool(rng.integers(2))

    def cut(array: np.ndarray, method: Image.Resampling, padding: int | tuple[int, ...]) -> np.ndarray:
        # Pillow pads and mirrors five times faster than numpy, which goes pixel by pixel where a pixel is three bytes.
        image = Image.fromarray(array).resize((kept_width, kept_height), method, box)
        if image.size != (crop, crop):
            padded = Image.new(image.mode, (crop, crop), padding)
            padded.paste(image)
            image = padded
        return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image)

    return cut(picture, Image.Resampling.BILINEAR, MEAN_PIXEL), cut(label, Image.Resampling.NEAREST, VOID)


def normalise(pictures: Tensor) -> Tensor:
    """Pictures ``(N, H, W, 3)`` uint8 to images ``(N, 3, H, W)`` float32, with ImageNet's mean and deviation."""
    mean = torch.tensor(MEAN, device=pictures.device).view(1, 3, 1, 1)
    std = torch.tensor(STD, device=pictures.device).view(1, 3, 1, 1)
    return (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std


class TrainingSamples(Dataset):
    """Sample ``n`` of a training run: which picture, and how it is cropped, follow from ``(seed, n)`` alone.

    Each epoch is a permutation of the list, cut to whole batches (10,582 mod 16 = 6 pictures wait for the next epoch).
    The pictures with numbers ``again`` stand in the list once more for each time that they are named there.
    """

    def __init__(
        self,
        data: VOCData,
        crop: int,
        batch: int,
        seed: int,
        scales: tuple[float, ...] = SCALES,
        flip: bool = True,
        again: Sequence[int] = (),
    ):
        self.data, self.crop, self.seed, self.scales, self.flip = data, crop, seed, scales, flip
        self._list = np.concatenate([np.arange(len(data)), np.array(again, dtype=np.int64)])
        self.per_epoch = len(self._list) // batch * batch
        if self.per_epoch == 0:
            raise UserError(f"list {data.list_name!r} has {len(data)} pictures, fewer than 'batch' {batch}; lower it.")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def index(self, n: int) -> int:
        """Which picture of the list is sample ``n``."""
        epoch, position = divmod(n, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self._list)
        return int(self._order[position])

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        picture, label = self.data[self.index(n)]
        rng = np.random.default_rng([self.seed, n, 1])
        return random_crop(picture, label, self.crop, rng, self.scales, self.flip)


class _Forgiving(Dataset):
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
    pictures, labels = zip(*items, strict=True)
    return torch.from_numpy(np.stack(pictures)), torch.from_numpy(np.stack(labels))


def _leave_process_group(_: int) -> None:
    """Ctrl-C reaches a whole process group: the trainer should finish its step then, and not lose its workers first."""
    os.setpgrp()


def batches(
    samples: TrainingSamples, first: int, last: int, batch: int, workers: int = 0, share: int = 0, shares: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches ``first`` … ``last - 1`` of a run: pictures ``(N, H, W, 3)`` and labels ``(N, H, W)``, both uint8.

    Of ``shares`` processes that divide every batch evenly among them, this is number ``share``.
    """
    own = batch // shares
    fork = workers > 0 and sys.platform == "linux"
    if fork and samples.data.cached and (last - first) * own > len(samples.data):
        samples.data.decode_all()  # one copy for all workers, where each would come to decode the list for itself
    loader = DataLoader(
        _Forgiving(samples),
        batch_size=own,
        sampler=[step * batch + share * own + n for step in range(first, last) for n in range(own)],
        num_workers=workers,
        multiprocessing_context="fork" if fork else None,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_process_group,
    )
    with workers_watched():
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item


@contextmanager
def workers_watched() -> Iterator[None]:
    """The death of a data worker, which PyTorch reports wherever the program just is, is a user's error."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError("a data worker died, often for want of memory; lower 'workers' and run again.") from error
