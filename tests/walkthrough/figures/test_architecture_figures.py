"""Drawings of networks show the rows of their data."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplabv3 import ModelConfig
from deeplabv3.model.cost import layer_costs
from walkthrough.figures import architecture, charts
from walkthrough.figures import atrous as atrous_figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_box_height_is_feature_resolution():
    figure = architecture.figure3({"a": [("stem", 4, ""), ("block1", 16, "2")]})
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([1.0, 0.5])
    written = {"stem", "4", "block1", "16", "2", "output stride after it", "rate"}
    assert set(words(figure.axes[0])) == written


def words(axis) -> list[str]:
    return [text.get_text() for text in axis.texts if text.get_text()]


@pytest.mark.parametrize(
    ("channels", "shortcut"), [(256, "every s-th position"), (64, "every s-th position, 1x1, batch norm")]
)
def test_bottleneck_shows_channels_and_shortcut(channels, shortcut):
    shown = words(architecture.bottleneck(channels, width=64).axes[0])
    assert f"x\n{channels} channels\nh x w" in shown and f"shortcut: {shortcut}" in shown
    assert [text for text in shown if text.endswith(("\nh x w", "\nh/s x w/s"))][1:] == [
        "64\nh x w",
        "64\nh/s x w/s",
        "256\nh/s x w/s",
        "ReLU\n256 channels\nh/s x w/s",
    ]


def test_fewer_valid_weights_give_paler_unit():
    figure = architecture.cascade({"grid": {"block4": [(2, 9.0), (4, 5.0)], "block5": [(8, 1.0)]}})
    axis = figure.axes[0]
    assert words(axis) == ["grid", "block4", "2", "4", "block5", "8"]
    assert [patch.get_facecolor() for patch in axis.patches] == [
        architecture.SHADES(value) for value in (1.0, 0.5, 0.0)
    ]


def test_head_is_drawn_from_its_layers():
    """Fig. 5: five branches, concatenated; DeepLabv2: four, summed."""
    v3 = ModelConfig(backbone="small_resnet20", num_classes=5, head_channels=16)
    v2 = ModelConfig(backbone="small_resnet20", num_classes=5, head="v2", atrous_rates=(6, 24))
    figure = architecture.figure5({"v3": layer_costs(v3, 513, 513), "v2": layer_costs(v2, 513, 513)})
    assert words(figure.axes[0]) == [
        "block4\n128\n33 x 33",
        "1x1\n16 channels",
        "3x3, rate 6\n16 channels",
        "3x3, rate 12\n16 channels",
        "3x3, rate 18\n16 channels",
        "mean, 1x1\n16 channels",
        "concat 80",
        "1x1\n16",
        "1x1, logits\n5\n33 x 33",
    ]
    assert words(figure.axes[1]) == [
        "block4\n128\n33 x 33",
        "3x3, rate 6\n5 channels",
        "3x3, rate 24\n5 channels",
        "+",
        "logits\n5\n33 x 33",
    ]


@pytest.mark.parametrize(
    ("output_stride", "rate", "valid"), [(16, 6, 9), (16, 12, 9), (16, 18, 4), (16, 24, 1), (8, 18, 4)]
)
def test_weights_on_the_padding_are_gray(output_stride, rate, valid):
    config = ModelConfig(backbone="small_resnet20", head="v2", atrous_rates=(rate,), output_stride=output_stride)
    (axis,) = architecture.figure5({"": layer_costs(config, 513, 513)}).axes
    colors = [line.get_color() for line in axis.lines]
    assert len(colors) == 9
    assert colors.count(charts.ORANGE) == valid


def test_figure_2_arrows_join_two_slabs():
    figure = architecture.figure2()
    assert [axis.get_title()[:3] for axis in figure.axes] == ["(a)", "(b)", "(c)", "(d)"]
    for axis, (slabs, arrows) in zip(figure.axes, architecture.FIGURE_2.values(), strict=True):
        assert len(axis.patches) == len(slabs)
        assert len(axis.texts) == len(arrows)


def test_unseen_inputs_are_rings():
    counts = np.zeros((9, 9))
    counts[::4, ::4] = [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    (axis,) = atrous_figures.lattices({"rates": counts}, step=2).axes
    dots, rings = axis.collections
    assert len(dots.get_offsets()) == 9 and len(rings.get_offsets()) == 25 - 9
    shades = [tuple(color) for color in dots.get_facecolors()]
    assert shades[4] == pytest.approx(plt.get_cmap("Blues")(1.0)) and shades[0] == pytest.approx(
        plt.get_cmap("Blues")(0.35)
    )


def test_feature_maps_of_row_share_scale():
    figure = atrous_figures.feature_maps(
        {"valid": [np.ones((3, 3)), np.full((3, 3), 9)], "error": [np.eye(3)] * 2}, ["a", "b"]
    )
    shown = [axis for axis in figure.axes if axis.get_title() or axis.images]
    assert [axis.images[0].get_clim() for axis in shown] == [(0, 9), (0, 9), (0, 1), (0, 1)]
    assert [axis.get_title() for axis in shown] == ["a", "b", "", ""]


def test_feature_maps_draw_every_row():
    """Also where there are more rows than colors."""
    rows = {str(number): [np.full((2, 2), 1 + number)] for number in range(5)}
    figure = atrous_figures.feature_maps(rows, ["a"])
    drawn = [axis.images[0].get_array() for axis in figure.axes if axis.images and axis.get_xlim() == (-0.5, 1.5)]
    assert [int(values.max()) for values in drawn] == [1, 2, 3, 4, 5]
