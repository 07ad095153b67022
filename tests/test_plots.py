"""Figures: arrays in, what was meant out."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplabv3 import plots


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_weights_that_leave_the_picture_are_grey():
    figure = plots.taps(np.zeros((40, 40, 3), np.uint8), rates=(1, 15), centre=(10, 20))
    grey = [sum(line.get_color() == "#999999" for line in axis.lines) for axis in figure.axes]
    assert [len(axis.lines) for axis in figure.axes] == [9, 9]
    assert grey == [0, 3]  # row 10 - 15 lies above the picture


def test_panels_show_their_own_values():
    figure = plots.bars({"paper": {"a": 1.0, "b": 2.5}, "ours": {"a": 3.0, "b": 4.0}})
    assert [[patch.get_width() for patch in axis.patches] for axis in figure.axes] == [[1.0, 2.5], [3.0, 4.0]]
    figure = plots.beside(["x", "y"], {"paper": {"": [1, 2]}, "ours": {"": [3, float("nan")]}})
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1, 2])
    assert np.isnan(figure.axes[1].lines[0].get_ydata()[1])


def test_pictures_keep_their_places():
    black, white = np.zeros((4, 6, 3), np.uint8), np.full((6, 4, 3), 255, np.uint8)
    figure = plots.pictures([[black, white], [white]], ["first", "second"])
    shown = [[image.get_array().shape for image in axis.images] for axis in figure.axes]
    assert shown == [[(4, 6, 3)], [(6, 4, 3)], [(6, 4, 3)], []]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["first", "second"]


def test_unseen_inputs_are_blank():
    (axis,) = plots.grids({"rates": np.array([[0, 1], [2, 0]])}).axes
    assert np.ma.getmaskarray(np.ma.masked_invalid(axis.images[0].get_array())).tolist() == [
        [True, False],
        [False, True],
    ]
