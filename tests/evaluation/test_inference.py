"""Whole-image inference: padding, scales, flip, batches, and the model left as it was."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from deeplabv3.data.augment import MEAN_PIXEL, normalise
from deeplabv3.data.voc import VOID
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import (
    MULTI_SCALE,
    EvaluationSettings,
    evaluate,
    pad,
    padded_size,
    predict_batches,
    probabilities,
)
from deeplabv3.model.deeplab import DeepLabV3


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


class ByColour(nn.Module):
    """Stands in for a trained network: every pixel's class is where its colour is strongest, whatever surrounds it."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(num_classes=3, align_corners=True)
        self.output_stride = 16

    def set_output_stride(self, output_stride: int) -> "ByColour":
        self.output_stride = output_stride
        return self

    def features_to_logits(self, images):
        return images * 100


@pytest.mark.parametrize(
    ("size", "output_stride", "crop", "padding", "expected"),
    [
        ((375, 500), 16, 513, "crop", (513, 513)),
        ((375, 500), 8, 513, "crop", (513, 513)),
        ((513, 513), 16, 513, "crop", (513, 513)),
        ((514, 500), 16, 513, "crop", (529, 513)),
        ((375, 500), 16, 513, "tight", (385, 513)),
        ((375, 500), 8, 513, "tight", (377, 505)),
        ((33, 1), 16, 513, "tight", (33, 1)),
        ((34, 32), 16, 513, "tight", (49, 33)),
    ],
)
def test_padded_sizes(size, output_stride, crop, padding, expected):
    settings = EvaluationSettings(output_stride=output_stride, crop=crop, padding=padding)
    assert padded_size(*size, settings) == expected


def test_padding_is_the_mean_pixel_at_the_bottom_and_right():
    picture = noise(3, 5)
    padded = pad(picture, (4, 7))
    assert np.array_equal(padded[:3, :5], picture)
    assert (padded[3] == MEAN_PIXEL).all()
    assert (padded[:, 5:] == MEAN_PIXEL).all()


@pytest.mark.parametrize("padding", ["crop", "tight"])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_predictions_lie_where_the_pictures_are(padding, batch):
    """Sizes are mixed, smaller and larger than the crop: every pixel is found at its own place, in order."""
    pictures = [noise(h, w, seed=n) for n, (h, w) in enumerate([(40, 31), (33, 33), (47, 50), (40, 32), (40, 31)])]
    settings = EvaluationSettings(crop=33, padding=padding)
    predictions = list(predict_batches(ByColour(), iter(pictures), settings, batch))
    assert len(predictions) == len(pictures)
    for picture, prediction in zip(pictures, predictions, strict=True):
        assert prediction.shape == picture.shape[:2]
        assert prediction.dtype == np.uint8
        expected = normalise(torch.from_numpy(picture[None].copy()))[0].argmax(0)
        assert np.array_equal(prediction, expected)


def test_evaluation_counts_every_pixel_that_is_not_void_once(data):
    """The naive picture-by-picture count, with the labels at their own size."""
    reported = []
    confusions = evaluate(ByColour(), data, EvaluationSettings(crop=65), 4, reported.append)
    assert reported == [1, 2, 3, 4, 5, 6]
    assert confusions.shape == (6, 3, 3)
    for index in range(6):
        picture, label = data[index]
        prediction = normalise(torch.from_numpy(picture[None].copy()))[0].argmax(0).numpy()
        for truth in range(3):
            for found in range(3):
                assert confusions[index, truth, found] == ((label == truth) & (prediction == found)).sum()
        assert confusions[index].sum() == (label != VOID).sum()


def test_the_result_does_not_depend_on_the_batch(make_model, data):
    model = make_model().set_batch_norm_momentum(1.0).train()
    settings = EvaluationSettings(crop=65, scales=(0.75, 1.0), flip=True)
    pictures = [data[index][0] for index in range(6)]
    with torch.no_grad():  # batch norm that suits the pictures, so that several classes are found
        model(normalise(torch.from_numpy(np.stack([pad(picture, (65, 65)) for picture in pictures]))))
    alone = list(predict_batches(model, iter(pictures), settings, 1))
    assert len({int(value) for prediction in alone for value in np.unique(prediction)}) > 1
    for batch in (2, 4, 6):
        together = list(predict_batches(model, iter(pictures), settings, batch))
        # another order of summation may decide a tie otherwise: at most one pixel in a thousand
        assert all((a != b).mean() < 1e-3 for a, b in zip(alone, together, strict=True))


def test_multi_scale_sizes_keep_their_corners(make_model):
    """k * s + 1 pixels: 65 become 33, 49, 65, 81, 97 and 113, and the features' corners stay the picture's."""
    model, sizes = make_model().eval(), []
    honest = model.features_to_logits

    def spy(images):
        sizes.append(tuple(images.shape[2:]))
        return honest(images)

    model.features_to_logits = spy
    probabilities(model, torch.from_numpy(noise(65, 129)[None]), EvaluationSettings(scales=MULTI_SCALE, flip=True))
    expected = [(round(64 * s) + 1, round(128 * s) + 1) for s in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    assert [height for height, _ in expected] == [33, 49, 65, 81, 97, 113]
    assert sizes == [size for size in expected for _ in range(2)]


def test_probabilities_are_averaged_over_scales_and_flip(make_model):
    """Written out: the mean of the softmaxes, not the softmax of a mean."""
    model = make_model().eval()
    pictures = torch.from_numpy(noise(33, 49)[None])
    images = normalise(pictures)
    views = []
    with torch.no_grad():
        for size in ((17, 25), (33, 49)):
            scaled = nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=True)
            for flip in (False, True):
                logits = model.features_to_logits(scaled.flip(3) if flip else scaled)
                logits = nn.functional.interpolate(logits, size=(33, 49), mode="bilinear", align_corners=True)
                views.append((logits.flip(3) if flip else logits).softmax(1))
    found = probabilities(model, pictures, EvaluationSettings(scales=(0.5, 1.0), flip=True))
    torch.testing.assert_close(found, sum(views) / 4, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 33, 49))


def test_with_flip_a_mirrored_picture_gives_the_mirrored_result(make_model):
    model = make_model().eval()
    picture = noise(33, 49)
    pictures, mirrored = (torch.from_numpy(p[None].copy()) for p in (picture, picture[:, ::-1]))
    for flip, symmetric in ((True, True), (False, False)):
        settings = EvaluationSettings(flip=flip, scales=(1.0, 1.25))
        difference = probabilities(model, mirrored, settings).flip(3) - probabilities(model, pictures, settings)
        assert (difference.abs().max() < 1e-4) == symmetric


def test_the_output_stride_of_the_settings_is_used(make_model):
    model = make_model().eval()
    picture = noise(33, 33)
    at_8 = next(predict_batches(model, iter([picture]), EvaluationSettings(output_stride=8, crop=33)))
    with torch.no_grad():
        expected = model.set_output_stride(8)(normalise(torch.from_numpy(picture[None].copy()))).argmax(1)[0]
        other = model.set_output_stride(16)(normalise(torch.from_numpy(picture[None].copy()))).argmax(1)[0]
    assert np.array_equal(at_8, expected)
    assert not np.array_equal(at_8, other)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("end", ["done", "abandoned", "failed"])
def test_the_model_is_left_as_it_was(make_model, training, end):
    model: DeepLabV3 = make_model().train(training)
    norm = model.backbone.bn1.running_mean.clone()
    pictures = [noise(33, 33), noise(33, 33)]
    stream = predict_batches(model, iter(pictures), EvaluationSettings(output_stride=8, crop=33))
    next(stream)
    assert (model.output_stride, model.training) == (8, False)
    if end == "done":
        list(stream)
    elif end == "abandoned":
        stream.close()
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            stream.throw(RuntimeError("on purpose"))
    assert (model.output_stride, model.training) == (16, training)
    assert torch.equal(model.backbone.bn1.running_mean, norm)


def test_an_impossible_output_stride_leaves_the_model_as_it_was(make_model):
    model = make_model().train()
    with pytest.raises(UserError, match="output_stride 64"):
        list(predict_batches(model, iter([noise(33, 33)]), EvaluationSettings(output_stride=64)))
    assert (model.output_stride, model.training) == (16, True)


@pytest.mark.parametrize(
    "changes", [{"padding": "mirror"}, {"scales": ()}, {"scales": (0.0,)}, {"scales": (-1.0,)}, {"crop": 0}]
)
def test_impossible_settings_are_users_errors(changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        EvaluationSettings(**changes)
