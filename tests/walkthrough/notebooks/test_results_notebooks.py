"""What notebooks 9 and 10 write out is the library's, and their pages need no training that they do not say."""

import numpy as np
import pytest
import torch
from notebook_helpers import BEYOND, RESULTS, cells, definitions, with_random_norms
from torch import nn
from torch.nn import functional as F

from deeplabv3 import DeepLabV3, ModelConfig
from walkthrough.figures import results as figures
from walkthrough.paper import tables
from walkthrough.paper.comparisons import Claim, beats, no_gain
from walkthrough.report import intervals
from walkthrough.report.verdicts import VERDICTS, Verdict

# --- notebook 9


@pytest.fixture(scope="module")
def results_page() -> dict:
    return definitions(RESULTS)


def counts(images: int, seed: int, classes: int = 4) -> np.ndarray:
    """Confusion counts of a list in which class 2 is rare and class 3 is predicted only."""
    random = np.random.default_rng(seed)
    drawn = random.integers(0, 50, (images, classes, classes))
    drawn[:, 3, :] = 0
    drawn[2:, 2, :] = 0
    return drawn


@pytest.mark.parametrize("images", [2, 30])
def test_bootstrap_draws_are_librarys(results_page, images):
    drawn = counts(images, seed=images)
    assert np.allclose(results_page["bootstrap"](drawn), intervals.bootstrap(drawn).draws[0], rtol=1e-12)


@pytest.mark.parametrize("seeds", [1, 8])
def test_verdict_is_librarys(results_page, seeds):
    """Of claims with one comparison and with three, an order and no gain, over differences of every size."""
    found, cell_pairs = set(), [tables.load(9).cells[n : n + 2] for n in range(3)]
    for kind in (beats, no_gain):
        for difference in np.linspace(-3, 3, 25):
            for many in (1, 3):
                random = np.random.default_rng(round(100 * (difference + 3)))
                comparisons = [kind("", *pair) for pair in cell_pairs[:many]]
                values = difference + random.normal(0, 0.4, (many, seeds))
                noise = random.normal(0, 0.5, (many, 1, 400))
                draws = values[..., None] + noise
                estimates = [intervals.Estimate(*parts, images=200) for parts in zip(values, draws, strict=True)]
                measured = tuple(zip(comparisons, estimates, strict=True))
                expected = Verdict(Claim("", "", "", (9,), tuple(comparisons)), measured).verdict
                assert results_page["verdict"](list(measured)) == expected
                found.add(expected)
    assert found == set(VERDICTS[:3] if seeds > 1 else VERDICTS[3:6])


def test_every_reason_names_a_claim(results_page):
    from walkthrough.paper import claims

    assert results_page["REASONS"].keys() <= {claim.name for claim in claims.load()}


# --- notebook 10


@pytest.fixture(scope="module")
def beyond_page() -> dict:
    return definitions(BEYOND)


@torch.no_grad()
def test_front_has_no_dominated_row(beyond_page):
    random = np.random.default_rng(0)
    costs, values = random.integers(1, 9, 40), random.integers(0, 20, 40) / 2  # with ties of both
    found = beyond_page["front_of"](costs, values)
    assert found == figures.front_of(costs, values).tolist()
    for i in range(len(costs)):
        reached = [j for j in range(len(costs)) if j != i and costs[j] <= costs[i] and values[j] >= values[i]]
        strictly = [j for j in reached if costs[j] < costs[i] or values[j] > values[i]]
        assert (i in found) <= (not strictly) and (not strictly and not reached) <= (i in found)


def test_effective_field_is_that_of_a_convolution(beyond_page):
    network = nn.Conv2d(3, 2, 3, padding=2, dilation=2, bias=False)
    nn.init.ones_(network.weight)
    windows = [np.full((9, 9, 3), value, np.uint8) for value in (10, 200)]
    field = beyond_page["effective_field"](network, windows)
    assert sorted(zip(*np.nonzero(field), strict=True)) == [(y, x) for y in (2, 4, 6) for x in (2, 4, 6)]
    assert beyond_page["side_of"](field) == 5 and beyond_page["side_of"](field, 1 / 9) == 1


def test_window_is_centered_and_continued(beyond_page):
    image = np.random.default_rng(0).integers(0, 256, (40, 31, 3)).astype(np.uint8)
    cut = beyond_page["window"](image, 12, 25)
    assert cut.shape == (513, 513, 3)
    assert np.array_equal(cut[256 - 12 : 256 + 28, 256 - 25 : 256 + 6], image)
    assert np.array_equal(cut[256 - 13, 256 - 25 : 256 + 6], image[1])  # row -1 is row 1


@pytest.mark.parametrize("size", [129, 513])
def test_equal_gradient_has_sides_of_a_square(beyond_page, size):
    shares = beyond_page["shares_within"](np.ones((size, size)))
    assert shares == pytest.approx((2 * np.arange(len(shares)) + 1) ** 2 / size**2)


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [16, 8])
def test_deeplabv3plus_joins_the_librarys_features(beyond_page, output_stride):
    """Beside the library's own forward pass, whose features hooks keep."""
    torch.manual_seed(0)
    encoder = with_random_norms(DeepLabV3(ModelConfig(backbone="resnet50", num_classes=5)))
    plus = with_random_norms(beyond_page["DeepLabV3Plus"](encoder.set_output_stride(output_stride)))
    kept = {}
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: kept.update({name: output.clone()}))
        for name, module in (("low", encoder.backbone.block1[-2]), ("features", encoder.head))
    ]
    images = torch.randn(2, 3, 65, 97)
    encoder.features_to_logits(images)
    for handle in handles:
        handle.remove()
    low, decoder = kept["low"], plus.decoder
    assert low.shape == (2, 256, 17, 25)  # output stride 4
    assert kept["features"].shape == (2, 256, *((side - 1) // output_stride + 1 for side in (65, 97)))
    upsampled = F.interpolate(kept["features"], low.shape[2:], mode="bilinear", align_corners=True)
    joined = torch.cat([upsampled, decoder.reduce(low)], dim=1)
    assert joined.shape[1] == 304
    expected = F.interpolate(decoder.classifier(decoder.refine(joined)), (65, 97), mode="bilinear", align_corners=True)
    assert torch.equal(plus(images), expected) and expected.shape == (2, 5, 65, 97)


# --- both


@pytest.mark.parametrize("name", [RESULTS, BEYOND])
def test_page_trains_no_whole_table(name):
    """With real images a run takes half an hour: these pages read what there is."""
    source = "\n".join(cell.source for cell in cells(name))
    assert "run_table" not in source
    assert source.count("run_missing([") == 1
    assert source.count("run_live([") == (name == BEYOND)
