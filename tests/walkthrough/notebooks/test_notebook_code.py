"""Functions and classes that the notebooks write out are the library's, and their exercises can be solved."""

import ast
import re
from itertools import pairwise
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from notebook_helpers import (
    ASPP,
    ATROUS,
    BEYOND,
    CASCADE,
    DATA,
    INFERENCE,
    OUTPUT_STRIDE,
    OWN_DATA,
    PREDICTIONS,
    RESULTS,
    START,
    TRAINING,
    cells,
    definitions,
    with_random_norms,
)
from torch.nn import functional as F

from deeplabv3.model import atrous
from deeplabv3.model.resnet import ResNet
from walkthrough import paths

REWRITTEN = (
    START,
    ATROUS,
    OUTPUT_STRIDE,
    CASCADE,
    ASPP,
    DATA,
    TRAINING,
    INFERENCE,
    PREDICTIONS,
    RESULTS,
    BEYOND,
    OWN_DATA,
)
"""Notebooks in the form for study: figures with alternative text, exercises with a check and a solution."""

MISTAKES = {
    START: (
        "def dataset_miou(pairs, classes): return np.mean([mean_iou(confusion(*pair, classes)) for pair in pairs])",
        "config = ModelConfig(backbone='resnet50', num_classes=4)",
    ),
    ATROUS: (
        "rate = 8",
        "def same_padding(kernel, rate): return rate",
        "def insert_zeros(w, rate): return np.repeat(w, rate)",
        "rates = (3, 3, 3)",
    ),
    OUTPUT_STRIDE: (
        "rates = (1, 2, 4, 8, 16)",
        "def aligned(n, output_stride): return n // output_stride * output_stride + 1",
        "def set_output_stride(network, output_stride): return network",
        "def first_unit_strides(units): return unit_strides(units)",
    ),
    CASCADE: (
        "def block_rate(block, output_stride): return 2 ** (block + 1) // output_stride",
        "grid = (1, 2, 4)",
        "def copy_block4(network): return network",
        "crop = 16 * 42 + 1",
    ),
    ASPP: (
        "def parallel_rates(in_channels, *others): return ASPP(in_channels, *others)",
        "def project_by_branch(outputs, weight): return F.conv2d(sum(outputs), weight[:, :4])",
        "def nine_valid(size, rate): return ((size - 2 * rate) / size) ** 2",
        "def features_read(n, rates): return 1 + 8 * len(rates)",
    ),
    DATA: (
        "def class_numbers(rgb): return rgb[..., 0]",
        "def trainaug(voc_train, voc_val, sbd): return voc_train | sbd",
        "def hard_share(p, copies): return copies * p",
    ),
    TRAINING: (
        "def decay_for(steps, share): return 1 - share / steps",
        "def shrunk(labels, stride): return F.interpolate(labels[None].float(), (9, 9))[0].long()",
        "def whole_loss(losses, counted): return np.mean(losses)",
    ),
    INFERENCE: (
        "def times_one_view(scales, flip): return len(scales) * (1 + flip)",
        "def vote(probabilities): return probabilities.mean(0).argmax(0)",
        "def per_point(giga, miou): return np.array(giga[1:]) / np.diff(miou)",
    ),
    PREDICTIONS: (
        "def recall_and_area(n): return n.sum(0) / n.sum(1), n.sum(0) / n.sum(1)",
        "def most_confused(n): return np.unravel_index(np.where(np.eye(len(n)), 0, n).argmax(), n.shape)",
    ),
    OWN_DATA: (
        "crop, rates = 641, (6, 12, 18)",
        "def split(names, share): return names[1::2], names[::2]",
        "rows = {0: 0, 1: 1}",
    ),
    RESULTS: (
        "def images_needed(n, times): return n * 2**times",
        "def false_alarm(m): return 0.025 * m",
        "def half_width(values): return 1.96 * np.std(values, ddof=1) / 3**0.5",
    ),
    BEYOND: (
        "def refine_work(side): return side**2 * 9 * 256 * (48 + 256)",
        "def fold(weight, norm): return weight, norm.bias",
        "def uniform_side(size, share): return round(size * share)",
    ),
}
"""A wrong answer to each exercise."""


@pytest.fixture(scope="module")
def atrous_page() -> dict:
    return definitions(ATROUS)


@pytest.fixture(scope="module")
def stride_page() -> dict:
    return definitions(OUTPUT_STRIDE)


# --- notebook 1


@pytest.mark.parametrize(
    ("kernel", "rate", "stride", "padding"), [(1, 3, 2, 0), (3, 1, 1, 1), (3, 4, 2, 5), (4, 3, 3, 1)]
)
def test_loops_equal_torch_convolutions(atrous_page, kernel, rate, stride, padding):
    random = np.random.default_rng(kernel)
    settings = {"stride": stride, "padding": padding, "dilation": rate}
    x, w = random.integers(-9, 10, 17).astype(float), random.integers(-9, 10, kernel).astype(float)
    expected = F.conv1d(torch.tensor(x)[None, None], torch.tensor(w)[None, None], **settings)[0, 0]
    assert np.array_equal(atrous_page["atrous_1d"](x, w, rate, stride, padding), expected)
    assert atrous_page["output_size"](17, kernel, rate, stride, padding) == len(expected)
    x, w = (random.integers(-9, 10, shape).astype(float) for shape in [(3, 17, 14), (2, 3, kernel, kernel)])
    expected = F.conv2d(torch.tensor(x)[None], torch.tensor(w), **settings)[0]
    assert np.array_equal(atrous_page["atrous_2d"](x, w, rate, stride, padding), expected)


@pytest.mark.parametrize("backbone", atrous.BACKBONES)
def test_receptive_fields_equal_library(atrous_page, backbone):
    for output_stride in (8, 16, 32):
        layers = atrous.backbone_layers(backbone, atrous.plan_rates(backbone, output_stride, (1, 2, 4)))
        assert atrous_page["receptive_field"](layers) == atrous.receptive_field(layers)
    assert atrous_page["measured_field"]([(3, 2, 1), (3, 1, 4)]) == atrous.receptive_field([(3, 2, 1), (3, 1, 4)])


@pytest.mark.parametrize("size", [8, 21, 33])
def test_valid_weights_equal_library(atrous_page, size):
    for rate in range(1, 40):
        assert atrous_page["effective_kernel"](3, rate) == atrous.effective_kernel(3, rate)
        assert atrous_page["count_valid_weights"](size, rate) == atrous.count_valid_weights(size, rate)
        assert atrous_page["valid_weights_formula"](size, rate) == atrous.valid_weights_formula(size, rate)


# --- notebook 2


@pytest.fixture(scope="module")
def library() -> ResNet:
    """ResNet-50 in which no unit is just its shortcut, and no batch norm the identity."""
    torch.manual_seed(0)
    return with_random_norms(ResNet("resnet50", last_block=4))


@torch.no_grad()
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_backbone_equals_library_to_the_bit(stride_page, library, output_stride):
    page = stride_page["Backbone"](output_stride=output_stride).eval()
    page.load_state_dict(library.state_dict())
    library.set_rates(atrous.plan_rates("resnet50", output_stride))
    images = torch.randn(1, 3, 70, 61)
    assert torch.equal(page(images), library(images))


@torch.no_grad()
@pytest.mark.parametrize(
    ("block", "number", "stride", "rate"), [(1, 1, 1, 1), (2, 4, 2, 1), (3, 2, 1, 2), (3, 1, 2, 3)]
)
def test_unit_equals_library_to_the_bit(stride_page, library, block, number, stride, rate):
    unit = library.unit(block, number)
    unit.set_geometry(stride, rate)
    page = stride_page["Bottleneck"](unit.conv1.in_channels, unit.conv1.out_channels, stride, rate).eval()
    page.load_state_dict(unit.state_dict())
    x = torch.randn(2, unit.conv1.in_channels, 9, 8)
    assert torch.equal(page(x), unit(x))


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_walk_gives_planned_strides_and_rates(stride_page, backbone):
    strides = stride_page["unit_strides"](atrous.BACKBONES[backbone].units)
    for output_stride in (8, 16, 32):
        plan = [(unit.stride, unit.rate) for unit in atrous.plan_rates(backbone, output_stride)]
        assert list(stride_page["walk"](strides, output_stride)) == plan


# --- every rewritten notebook


@pytest.mark.parametrize("name", REWRITTEN)
def test_every_figure_has_alternative_text(name):
    figures = [cell for cell in cells(name) if any("image/png" in out.get("data", {}) for out in cell.outputs)]
    assert len(figures) >= 4
    for cell in figures:
        assert len(cell.metadata.get("alt", "").split()) >= 15, cell.source


@pytest.mark.parametrize(("name", "least"), [(OUTPUT_STRIDE, 7), (CASCADE, 11), (ASPP, 7), (BEYOND, 8)])
def test_every_statement_of_forward_has_shape(name, least):
    found = 0
    for cell in cells(name):
        lines = cell.source.splitlines()
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef) and node.name == "forward":
                calls = [part for part in ast.walk(node) if isinstance(getattr(part, "value", None), ast.Call)]
                shaped = [part for part in calls if isinstance(part, ast.Assign | ast.Return)]
                assert all("# (N, " in lines[part.lineno - 1] for part in [node, *shaped]), cell.source
                found += len(shaped)
    assert found >= least


def exercises(name: str) -> list[tuple[str, str]]:
    """The check and the solution of each exercise: the solution is in the Markdown cell behind it."""
    found, notebook = [], nbformat.read(paths.home() / "notebooks" / f"{name}.ipynb", as_version=4).cells
    for cell, following in pairwise(notebook):
        if cell.cell_type == "code" and "# TODO" in cell.source:
            solution = re.search(r"<details>.*```python\n(.*)```.*</details>", following.source, re.DOTALL)
            assert solution, cell.source
            found.append((cell.source.split("# check\n")[1], solution[1]))
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", REWRITTEN)
def test_solutions_pass_and_mistakes_fail(name, library, capsys):
    found = definitions(name) | {"model": SimpleNamespace(backbone=library), "images": torch.randn(1, 3, 65, 65)}
    found["random"] = np.random.default_rng(0)
    library.set_rates(atrous.plan_rates("resnet50", 8))
    found["features"] = {8: library(found["images"])}
    for number, ((check, solution), mistake) in enumerate(zip(exercises(name), MISTAKES[name], strict=True), start=1):
        exec(mistake, found)
        with pytest.raises((AssertionError, ValueError, RuntimeError)):  # the last: weights that do not fit
            exec(check, found)
        exec(solution, found)
        exec(check, found)
        assert capsys.readouterr().out == f"exercise {number}: solved\n"


@pytest.mark.parametrize("name", REWRITTEN)
def test_notebook_has_frame_for_study(name):
    texts = [cell.source for cell in cells(name, "markdown")]
    frame = texts[1] if name == START else texts[0]  # its first screen is a photograph
    for part in ("**Goals.**", "**Prerequisites:**", "**Time:**", "**In the paper:**", "*Three voices:*"):
        assert part in frame
    whole = "\n".join(texts)
    assert whole.count("**Predict first.**") >= 4 and "## Summary" in whole and "## Exercises" in whole
    links = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", texts[0])[:2]
    assert len(links) == (1 if name == START else 2) and all(
        (paths.home() / "notebooks" / link).is_file() for link in links
    )
    assert all(f"({link})" in texts[-1] for link in links)
