"""Figures of measured results."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from walkthrough.figures import forest
from walkthrough.figures import results as figures


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_sizes_rise_to_their_number():
    figure = figures.sizes([3, 0.1, 1], {"paper": 0.8, "ours": float("nan")}, "points", "up to")
    curve, *marks = figure.axes[0].lines
    assert list(curve.get_xdata()) == [0.1, 1, 3] and list(curve.get_ydata()) == [1, 2, 3]
    assert [line.get_label() for line in marks] == ["paper: 0.80"]
    assert figure.axes[0].get_xscale() == "log" and "logarithmic" in figure.axes[0].get_xlabel()


def test_draws_mark_the_interval_of_the_last():
    wide, narrow = np.linspace(-10, 10, 201), np.linspace(-1, 1, 201)
    figure = figures.draws({"a": {"own": wide, "same": narrow}, "b": {"own": wide, "same": narrow + 5}}, "points")
    ends = [[line.get_xdata()[0] for line in axis.lines[:2]] for axis in figure.axes]
    assert np.allclose(ends, [[-0.95, 0.95], [4.05, 5.95]])
    assert figure.axes[1].get_title() == "b\n95 %: +4.05 to +5.95"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["own", "same"]


def test_front_is_numbered_and_cut_below():
    values = np.array([[60, 70, 69, 80, 20], [59, 69, 68, 79, 19], [61, 71, 70, 81, 21]])
    figure = figures.front([2, 4, 4, 8, 1], values, "cost")
    axis = figure.axes[0]
    others, _, dots = axis.lines
    assert list(others.get_ydata()) == [69]
    assert list(dots.get_xdata()) == [1, 2, 4, 8] and list(dots.get_ydata()) == [20, 60, 70, 80]
    assert [text.get_text() for text in axis.texts] == ["2", "3", "4"]
    assert axis.get_ylim()[0] == 55 and axis.get_title(loc="right").startswith("1 more")
    ends = [segment[:, 1].tolist() for segment in axis.collections[0].get_segments()]
    assert ends == [[19, 21], [59, 61], [69, 71], [79, 81]]


def test_front_leaves_out_equal_rows():
    assert figures.front_of([1, 1, 2, 3], [5, 6, 6, 7]).tolist() == [1, 3]


def test_variants_have_panels_of_own_names():
    figure = figures.variants({"forward": {"theirs": 1, "ours": 0.5}, "step": {"theirs": 1}})
    widths = [[bar.get_width() for bar in axis.patches] for axis in figure.axes]
    assert widths == [[1, 0.5], [1]]
    names = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]
    assert names == [["theirs", "ours"], ["theirs"]]


def test_fields_show_means_and_square():
    values = np.zeros((9, 9))
    values[:4, :4], values[4:8, :4] = 8, 4
    figure = figures.fields({"a": values, "b": values + 1}, [3, 5])
    axis = figure.axes[0]
    assert axis.images[0].get_array().tolist() == [[1, 0], [0.5, 0]]
    assert (axis.patches[0].get_width(), axis.patches[0].get_xy()) == (3, (-1.5, -1.5))
    assert "logarithmic" in figure.axes[-1].get_ylabel()


def test_shares_have_dashed_baseline():
    figure = figures.shares({"a": ([1, 2], [1, 3]), "equal": ([1, 2], [1, 2])}, "equal", "side", "%")
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "--"]
    assert figure.axes[0].get_legend() is None and len(figure.legends) == 1


def test_forest_shows_both_vocabularies_and_continued_claims():
    rows = [
        forest.ForestRow("one", "Table 1", 1.0, (2.0, 1.0, 3.0), "supported", "supported"),
        forest.ForestRow("", "real", 1.0, (0.5, -1.0, 2.0), "open", "this network: open", continues=True),
        forest.ForestRow("two", "Table 2", 0.5, None, "missing", "missing"),
    ]
    figure = forest.forest(rows, "title")
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["one  (Table 1)", "real", "two  (Table 2)"]
    shaded = [round(patch.get_y() + 0.5) for patch in axis.patches]
    assert shaded == [0, 1]  # a claim's lines belong together
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"ours, 95 %: supported", "ours, 95 %: open"} <= set(words)
    paper, ours = (next(line for line in axis.lines if line.get_marker() == mark) for mark in ("D", "o"))
    assert paper.get_ydata()[0] < 0 < ours.get_ydata()[0]  # neither hides the other
