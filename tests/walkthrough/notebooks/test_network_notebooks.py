"""The networks that notebooks 3 and 4 write out are the library's, to the bit."""

import ast

import numpy as np
import pytest
import torch
from notebook_helpers import ASPP, CASCADE, OUTPUT_STRIDE, cells, definitions, with_random_norms
from torch import nn
from torchvision.models.segmentation import deeplabv3 as torchvision_segmentation

from deeplabv3 import DeepLabV3, ModelConfig
from deeplabv3.data import synthetic
from deeplabv3.model import atrous, heads

# --- notebook 3


@pytest.fixture(scope="module")
def cascade_page() -> dict:
    return definitions(CASCADE)


@pytest.fixture(scope="module")
def cascade() -> DeepLabV3:
    torch.manual_seed(0)
    return with_random_norms(DeepLabV3(ModelConfig(backbone="resnet50", head="cascade", last_block=7)))


def source_of(name: str, definition: str) -> str:
    nodes = [node for cell in cells(name) for node in ast.parse(cell.source).body]
    (found,) = (node for node in nodes if getattr(node, "name", None) == definition)
    return ast.unparse(found)


@pytest.mark.parametrize("definition", ["conv_bn", "Bottleneck", "unit_strides", "walk", "make_block"])
def test_repeated_piece_is_notebook_2s(definition):
    assert source_of(CASCADE, definition) == source_of(OUTPUT_STRIDE, definition)


@torch.no_grad()
@pytest.mark.parametrize(("output_stride", "grid"), [(16, (1, 2, 4)), (8, (1, 2, 1)), (256, (1, 1, 1))])
def test_cascade_equals_library_to_the_bit(cascade_page, cascade, output_stride, grid):
    cascade.backbone.set_rates(atrous.plan_rates("resnet50", output_stride, grid, last_block=7))
    with torch.device("meta"):
        page = cascade_page["Cascade"](output_stride, grid).eval()
    weights = {name.split(".", 1)[1]: value for name, value in cascade.state_dict().items()}
    page.load_state_dict(weights, assign=True)
    images = torch.randn(1, 3, 70, 61)
    assert torch.equal(page(images), cascade(images))


@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 2, 4), (2, 2, 2)])
def test_multi_grid_gives_planned_rates(cascade_page, grid):
    for output_stride in (8, 16, 32, 64, 128, 256):
        plan = atrous.plan_rates("resnet50", output_stride, grid, last_block=7)
        found = list(cascade_page["multi_grid"](cascade_page["UNITS"], output_stride, grid))
        assert found == [(unit.stride, unit.rate) for unit in plan]
        expected = {block: tuple(unit.rate for unit in plan if unit.block == block) for block in (4, 5, 6, 7)}
        assert cascade_page["unit_rates"](output_stride, grid) == expected


def test_kept_weights_equal_counted_ones(cascade_page):
    for size, rate in ((33, 16), (21, 12), (9, 9), (9, 20)):
        counts = atrous.count_valid_weights(size, rate)
        mean = sum(valid * positions for valid, positions in counts.items()) / size**2
        assert cascade_page["valid"](size, rate) == pytest.approx(mean)


# --- notebook 4


@pytest.fixture(scope="module")
def aspp_page() -> dict:
    return definitions(ASPP)


@torch.no_grad()
@pytest.mark.parametrize("rates", [(1, 2, 3), (4, 8, 12), (2, 4, 6, 8)])
def test_heads_equal_library_to_the_bit(aspp_page, rates):
    torch.manual_seed(0)
    features = torch.randn(2, 24, 11, 9)
    aspp = with_random_norms(heads.ASPPHead(24, 5, rates, image_pooling=True, channels=8, dropout=0.1))
    pairs = [
        (aspp, aspp_page["ASPP"](24, 5, rates, 8)),
        (heads.V2Head(24, 5, rates), aspp_page["V2Head"](24, 5, rates)),
    ]
    for library, page in pairs:
        page.eval().load_state_dict(library.state_dict())
        assert torch.equal(page(features), library(features))


@torch.no_grad()
def test_heads_have_papers_sizes(aspp_page):
    with torch.device("meta"):
        features, pages = torch.empty(2, 2048, 33, 33), [aspp_page["ASPP"](), aspp_page["V2Head"]()]
        libraries = [DeepLabV3(ModelConfig()).head, heads.V2Head(2048, 21, (6, 12, 18, 24))]
        assert [tuple(page(features).shape) for page in pages] == [(2, 21, 33, 33)] * 2
    for page, library in zip(pages, libraries, strict=True):
        shapes = [{name: value.shape for name, value in head.state_dict().items()} for head in (page, library)]
        assert shapes[0] == shapes[1]


@torch.no_grad()
def test_aspp_equals_torchvisions(aspp_page):
    torch.manual_seed(0)
    theirs = with_random_norms(torchvision_segmentation.DeepLabHead(24, 5, (2, 4, 6)))
    page = aspp_page["ASPP"](24, 5, (2, 4, 6)).eval()
    page.classifier = nn.Sequential(*list(theirs)[1:])
    page.load_state_dict(dict(zip(page.state_dict(), theirs.state_dict().values(), strict=True)))
    features = torch.randn(1, 24, 13, 13)
    torch.testing.assert_close(page(features), theirs(features))


@pytest.mark.parametrize("sky", [synthetic.SUN, synthetic.MOON])
def test_repainting_changes_the_sky_alone(aspp_page, sky):
    number = next(n for n in range(50) if (synthetic.draw(n)[1] == sky).any())
    image, label = synthetic.draw(number)
    painted, swapped = aspp_page["repainted"](image, label)
    assert ((painted != image).any(axis=2) <= (label == sky)).all()
    other = ({synthetic.SUN, synthetic.MOON} - {sky}).pop()
    assert np.abs(painted[label == sky] - np.array(synthetic.SKY_COLORS[other])).mean() < 12  # noise
    assert (swapped[label == sky] == other).all()
    again, before = aspp_page["repainted"](painted, swapped)
    assert np.array_equal(before, label) and np.abs(again.astype(int) - image).mean() < 1  # clipped at 0 and 255
