"""Training samples and batches: pure, in whole batches, and the same with data workers."""

import os
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import CLASSES

from deeplabv3.config import TrainingConfig
from deeplabv3.data import loader
from deeplabv3.data.loader import TrainingSamples, batches
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError


def samples_of(data: VOCData, batch_size: int = 2, seed: int = 0, **changes) -> TrainingSamples:
    return TrainingSamples(data, TrainingConfig(batch_size=batch_size, crop_size=33, **changes), seed)


def test_sample_depends_on_seed_and_number_alone(data):
    """Not on the samples before it."""
    one, other = (samples_of(data, seed=5) for _ in range(2))
    forward = [one[n] for n in range(15)]
    for n in (14, 3, 7, 3, 0):
        for expected, found in zip(forward[n], other[n], strict=True):
            assert np.array_equal(expected, found)
    different = samples_of(data, seed=6)
    assert [one.index(n) for n in range(15)] != [different.index(n) for n in range(15)]
    shared = [n for n in range(60) if one.index(n) == different.index(n)]  # the same image, another crop
    assert not all(np.array_equal(one[n][0], different[n][0]) for n in shared)
    # the same image is cropped differently in the next epoch
    again = next(n for n in range(6, 12) if one.index(n) == one.index(0))
    assert not np.array_equal(one[0][0], one[again][0])


def test_epochs_are_permutations_in_whole_batches(data):
    """10,582 mod 16 = 6: the rest waits for the next epoch."""
    samples = samples_of(data, 4, seed=0)  # 6 images: one batch of 4 an epoch
    epochs = [[samples.index(n) for n in range(start, start + 4)] for start in range(0, 80, 4)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10
    assert {index for epoch in epochs for index in epoch} == set(range(6))
    whole = samples_of(data, 3, seed=0)
    assert sorted(whole.index(n) for n in range(6)) == list(range(6))


def test_batch_larger_than_list_is_refused(data):
    with pytest.raises(UserError, match=r"'train' has 6 images, fewer than 'batch_size' 7"):
        samples_of(data, 7, seed=0)


def test_hard_images_are_repeated_as_configured(data):
    hard_indices = data.indices_with_classes(["disc"])
    assert hard_indices == [n for n in range(len(data)) if (data[n][1] == 2).any()]
    samples = samples_of(data, hard_classes=("disc",), hard_class_copies=3)
    assert samples.per_epoch == len(data) + 2 * len(hard_indices)
    seen = [samples.index(n) for n in range(samples.per_epoch)]
    assert sorted(seen) == sorted([*range(len(data)), *hard_indices, *hard_indices])


def test_unknown_hard_class_is_named(data):
    with pytest.raises(UserError, match="'chair' is not in the class list; choose from background, square, disc"):
        data.indices_with_classes(["chair"])


def test_shares_of_two_processes_are_the_batch(data):
    """In the same order."""
    samples = samples_of(data, 4, seed=0)
    whole = list(batches(samples, 1, 3))
    shares = [list(batches(samples, 1, 3, rank=rank, world_size=2)) for rank in (0, 1)]
    for (images, labels), first, second in zip(whole, *shares, strict=True):
        assert torch.equal(images, torch.cat([first[0], second[0]]))
        assert torch.equal(labels, torch.cat([first[1], second[1]]))


def test_batches_are_consecutive_samples(data):
    samples = samples_of(data, seed=1)
    found = list(batches(samples, 2, 5))
    assert len(found) == 3
    for step, (images, labels) in enumerate(found, start=2):
        assert labels.dtype == torch.uint8
        for i in range(2):
            image, label = samples[2 * step + i]
            assert np.array_equal(images[i], image)
            assert np.array_equal(labels[i], label)


def test_data_worker_yields_the_same_batches(data):
    samples = samples_of(data, seed=1)
    for expected, found in zip(batches(samples, 1, 6), batches(samples, 1, 6, num_workers=1), strict=True):
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[1], found[1])


def test_data_workers_can_be_spawned(data, monkeypatch):
    """macOS and Windows start workers by pickling what they need."""
    arguments = {}

    def spy(dataset, **options):
        arguments.update(options, dataset=dataset)
        return []

    monkeypatch.setattr(loader, "DataLoader", spy)
    list(batches(samples_of(data, seed=1), 0, 2, num_workers=1))
    assert arguments["num_workers"] == 1
    for name in ("dataset", "collate_fn", "worker_init_fn"):
        assert pickle.dumps(arguments.get(name)), name
    data[0]
    assert data.cached and not pickle.loads(pickle.dumps(data)).cached  # images in memory stay behind


@pytest.mark.skipif(sys.platform != "linux", reason="data workers are forked on Linux alone")
def test_forked_workers_share_decoded_images(data):
    """The files are deleted after the first batch: workers have only what was decoded before the fork."""
    samples = samples_of(data, seed=1)
    expected = [samples[n] for n in range(20)]
    fresh = VOCData(data.root, "train", CLASSES, cache=True)
    samples = samples_of(fresh, seed=1)
    stream = batches(samples, 0, 10, num_workers=2)
    next(stream)
    assert len(fresh._cache) == len(fresh)
    stream.close()
    shutil.rmtree(data.root / "JPEGImages")
    found = [image for images, _ in batches(samples, 0, 10, num_workers=2) for image in images]
    for (image, _), other in zip(expected, found, strict=True):
        assert np.array_equal(image, other)


def test_short_run_caches_no_image_ahead(data):
    fresh = VOCData(data.root, "train", CLASSES, cache=True)
    list(batches(samples_of(fresh, seed=1), 0, 3, num_workers=1))
    assert len(fresh._cache) == 0


def test_full_shared_memory_is_a_user_error(data, monkeypatch):
    """As in a container with Docker's 64 MB: PyTorch would wait for ever for a batch that its worker cannot send."""

    def refuse(tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>:\n No space left on device (28)")

    items = [samples_of(data, seed=1)[0]]
    assert not any(tensor.is_shared() for tensor in loader.collate(items))
    monkeypatch.setattr(loader, "get_worker_info", object)  # as in a data worker
    assert all(tensor.is_shared() for tensor in loader.collate(items))
    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    error = loader.collate(items)
    assert isinstance(error, UserError)
    assert re.search(r"No space left on .*--shm-size=2g or --ipc=host, or lower 'runtime\.num_workers'", str(error))


def test_data_workers_start_without_process_groups(data, monkeypatch):
    """Windows has none."""
    monkeypatch.delattr(os, "setpgrp")
    assert len(list(batches(samples_of(data, seed=1), 0, 3, num_workers=1))) == 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_user_error_passes_through_data_worker(voc_root, num_workers):
    (voc_root / "JPEGImages" / "image_3.jpg").write_bytes(b"damaged")
    samples = samples_of(VOCData(voc_root, "train", CLASSES), seed=1)
    with pytest.raises(UserError, match=r"image_3\.jpg cannot be read") as caught:
        list(batches(samples, 0, 3, num_workers))
    assert "\n" not in str(caught.value)
