"""The figure of the whole network, and photographs with their classes."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from deeplabv3 import DeepLabV3, ModelConfig
from deeplabv3.model.cost import layer_costs
from walkthrough.figures import photographs as module
from walkthrough.figures.charts import ORANGE
from walkthrough.figures.network import network
from walkthrough.figures.segmentation import SYNTHETIC_COLORS


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def shapes_of_modules(config: ModelConfig, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Channels, height and width after max pooling, each block, and each module of the head behind its branches."""
    found = []
    with torch.device("meta"), torch.no_grad():
        model = DeepLabV3(config).eval()
        for stage in (*model.backbone.children(), model.head.project, model.head.classifier):
            stage.register_forward_hook(lambda stage, inputs, output: found.append(tuple(output.shape[1:])))
        found.append(tuple(model(torch.empty(1, 3, *size)).shape[1:]))
    return found


def test_network_figure_shows_shapes_of_the_network():
    config, size = ModelConfig(backbone="resnet50", output_stride=8), (129, 97)
    figure = network(layer_costs(config, *size), size)
    texts = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    shown = [text for text in texts if " x " in text]
    expected = ["{}\n{} x {}".format(*shape) for shape in shapes_of_modules(config, size)]
    blocks, behind = expected[-7:-3], expected[-3:]
    assert shown == [
        "3\n129 x 97",
        "64\n33 x 25",
        *blocks,
        "5 times 256\n17 x 13",
        "1280\n17 x 13",
        *behind,
    ]
    assert {"block3\nrates 2, 2, 2, 2, 2, 2", "block4\nrates 4, 8, 16", "3x3, rate 24", "image pooling"} <= {*texts}


@pytest.mark.parametrize(("output_stride", "atrous"), [(32, 3), (16, 4), (8, 5)])
def test_atrous_convolutions_are_orange(output_stride, atrous):
    config = ModelConfig(multi_grid=(1, 1, 1), output_stride=output_stride)
    figure = network(layer_costs(config, 513, 513), (513, 513))
    colors = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert colors.count(ORANGE) == atrous


def test_photographs_of_a_row_have_one_height():
    wide, high = np.zeros((20, 60, 3), np.uint8), np.zeros((40, 20, 3), np.uint8)
    classes = np.zeros((20, 60), np.uint8)
    classes[5:15, 10:30] = 1
    rows = [[("photograph", wide, None), ("found", wide, classes), ("high", high, None)], [("label", None, classes)]]
    figure = module.photographs(rows, module.ANIMAL_COLORS, ["background", "cat"])
    figure.canvas.draw()
    first, second, third, label = (axis for part in figure.subfigs for axis in part.axes)
    heights = [axis.get_window_extent().height for axis in (first, second, third)]
    assert max(heights) == pytest.approx(min(heights), rel=0.03)
    assert [text.get_text() for text in second.texts] == ["cat"]
    assert [axis.get_title() for axis in (first, third, label)] == ["photograph", "high", "label"]
    assert tuple(label.images[0].get_array()[10, 20]) == tuple(module.ANIMAL_COLORS[1])
    plain = module.photographs(rows, module.ANIMAL_COLORS, ["background", "cat"], outlines=False)
    drawn = [len(one.subfigs[1].axes[0].collections) for one in (figure, plain)]
    assert drawn == [1, 0]


@pytest.mark.parametrize("colors", [module.ANIMAL_COLORS, SYNTHETIC_COLORS])
def test_colors_of_classes_can_be_told_apart(colors):
    """The smallest distance in CIE Lab; the first eleven of VOC's colors are 11 apart."""
    linear = (colors / 255) ** 2.2
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    x, y, z = np.cbrt(xyz / (0.9505, 1, 1.089)).T
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=2)[~np.eye(len(lab), dtype=bool)]
    assert distances.min() > 25
