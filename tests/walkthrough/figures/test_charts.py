"""Charts and figures of atrous convolution."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from walkthrough.figures import atrous as atrous_figures
from walkthrough.figures import charts


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_weights_outside_image_are_gray():
    figure = atrous_figures.kernel_positions(np.zeros((40, 40, 3), np.uint8), (1, 15), (10, 20), [np.eye(40)] * 2)
    above = figure.axes[:2]
    gray = [sum(line.get_color() == "#999999" for line in axis.lines) for axis in above]
    assert [len(axis.lines) for axis in above] == [9, 9]
    assert gray == [0, 3]  # row 10 - 15 lies above the image
    assert [axis.get_title() for axis in above] == ["rate 1: 3 x 3 pixels", "rate 15: 31 x 31 pixels"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["the 9 weights", "output of the filter", "output"]


def test_five_by_five_kernel_shows_positions_and_responses():
    responses = [np.full((40, 40), 1.0), np.full((40, 40), -2.0)]
    figure = atrous_figures.kernel_positions(np.zeros((40, 40, 3), np.uint8), (1, 4), (20, 20), responses, kernel=5)
    above, below = figure.axes[:2], figure.axes[2:4]
    assert [len(axis.lines) for axis in above] == [25, 25]
    assert {line.get_xdata()[0] for line in above[1].lines} == {12, 16, 20, 24, 28}
    assert [axis.images[0].get_clim() for axis in below] == [(-2, 2)] * 2  # zero is the middle of the colors


def test_sampling_joins_output_to_its_inputs():
    x, y = np.arange(4.0), {1: np.array([-1.0, -2, -2, 2]), 2: np.array([-2.0, -3, 0, 1])}
    figure = atrous_figures.sampling(x, y, positions=(0, 3))
    ends = [[line.get_xdata().tolist() for line in axis.lines] for axis in figure.axes]
    assert ends[:2] == [[[-1, 0], [0, 0], [1, 0]], [[2, 3], [3, 3], [4, 3]]]
    assert ends[2:] == [[[-2, 0], [0, 0], [2, 0]], [[1, 3], [3, 3], [5, 3]]]
    written = [text.get_text() for text in figure.axes[2].texts]
    assert written == ["0", "0", "0", "1", "2", "3", "0", "0", "-2", "", "", ""]  # padded input, then y[0]


def test_panels_show_own_values():
    figure = charts.bars({"paper": {"a": 1.0, "b": 2.5}, "ours": {"a": 3.0, "b": 4.0}})
    assert [[patch.get_width() for patch in axis.patches] for axis in figure.axes] == [[1.0, 2.5], [3.0, 4.0]]
    figure = charts.panels(["x", "y"], {"paper": {"": [1, 2]}, "ours": {"": [3, float("nan")]}})
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1, 2])
    assert np.isnan(figure.axes[1].lines[0].get_ydata()[1])
    labels = {"paper": ["4", "8"], "ours": ["2", "4"]}
    figure = charts.panels(labels, {"paper": {"": [1, 2]}, "ours": {"": [3, 4]}})
    assert [[text.get_text() for text in axis.get_xticklabels()] for axis in figure.axes] == list(labels.values())


def test_bars_below_zero_leave_the_axis_to_the_left():
    (axis,) = charts.bars({"change": {"a": -2.0, "b": 5.0}}).axes
    assert [(patch.get_x(), patch.get_width()) for patch in axis.patches] == [(0, -2), (0, 5)]
    assert axis.spines["left"].get_position() == "zero"
    assert [text.get_text() for text in axis.texts] == ["-2.0", "5.0"]


def test_panels_have_intervals_and_equal_spans():
    ours = {"a": [[50, 52], [48, 51], [51, 55]], "b": [[50, 50], [49, 49], [51, 51]]}
    figure = charts.panels(["x", "y"], {"paper": {"a": [70, 71], "b": [70, 90]}, "ours": ours}, x_label="block")
    paper, measured = figure.axes
    spans = [high - low for low, high in (paper.get_ylim(), measured.get_ylim())]
    assert spans[0] == pytest.approx(spans[1]) and spans[0] > 20
    assert sum(measured.get_ylim()) / 2 == pytest.approx(51.5)
    ends = [[(x, *line[:, 1]) for line in lines.get_segments() for x in line[:1, 0]] for lines in measured.collections]
    assert ends == [[(-0.03, 48, 51), (0.97, 51, 55)], [(0.03, 49, 51), (1.03, 49, 51)]]
    assert [line.get_color() for line in measured.lines] == list(charts.COLORS[:2])
    assert len(figure.legends) == 1 and measured.get_legend() is None  # both panels name the same rows
    figure = charts.panels(["x"], {"paper": {"a": [1], "b": [2]}, "ours": {"c": [1], "d": [2]}})
    named = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in figure.axes]
    assert named == [["a", "b"], ["c", "d"]] and not figure.legends


def test_differences_stand_beside_papers():
    figure = charts.differences({"a over b": (0.5, (1.5, 1.0, 2.5)), "c over d": (float("nan"), None)}, "points")
    (axis,) = figure.axes
    marks = [(line.get_marker(), list(line.get_xdata())) for line in axis.lines[:-1]]
    assert marks[:3] == [("D", [0.5]), ("None", [1.0, 2.5]), ("o", [1.5])]
    assert marks[3][0] == "D" and np.isnan(marks[3][1]).all() and len(marks) == 4
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a over b", "c over d"]
    assert axis.get_ylim() == (1.5, -0.5)  # the first row is on top


def test_images_keep_their_places():
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((6, 4, 3), 255, np.uint8)
    figure = charts.images([[black, white], [white]], ["first", "second"])
    shown = [[shown_image.get_array().shape for shown_image in axis.images] for axis in figure.axes]
    assert shown == [[(4, 6, 3)], [(6, 4, 3)], [(6, 4, 3)], []]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["first", "second"]


def test_valid_weights_label_their_rectangles():
    figure = atrous_figures.valid_weights(np.array([2, 2, 3, 3, 2, 2]), {9: [0.5, 0.1], 6: [0.5, 0.9]}, rate=2)
    written = sorted(int(text.get_text()) for text in figure.axes[0].texts)
    assert written == [4, 4, 4, 4, 6, 6, 6, 6, 9]
    (nine,) = (text for text in figure.axes[0].texts if text.get_text() == "9")
    assert nine.get_position() == (2.5, 2.5)
    curves = figure.axes[1].lines
    assert [line.get_linestyle() for line in curves[:2]] == ["-", "--"]  # the paper draws 9, and not 6
    assert list(curves[0].get_xdata()) == [1, 2] and list(curves[2].get_xdata()) == [2, 2]


def test_gridding_colors_inputs_by_output():
    seen = np.zeros((4, 8, 8), bool)
    for output in range(4):
        seen[output, 3, 2 + output] = True
    seen[:, 4, 4] = True
    figure = atrous_figures.gridding([("rates", seen, np.zeros((8, 8)))], ("inputs", "map"))
    assert [axis.get_ylabel() for axis in figure.axes[:2]] == ["inputs", "map"]
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (4, 6, 3)  # rows 3 and 4, columns 2 to 5, and one more on every side
    assert [to_hex(shown[1, 1 + output]) for output in range(4)] == list(charts.COLORS[:4])
    assert shown[2, 3].tolist() == [0.7] * 3
    assert (shown[0] == 1).all()


def test_receptive_paths_lead_to_read_features():
    coarse, wrong, right = atrous_figures.receptive_paths(
        {"strides": [(2, 1), (1, 1)], "rate forgotten": [(1, 1), (1, 1)], "dense": [(1, 1), (1, 2)]}, length=9
    ).axes

    def read_by(axis, position):
        """The features of the lower layer that the upper layer's feature at ``position`` reads."""
        ends = (line.get_xdata() for line in axis.lines if list(line.get_ydata()) == [1, 2])
        return [source for source, reader in ends if reader == position]

    assert read_by(coarse, 4) == [2, 4, 6] == read_by(right, 4)
    assert read_by(wrong, 4) == [3, 4, 5]
    assert read_by(coarse, 3) == [] and read_by(right, 3) == [1, 3, 5]
    assert read_by(right, 0) == [0, 2]
    colors = [len({line.get_color() for line in axis.lines}) for axis in (coarse, wrong, right)]
    assert colors == [1, 2, 2]
    assert [len(dots.get_offsets()) for dots in coarse.collections] == [9, 5, 5]


def test_feature_covers_its_pixels():
    maps = {4: np.arange(6.0).reshape(2, 3), 2: np.zeros((3, 5))}
    figure = atrous_figures.dense_features(np.zeros((5, 9, 3), np.uint8), maps)
    image, coarse, fine, *_ = figure.axes
    assert [axis.get_title() for axis in (image, coarse)] == ["image", "output stride 4: 2 x 3"]
    assert coarse.images[0].get_extent() == [-2, 10, 6, -2]  # feature (0, 0) is centered on pixel (0, 0)
    assert fine.images[0].get_extent() == [-1, 9, 5, -1]
    dots = [axis.collections[0].get_offsets().tolist() for axis in (coarse, fine)]
    assert dots[0] == dots[1] == [[x, y] for y in (0, 4) for x in (0, 4, 8)]
    assert coarse.images[0].get_clim() == fine.images[0].get_clim() == (0, 5)


def test_stacked_parts_add_up():
    figure = charts.stacked({"fine": {"a": 30, "b": 60, "c": 1}, "coarse": {"a": 10, "b": 0, "c": 1}}, "G")
    axis = figure.axes[0]
    assert [(bar.get_x(), bar.get_width()) for bar in axis.patches[:3]] == [(0, 30), (30, 60), (90, 1)]
    assert [text.get_text() for text in axis.texts] == ["30", "60", "91", "10", "11"]
