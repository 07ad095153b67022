"""Images by tiles: every pixel once, as in the whole image away from tile borders, and in a tile's memory."""

import numpy as np
import pytest
from conftest import CLASSES, write_label
from PIL import Image

from deeplabv3.config import EvaluationConfig
from deeplabv3.data.voc import VOCData
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import evaluate, predict, tile_spans
from deeplabv3.evaluation.metrics import confusion_matrix
from deeplabv3.evaluation.predict import predict_photo
from deeplabv3.model.atrous import backbone_layers, plan_rates, receptive_field

WITHOUT_POOLING = {"head": "cascade", "multi_grid": (1, 1, 1)}


def tiled(tile_size: int, **changes) -> EvaluationConfig:
    return EvaluationConfig(**{"output_stride": 8, "padding": "tight", "tile_size": tile_size} | changes)


def photo(height: int, width: int) -> np.ndarray:
    """Blurred noise, in which a network finds regions of every class."""
    small = np.random.default_rng(0).integers(0, 256, (height // 20 + 2, width // 20 + 2, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def far_from_borders(length: int, config: EvaluationConfig, reach: float) -> np.ndarray:
    """``(length,)`` bool: what is kept of a tile more than ``reach`` pixels away from its borders within the image."""
    far = np.zeros(length, dtype=bool)
    for seen, kept, _ in tile_spans(length, config):
        first = seen.start + reach if seen.start else 0
        last = seen.stop - reach if seen.stop < length else length
        far[kept] = (np.arange(length)[kept] >= first) & (np.arange(length)[kept] < last)
    return far


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("tile_size", [257, 300, 513, 1025])
def test_tiles_keep_every_pixel_once(output_stride, tile_size):
    config = tiled(tile_size, output_stride=output_stride)
    for strides in [*range(0, 200, 7), 1000]:
        length = strides * output_stride + 1
        spans = tile_spans(length, config)
        kept = [index for _, part, _ in spans for index in range(length)[part]]
        assert kept == list(range(length))
        assert len({seen.stop - seen.start for seen, _, _ in spans}) == 1
        for seen, part, inside in spans:
            assert range(length)[seen][inside] == range(length)[part]
            assert seen.start % output_stride == 0 and seen.stop - seen.start <= max(tile_size, 1)
            assert part.start - seen.start >= (tile_size // 9 if seen.start else 0)
            assert seen.stop - part.stop >= (tile_size // 9 if seen.stop < length else 0)
    assert len(spans) > 5, "a long side has many tiles"


@pytest.mark.parametrize(
    ("scales", "flip"), [((1.0,), False), ((0.75, 1.0, 1.25), True)], ids=["one view", "scales and flip"]
)
def test_tiles_equal_whole_image_away_from_borders(make_model, scales, flip):
    model, image = make_model(**WITHOUT_POOLING), photo(897, 833)
    config = tiled(513, scales=scales, flip=flip)
    whole, tiles = (predict(model, image, one) for one in (tiled(0, scales=scales, flip=flip), config))
    field = receptive_field(backbone_layers("small_resnet20", plan_rates("small_resnet20", 8)))
    reach = (field / 2 + 8) / min(scales)  # logits between two features are those of both
    rows, columns = (far_from_borders(length, config, reach) for length in image.shape[:2])
    assert rows.mean() > 0.6 and columns.mean() > 0.6
    assert (whole != tiles)[np.ix_(rows, columns)].mean() < 1e-5, "pixels that are tied but for rounding"
    assert (whole == tiles).mean() > 0.97, "differences near the borders are few"
    assert np.bincount(whole.ravel(), minlength=3).min() > 1000


def test_tiles_have_image_features_of_their_own(make_model):
    model, image = make_model(), photo(897, 833)
    assert model.config.image_pooling
    assert (predict(model, image, tiled(513)) != predict(model, image, tiled(0))).any()


def test_no_more_than_a_tile_enters_the_network(make_model, monkeypatch):
    model, shapes = make_model(**WITHOUT_POOLING), []
    network = model.features_to_logits
    monkeypatch.setattr(model, "features_to_logits", lambda images: shapes.append(images.shape) or network(images))
    prediction = predict_photo(model, photo(600, 700), tiled(300, scales=(0.5, 1.5)), max_size=100)
    assert prediction.shape == (600, 700), "no reduced copy, whatever the largest size"
    assert {shape[2:] for shape in shapes} == {(145, 145), (433, 433)}  # of tiles of 289
    assert len(shapes) > 20


def test_smaller_images_are_no_tiles(make_model):
    model, image = make_model(), photo(120, 257)
    assert (predict(model, image, tiled(257)) == predict(model, image, tiled(0))).all()


def test_evaluation_counts_the_pixels_of_tiles(make_model, voc_root):
    model, image = make_model(), photo(300, 410)
    Image.fromarray(image).save(voc_root / "JPEGImages" / "image_6.png")
    (voc_root / "JPEGImages" / "image_6.jpg").unlink()
    label = np.random.default_rng(1).choice([*CLASSES, 255], image.shape[:2]).astype(np.uint8)
    write_label(voc_root / "SegmentationClass" / "image_6.png", label)
    data = VOCData(voc_root, "val", CLASSES)
    counts = evaluate(model, data, tiled(257), batch_size=2)
    for index in range(len(data)):
        image, label = data[index]
        assert (counts[index] == confusion_matrix(label, predict(model, image, tiled(257)), 3)).all()
        assert counts[index].sum() == (label != 255).sum()


@pytest.mark.parametrize(("tile_size", "output_stride", "least"), [(128, 8, 129), (256, 16, 257), (-1, 16, 257)])
def test_tile_too_small_names_the_least(tile_size, output_stride, least):
    with pytest.raises(UserError, match=f"'tile_size' is {tile_size}; .* at least {least}"):
        tiled(tile_size, output_stride=output_stride)
    assert tiled(least, output_stride=output_stride).tile_size == least
