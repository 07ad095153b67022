"""Training augmentation and normalization: exact, labels stay labels, every position is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from deeplabv3.config import SCALES, VOID
from deeplabv3.data.transforms import MEAN_PIXEL, normalize, random_crop


def crop_of(data, index, crop_size, seed, **options):
    image, label = data[index]
    return random_crop(image, label, crop_size, np.random.default_rng(seed), **options)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_crop_of_image_size_is_the_image(data, index):
    image, label = data[index]
    size = max(label.shape)
    height, width = label.shape
    out_image, out_label = crop_of(data, index, size, 0, scales=(1.0,), flip=False)
    assert np.array_equal(out_image[:height, :width], image)
    assert np.array_equal(out_label[:height, :width], label)


@pytest.mark.parametrize("scale", SCALES)
def test_scaled_labels_keep_their_values(data, scale):
    """Interpolated labels would invent classes between 0, 1, 2 and 255."""
    for seed in range(6):
        _, label = crop_of(data, seed, 33, seed, scales=(scale,))
        assert set(np.unique(label)) <= {0, 1, 2, VOID}


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_padding_is_mean_pixel_at_bottom_and_right(data, scale):
    height, width = (round(n * scale) for n in data[0][1].shape)
    image, label = crop_of(data, 0, 97, 0, scales=(scale,), flip=False)
    padding = np.ones((97, 97), dtype=bool)
    padding[:height, :width] = False
    assert (image[padding] == MEAN_PIXEL).all()
    assert (label[padding] == VOID).all()
    assert len(np.unique(image[~padding], axis=0)) > 100
    assert normalize(torch.from_numpy(image[None].copy()))[0, :, 96, 96].abs().max() < 0.01


@pytest.mark.parametrize("scale", [0.75, 1.0, 1.5, 2.0])
def test_crop_is_part_of_scaled_image(data, scale):
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


def test_crop_reaches_every_position():
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


@pytest.mark.parametrize("crop_size", [21, 45, 97])
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.75])
def test_flipped_crop_is_mirrored_crop_with_padding(data, crop_size, scale):
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


def test_normalize_equals_imagenet_constants():
    images = torch.tensor([[[[0, 128, 255]]]], dtype=torch.uint8)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(normalize(images), torch.tensor(expected).view(1, 3, 1, 1))
