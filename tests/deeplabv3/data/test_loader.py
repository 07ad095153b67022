"""Augmentation and the stream of samples: pure, exact, in whole batches, and the same with data workers."""

import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from conftest import CLASSES
from PIL import Image

from deeplabv3.config import SCALES, VOID
from deeplabv3.data.loader import TrainingSamples, batches
from deeplabv3.data.transforms import MEAN_PIXEL, normalize, random_crop
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError


def crop_of(data, index, crop_size, seed, **options):
    image, label = data[index]
    return random_crop(image, label, crop_size, np.random.default_rng(seed), **options)


def test_a_sample_is_a_pure_function_of_seed_and_number(data):
    """Whatever was asked for before, and in whatever order."""
    one, other = (TrainingSamples(data, 33, 2, seed=5) for _ in range(2))
    forward = [one[n] for n in range(15)]
    for n in (14, 3, 7, 3, 0):
        for expected, found in zip(forward[n], other[n], strict=True):
            assert np.array_equal(expected, found)
    different = TrainingSamples(data, 33, 2, seed=6)
    assert [one.index(n) for n in range(15)] != [different.index(n) for n in range(15)]
    shared = [n for n in range(60) if one.index(n) == different.index(n)]  # the same image, another crop
    assert not all(np.array_equal(one[n][0], different[n][0]) for n in shared)
    # the same image is cropped differently in the next epoch
    again = next(n for n in range(6, 12) if one.index(n) == one.index(0))
    assert not np.array_equal(one[0][0], one[again][0])


def test_epochs_are_permutations_in_whole_batches(data):
    """10,582 mod 16 = 6: the rest waits for the next epoch."""
    samples = TrainingSamples(data, 33, 4, seed=0)  # 6 images: one batch of 4 an epoch
    epochs = [[samples.index(n) for n in range(start, start + 4)] for start in range(0, 80, 4)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10
    assert {index for epoch in epochs for index in epoch} == set(range(6))
    whole = TrainingSamples(data, 33, 3, seed=0)
    assert sorted(whole.index(n) for n in range(6)) == list(range(6))


def test_more_images_in_a_batch_than_in_the_list_is_a_users_error(data):
    with pytest.raises(UserError, match=r"'train' has 6 images, fewer than 'batch_size' 7"):
        TrainingSamples(data, 33, 7, seed=0)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_nothing_happens_at_scale_one_without_flip_and_with_the_images_size(data, index):
    image, label = data[index]
    size = max(label.shape)
    height, width = label.shape
    out_image, out_label = crop_of(data, index, size, 0, scales=(1.0,), flip=False)
    assert np.array_equal(out_image[:height, :width], image)
    assert np.array_equal(out_label[:height, :width], label)


@pytest.mark.parametrize("scale", SCALES)
def test_labels_stay_labels(data, scale):
    """Interpolated labels would invent classes between 0, 1, 2 and 255."""
    for seed in range(6):
        _, label = crop_of(data, seed, 33, seed, scales=(scale,))
        assert set(np.unique(label)) <= {0, 1, 2, VOID}


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_padding_is_the_mean_pixel_at_the_bottom_and_right(data, scale):
    height, width = (round(n * scale) for n in data[0][1].shape)
    image, label = crop_of(data, 0, 97, 0, scales=(scale,), flip=False)
    padding = np.ones((97, 97), dtype=bool)
    padding[:height, :width] = False
    assert (image[padding] == MEAN_PIXEL).all()
    assert (label[padding] == VOID).all()
    assert len(np.unique(image[~padding], axis=0)) > 100
    assert normalize(torch.from_numpy(image[None].copy()))[0, :, 96, 96].abs().max() < 0.01


@pytest.mark.parametrize("scale", [0.75, 1.0, 1.5, 2.0])
def test_a_crop_is_a_part_of_the_scaled_image(data, scale):
    """Resizing only what the crop keeps gives what resizing the whole image and cutting would."""
    for index in range(6):
        image, label = data[index]
        height, width = (round(n * scale) for n in label.shape)
        whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)).astype(int)
        whole_label = np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))
        found, found_label = crop_of(data, index, 21, index, scales=(scale,), flip=False)
        differences = {
            (top, left): abs(whole[top : top + 21, left : left + 21] - found).max()
            for top in range(height - 20)
            for left in range(width - 20)
        }
        (top, left), difference = min(differences.items(), key=lambda item: item[1])
        assert difference <= 2  # rounding, pass by pass
        # pixels half-way between two label pixels may fall on either side
        assert (whole_label[top : top + 21, left : left + 21] == found_label).mean() > 0.9


def test_every_position_and_scale_is_drawn():
    """A ramp tells where a crop lies: both ends are reached."""
    ramp = np.arange(12, dtype=np.uint8)
    image = np.stack([np.tile(ramp, (12, 1)), np.tile(ramp[:, None], (1, 12)), np.zeros((12, 12), np.uint8)], axis=2)
    corners = set()
    for seed in range(300):
        out, _ = random_crop(image, ramp + image[..., 1], 10, np.random.default_rng(seed), (1.0,), False)
        corners.add((int(out[0, 0, 1]), int(out[0, 0, 0])))
    assert corners == {(top, left) for top in range(3) for left in range(3)}


def test_flip_mirrors_image_and_label_together(data):
    flipped = 0
    for seed in range(20):
        plain = crop_of(data, 0, 33, seed, scales=(1.0,), flip=False)
        maybe = crop_of(data, 0, 33, seed, scales=(1.0,), flip=True)
        mirrored = [np.array_equal(a[:, ::-1], b) for a, b in zip(plain, maybe, strict=True)]
        same = [np.array_equal(a, b) for a, b in zip(plain, maybe, strict=True)]
        assert all(mirrored) or all(same)
        flipped += all(mirrored)
    assert 4 <= flipped <= 16


@pytest.mark.parametrize("crop", [21, 45, 97])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.75])
def test_a_flipped_sample_is_the_plain_one_mirrored_padding_and_all(data, crop_size, scale):
    """To the bit, and drawn last: every sample of an earlier run stays what it was."""
    for seed in range(6):
        plain_image, plain_label = crop_of(data, seed, crop_size, seed, scales=(scale,), flip=False)
        height, width = (max(1, round(side * scale)) for side in data[seed][1].shape)
        rng = np.random.default_rng(seed)
        rng.integers(1), rng.integers(max(height - crop_size, 0) + 1), rng.integers(max(width - crop_size, 0) + 1)
        mirror = slice(None, None, -1 if rng.integers(2) else 1)
        image, label = crop_of(data, seed, crop_size, seed, scales=(scale,))
        assert np.array_equal(image, plain_image[:, mirror])
        assert np.array_equal(label, plain_label[:, mirror])


def test_normalize_is_imagenets():
    images = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(normalize(images), torch.tensor(expected).view(1, 3, 1, 1))


def test_batches_are_consecutive_samples(data):
    samples = TrainingSamples(data, 33, 2, seed=1)
    found = list(batches(samples, 2, 5, 2))
    assert len(found) == 3
    for step, (images, labels) in enumerate(found, start=2):
        assert labels.dtype == torch.uint8
        for i in range(2):
            image, label = samples[2 * step + i]
            assert np.array_equal(images[i], image)
            assert np.array_equal(labels[i], label)


def test_a_data_worker_changes_nothing(data):
    samples = TrainingSamples(data, 33, 2, seed=1)
    for expected, found in zip(batches(samples, 1, 6, 2), batches(samples, 1, 6, 2, workers=1), strict=True):
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[1], found[1])


def test_data_workers_can_be_spawned(data, monkeypatch):
    """macOS and Windows start workers by pickling what they need."""
    arguments = {}

    def loader(dataset, **options):
        arguments.update(options, dataset=dataset)
        return []

    monkeypatch.setattr(loader, "DataLoader", loader)
    list(batches(TrainingSamples(data, 33, 2, seed=1), 0, 2, 2, workers=1))
    assert arguments["num_workers"] == 1
    for name in ("dataset", "collate_fn", "worker_init_fn"):
        assert pickle.dumps(arguments.get(name)), name
    data[0]
    assert data.cached and not pickle.loads(pickle.dumps(data)).cached  # images in memory stay behind


@pytest.mark.skipif(sys.platform != "linux", reason="data workers are forked on Linux alone")
def test_forked_workers_share_the_decoded_images(data):
    """The files are gone once the stream has begun: what was decoded before the fork is all that there is."""
    samples = TrainingSamples(data, 33, 2, seed=1)
    expected = [samples[n] for n in range(20)]
    fresh = VOCData(data.root, "train", CLASSES, cache=True)
    samples = TrainingSamples(fresh, 33, 2, seed=1)
    stream = batches(samples, 0, 10, 2, workers=2)
    next(stream)
    assert len(fresh._cache) == len(fresh)
    stream.close()
    shutil.rmtree(data.root / "JPEGImages")
    found = [image for images, _ in batches(samples, 0, 10, 2, workers=2) for image in images]
    for (image, _), other in zip(expected, found, strict=True):
        assert np.array_equal(image, other)


def test_nothing_is_decoded_ahead_for_a_part_of_the_list(data):
    fresh = VOCData(data.root, "train", CLASSES, cache=True)
    list(batches(TrainingSamples(fresh, 33, 2, seed=1), 0, 3, 2, workers=1))
    assert len(fresh._cache) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_error_comes_through_a_worker(voc_root, workers):
    (voc_root / "JPEGImages" / "image_3.jpg").write_bytes(b"damaged")
    samples = TrainingSamples(VOCData(voc_root, "train", CLASSES), 33, 2, seed=1)
    with pytest.raises(UserError, match=r"image_3\.jpg cannot be read") as caught:
        list(batches(samples, 0, 3, 2, workers))
    assert "\n" not in str(caught.value)
