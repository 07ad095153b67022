"""Whole-image inference: padding, scales, flip, batches, and the model left as it was."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deeplabv3.config import MEAN, MULTI_SCALE, STD, VOID, EvaluationConfig, ModelConfig
from deeplabv3.data.transforms import MEAN_PIXEL, normalize, pad, padded_size
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import (
    confusion_per_image,
    evaluate,
    plan_batches,
    predict,
    predict_batches,
    predict_classes,
    probabilities,
)
from deeplabv3.evaluation.metrics import confusion_matrices
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


class ByColor(nn.Module):
    """Stands in for a trained network: every pixel's class is where its color is strongest, whatever surrounds it."""

    def __init__(self):
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.config = ModelConfig(num_classes=3)
        self.output_stride = 16

    def set_output_stride(self, output_stride: int) -> "ByColor":
        self.output_stride = output_stride
        return self

    def features_to_logits(self, images):
        return images * 100


@pytest.mark.parametrize(
    ("size", "output_stride", "crop_size", "padding", "expected"),
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
def test_padded_sizes(size, output_stride, crop_size, padding, expected):
    config = EvaluationConfig(output_stride=output_stride, crop_size=crop_size, padding=padding)
    assert padded_size(*size, config) == expected


def test_padding_is_mean_pixel_bottom_right():
    image = noise(3, 5)
    padded = pad(image, (4, 7))
    assert np.array_equal(padded[:3, :5], image)
    assert (padded[3] == MEAN_PIXEL).all()
    assert (padded[:, 5:] == MEAN_PIXEL).all()
    given = np.zeros((4, 7, 3), dtype=np.uint8)
    assert pad(image, (4, 7), given) is given
    assert np.array_equal(given, padded)


@pytest.mark.parametrize("padding", ["crop", "tight"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_predictions_align_with_image_pixels(padding, batch_size):
    """Sizes are mixed, smaller and larger than the crop: every pixel is found at its own place, in order."""
    images = [noise(h, w, seed=n) for n, (h, w) in enumerate([(40, 31), (33, 33), (47, 50), (40, 32), (40, 31)])]
    config = EvaluationConfig(crop_size=33, padding=padding)
    predictions = list(predict_batches(ByColor(), iter(images), config, batch_size))
    assert len(predictions) == len(images)
    for image, prediction in zip(images, predictions, strict=True):
        assert prediction.shape == image.shape[:2]
        assert prediction.dtype == np.uint8
        expected = normalize(torch.from_numpy(image[None].copy()))[0].argmax(0)
        assert np.array_equal(prediction, expected)


INPUT = {"mean": (0.5, 0.25, 0.75), "std": (0.5, 0.4, 0.25)}


def test_networks_own_normalization_and_padding_count(make_model, data):
    """Prediction and evaluation normalize and pad as the network's configuration says."""
    models = [make_model(**changes).set_batch_norm_momentum(1.0).train() for changes in (INPUT, {})]
    config = EvaluationConfig(crop_size=65)
    image, label = data[0]
    images = torch.from_numpy(np.stack([pad(data[index][0], (65, 65)) for index in range(6)]))
    with torch.no_grad():  # batch norm that suits the images, so that several classes are found
        for model in models:
            model(normalize(images, **INPUT))
    model, other = (model.eval() for model in models)
    padded = np.full((65, 65, 3), (128, 64, 191), dtype=np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    values = (padded / 255 - INPUT["mean"]) / INPUT["std"]
    with torch.no_grad():
        scores = model(torch.tensor(values.transpose(2, 0, 1)[None], dtype=torch.float32))[0]
    expected = scores.argmax(0)[: image.shape[0], : image.shape[1]].numpy()
    assert len(np.unique(expected)) > 1
    assert (predict(model, image, config) != expected).mean() < 1e-3
    (counts,) = (counts for index, counts in confusion_per_image(model, data, config, indices=[0]))
    right = ((expected == label) & (label != VOID)).sum()
    assert np.trace(counts) == pytest.approx(right, abs=3)
    assert (predict(other, image, config) != expected).mean() > 0.01


def test_evaluation_counts_each_labeled_pixel_once(data):
    """The naive image-by-image count, with the labels at their own size."""
    reported = []
    confusions = evaluate(ByColor(), data, EvaluationConfig(crop_size=65), 4, reported.append)
    assert reported == [1, 2, 3, 4, 5, 6]
    assert confusions.shape == (6, 3, 3)
    for index in range(6):
        image, label = data[index]
        prediction = normalize(torch.from_numpy(image[None].copy()))[0].argmax(0).numpy()
        for truth in range(3):
            for found in range(3):
                assert confusions[index, truth, found] == ((label == truth) & (prediction == found)).sum()
        assert confusions[index].sum() == (label != VOID).sum()


def test_predictions_do_not_depend_on_batch_size(make_model, data):
    model = make_model().set_batch_norm_momentum(1.0).train()
    config = EvaluationConfig(crop_size=65, scales=(0.75, 1.0), flip=True)
    images = [data[index][0] for index in range(6)]
    with torch.no_grad():  # batch norm that suits the images, so that several classes are found
        model(normalize(torch.from_numpy(np.stack([pad(image, (65, 65)) for image in images]))))
    alone = list(predict_batches(model, iter(images), config, 1))
    assert len({int(value) for prediction in alone for value in np.unique(prediction)}) > 1
    for batch in (2, 4, 6):
        together = list(predict_batches(model, iter(images), config, batch))
        # another order of summation may decide a tie otherwise: at most one pixel in a thousand
        assert all((a != b).mean() < 1e-3 for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("side", "output_stride", "expected"),
    [
        (513, 16, [257, 385, 513, 641, 769, 897]),  # the paper's crop: exact at every one of its scales
        (377, 8, [193, 281, 377, 473, 561, 657]),  # 375 pixels, padded tightly: to the nearest size that fits
        (50, 16, [33, 33, 50, 65, 81, 81]),  # an image at its own size is not resized
    ],
)
def test_multi_scale_sizes_keep_corners_aligned(make_model, side, output_stride, expected):
    """k * s + 1 pixels: then the first and the last feature stand on the first and the last pixel of every view."""
    model, sizes = make_model().eval().set_output_stride(output_stride), []

    def spy(images):
        sizes.append(tuple(images.shape[2:]))
        return torch.zeros(1, 3, 2, 2)

    model.features_to_logits = spy
    config = EvaluationConfig(output_stride, MULTI_SCALE, flip=True)
    probabilities(model, torch.from_numpy(noise(side, 17)[None]), config)
    assert [height for height, _ in sizes[::2]] == expected
    assert sizes[::2] == sizes[1::2]


def test_probabilities_are_averaged_over_scales_and_flip(make_model):
    """Written out: the mean of the softmaxes, not the softmax of a mean."""
    model = make_model().eval()
    images = torch.from_numpy(noise(33, 65)[None])
    normalized = normalize(images)
    views = []
    with torch.no_grad():
        for size in ((17, 33), (33, 65)):
            scaled = nn.functional.interpolate(normalized, size=size, mode="bilinear", align_corners=True)
            for flip in (False, True):
                logits = model.features_to_logits(scaled.flip(3) if flip else scaled)
                logits = nn.functional.interpolate(logits, size=(33, 65), mode="bilinear", align_corners=True)
                views.append((logits.flip(3) if flip else logits).softmax(1))
    found = probabilities(model, images, EvaluationConfig(scales=(0.5, 1.0), flip=True))
    torch.testing.assert_close(found, sum(views) / 4, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 33, 65))


def slow_reference(model: DeepLabV3, image: np.ndarray, config: EvaluationConfig) -> np.ndarray:
    """Tables 4 and 6 once more, image by image and view by view: probabilities ``(K, H, W)`` of the image."""
    height, width = image.shape[:2]
    stride, crop_size = config.output_stride, config.crop_size if config.padding == "crop" else 0
    tall, wide = (max(crop_size, stride * int(np.ceil((side - 1) / stride)) + 1) for side in (height, width))
    normalized = torch.empty(3, tall, wide)
    for channel in range(3):
        normalized[channel] = (MEAN_PIXEL[channel] / 255 - MEAN[channel]) / STD[channel]
        values = torch.from_numpy(image[:, :, channel].astype(np.float32))
        normalized[channel, :height, :width] = (values / 255 - MEAN[channel]) / STD[channel]
    model = model.eval().set_output_stride(stride)
    views = []
    for scale in config.scales:
        for mirror in [False, True] if config.flip else [False]:
            size = [side if scale == 1 else stride * round((side - 1) / stride * scale) + 1 for side in (tall, wide)]
            view = F.interpolate(normalized[None], size=size, mode="bilinear", align_corners=True)
            with torch.no_grad():
                features = model.features_to_logits(torch.flip(view, [3]) if mirror else view)
            logits = F.interpolate(features, size=(tall, wide), mode="bilinear", align_corners=True)
            views.append((torch.flip(logits, [3]) if mirror else logits)[0])
    if config.fusion == "max":
        shares = torch.stack(views).amax(0).softmax(0)
    else:
        shares = torch.stack([view.softmax(0) for view in views]).mean(0)
    return shares[:, :height, :width].numpy()


def mixed_sizes() -> list[np.ndarray]:
    """No two neighbors of one padded size, the first and the last of a size of their own."""
    sizes = [(50, 17), (33, 49), (40, 31), (31, 47), (40, 32), (33, 49), (40, 31), (1, 1), (33, 48), (70, 20)]
    return [noise(height, width, seed=number) for number, (height, width) in enumerate(sizes)]


STRATEGIES = {
    "output stride 16": {},
    "output stride 8": {"output_stride": 8},
    "8 + MS": {"output_stride": 8, "scales": MULTI_SCALE},
    "8 + MS + flip": {"output_stride": 8, "scales": MULTI_SCALE, "flip": True},
    "16 + flip": {"flip": True},
    "DeepLabv2's": {"output_stride": 8, "scales": (0.5, 0.75, 1.0), "fusion": "max"},
}


@pytest.mark.parametrize("padding", ["crop", "tight"])
@pytest.mark.parametrize("changes", STRATEGIES.values(), ids=STRATEGIES)
def test_strategies_match_slow_reference(make_model, changes, padding):
    """Batched across images of one padded size, with batch norm folded, against loops over everything."""
    config = EvaluationConfig(**changes, crop_size=49, padding=padding)
    images = mixed_sizes()
    model = make_model(num_classes=5)
    predictions = list(predict_batches(optimize_for_inference(model), images, config, batch_size=3))
    assert len(predictions) == len(images)
    seen = set()
    for image, prediction in zip(images, predictions, strict=True):
        shares = slow_reference(model, image, config)
        seen |= set(np.unique(shares.argmax(0)).tolist())
        # rounding decides between classes that are tied, and nothing else
        highest = np.sort(shares, axis=0)
        clear = highest[-1] - highest[-2] > 1e-3
        assert clear.mean() > 0.8
        assert np.array_equal(prediction[clear], shares.argmax(0)[clear])
    assert len(seen) > 1


def test_single_view_needs_no_softmax(make_model):
    model, images = make_model().eval(), torch.from_numpy(np.stack([noise(33, 49), noise(33, 49, seed=1)]))
    expected = probabilities(model, images, EvaluationConfig()).argmax(1)
    found = predict_classes(model, images, EvaluationConfig())
    assert found.dtype == torch.uint8
    assert (found != expected).float().mean() < 1e-3


def test_batches_are_full_over_whole_list():
    a, b, c = (33, 33), (17, 33), (30, 20)  # c is padded to a's size
    sizes = dict(enumerate([a, b, c, b, a, b, a, a] + [b] * 40 + [a]))
    plan = plan_batches(sizes, EvaluationConfig(padding="tight"), 3)
    assert [indices for size, indices in plan if size == (33, 33)] == [[0, 2, 4], [6, 7, 48]]
    assert [len(indices) for size, indices in plan if size == (17, 33)] == [3] * 14 + [1]
    assert sorted(index for _, indices in plan for index in indices) == list(range(49))
    assert plan_batches({7: a, 2: b}, EvaluationConfig(), 3) == [((513, 513), [7, 2])]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_predictions_keep_order_with_bounded_memory(batch_size):
    """An image alone comes back at once; batches take as many images as their sizes may need, and no more."""
    images, taken, held = mixed_sizes() * 20, [], batch_size**2
    stream = predict_batches(
        ByColor(), (taken.append(p) or p for p in images), EvaluationConfig(padding="tight"), batch_size
    )
    for number, prediction in enumerate(stream):
        assert prediction.shape == images[number].shape[:2]
        assert len(taken) == min(len(images), held * (number // held + 1))
    assert number + 1 == len(images)


def test_nothing_in_a_batch_depends_on_values(make_model, monkeypatch):
    """Else the host would wait for a GPU. Tensors on the device "meta" have no values that could be waited for."""
    monkeypatch.setattr("deeplabv3.evaluation.inference.autocast", lambda device, precision: nullcontext())
    model, images = make_model().eval().to("meta"), torch.empty(2, 33, 49, 3, dtype=torch.uint8, device="meta")
    for config in (EvaluationConfig(), EvaluationConfig(scales=(0.5, 1.0), flip=True)):
        classes = predict_classes(model, images, config)
        counts = confusion_matrices(torch.empty_like(classes), classes, 3)
        assert (counts.device.type, counts.shape, counts.dtype) == ("meta", (2, 3, 3), torch.int64)


@pytest.mark.parametrize(("padding", "tuned"), [("crop", [True, False, True]), ("tight", [False] * 3)])
def test_algorithms_are_tried_for_crop_alone(make_model, padding, tuned):
    """cuDNN's trials take seconds a size: worth it for the one that all images have, and for no larger image."""
    model, found = make_model(), []

    def spy(images):
        found.append(torch.backends.cudnn.benchmark)
        return torch.zeros(1, 3, 2, 2)

    model.features_to_logits = spy
    before = torch.backends.cudnn.benchmark
    list(
        predict_batches(
            model, [noise(33, 30), noise(70, 30), noise(40, 33)], EvaluationConfig(crop_size=49, padding=padding)
        )
    )
    assert found == tuned
    assert torch.backends.cudnn.benchmark == before


def test_bfloat16_changes_only_nearly_tied_pixels(make_model):
    model, images = make_model().eval(), torch.from_numpy(np.stack([noise(65, 65)]))
    exact = probabilities(model, images, EvaluationConfig())
    rough = probabilities(model, images, EvaluationConfig(precision="bfloat16"))
    assert rough.dtype == torch.float32
    assert 1e-5 < (rough - exact).abs().max() < 0.2
    highest = exact.sort(dim=1).values
    clear = highest[:, -1] - highest[:, -2] > 0.2
    assert clear.any()
    assert torch.equal(rough.argmax(1)[clear], exact.argmax(1)[clear])


def test_flip_makes_prediction_mirror_symmetric(make_model):
    model = make_model().eval()
    image = noise(33, 49)
    images, mirrored = (torch.from_numpy(p[None].copy()) for p in (image, image[:, ::-1]))
    for flip, symmetric in ((True, True), (False, False)):
        config = EvaluationConfig(flip=flip, scales=(1.0, 1.25))
        difference = probabilities(model, mirrored, config).flip(3) - probabilities(model, images, config)
        assert (difference.abs().max() < 1e-4) == symmetric


def test_config_output_stride_is_used(make_model):
    model = make_model().eval()
    image = noise(33, 33)
    at_8 = next(predict_batches(model, iter([image]), EvaluationConfig(output_stride=8, crop_size=33)))
    with torch.no_grad():
        expected = model.set_output_stride(8)(normalize(torch.from_numpy(image[None].copy()))).argmax(1)[0]
        other = model.set_output_stride(16)(normalize(torch.from_numpy(image[None].copy()))).argmax(1)[0]
    assert np.array_equal(at_8, expected)
    assert not np.array_equal(at_8, other)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("end", ["done", "abandoned", "failed"])
def test_model_state_is_restored(make_model, training, end):
    model: DeepLabV3 = make_model().train(training)
    norm = model.backbone.bn1.running_mean.clone()
    images = [noise(33, 33), noise(33, 33)]
    stream = predict_batches(model, iter(images), EvaluationConfig(output_stride=8, crop_size=33))
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


def test_impossible_output_stride_leaves_model_unchanged(make_model):
    model = make_model().train()
    with pytest.raises(UserError, match="output_stride 64"):
        list(predict_batches(model, iter([noise(33, 33)]), EvaluationConfig(output_stride=64)))
    assert (model.output_stride, model.training) == (16, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"padding": "mirror"},
        {"fusion": "min"},
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": (-1.0,)},
        {"crop_size": 0},
    ],
)
def test_invalid_evaluation_config_is_user_error(changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        EvaluationConfig(**changes)
