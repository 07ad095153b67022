"""Images of segmentations: outlines, names, errors and legends."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplabv3.config import SYNTHETIC_CLASSES, VOID
from walkthrough.figures import segmentation

NAMES = ["background", "cat", "dog"]
COLORS = np.array([[0, 0, 0], [64, 0, 0], [64, 0, 128]], dtype=np.uint8)
BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def boxes(shape: tuple[int, int], *items: tuple[int, slice, slice]) -> np.ndarray:
    """Class maps of rectangles."""
    classes = np.zeros(shape, dtype=np.uint8)
    for value, rows, columns in items:
        classes[rows, columns] = value
    return classes


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_error_map_ignores_void():
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    ground_truth, prediction = np.array([[0, 1, 255], [1, 1, 255]]), np.array([[0, 2, 0], [1, 0, 1]])
    shown = segmentation.error_map(image, ground_truth, prediction)
    wrong = (shown == ORANGE).all(axis=2)
    assert wrong.tolist() == [[False, True, False], [False, True, False]]
    assert (shown[:, 2] == segmentation.VOID_COLOR).all()


def test_change_map_separates_repaired_and_broken():
    ground_truth = np.array([[1, 1, 1, 2, 255]])
    before, after = np.array([[1, 0, 1, 0, 0]]), np.array([[0, 1, 1, 1, 1]])
    shown = segmentation.change_map(np.zeros((1, 5, 3), np.uint8), ground_truth, before, after)
    assert tuple(shown[0, 0]) == ORANGE and tuple(shown[0, 1]) == BLUE
    pale = shown[0, 2:]
    assert (pale == pale[0]).all(), "still right, still wrong, and void: no change"


def example(name: str, prediction: np.ndarray) -> segmentation.Example:
    ground_truth = boxes((40, 60), (1, slice(5, 35), slice(5, 25)), (255, slice(0, 40), slice(58, 60)))
    return segmentation.Example(name, np.full((40, 60, 3), 90, np.uint8), ground_truth, prediction)


def test_comparison_legend_lists_occurring_classes():
    good, wrong = (
        example("best", boxes((40, 60), (1, slice(5, 35), slice(5, 25)))),
        example("worst", np.zeros((40, 60), int)),
    )
    figure = segmentation.comparison([good, wrong], COLORS, NAMES)
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["image", "ground truth", "prediction", "errors (orange)"]
    assert [row[0].get_ylabel() for row in axes] == ["best", "worst"]
    assert [texts(axis) for axis in axes[:, 2]] == [["cat"], []]
    errors = [(axis.images[0].get_array() == ORANGE).all(axis=2).sum() for axis in axes[:, 3]]
    assert errors == [0, 600]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["background", "cat", "void"]


def test_changes_count_repaired_and_broken_pixels():
    half = boxes((40, 60), (1, slice(5, 35), slice(5, 15)))
    whole = boxes((40, 60), (1, slice(5, 36), slice(5, 25)))
    figure = segmentation.changes({"gains": (example("a", half), whole)}, COLORS, NAMES)
    assert [axis.get_title() for axis in figure.axes] == ["image", "ground truth", "before", "after", "change"]
    assert figure.axes[0].get_ylabel() == "gains" and figure.axes[4].get_xlabel() == "+300  −20"
    shown = figure.axes[4].images[0].get_array()
    assert [(shown == color).all(axis=2).sum() for color in (BLUE, ORANGE)] == [300, 20]
    assert [texts(axis) for axis in figure.axes[1:4]] == [["cat"]] * 3


def test_gallery_names_rows_and_images():
    right = boxes((40, 60), (1, slice(5, 35), slice(5, 25)))
    rows = {"best": [example("a", right), example("b", right)], "worst": [example("c", right)]}
    figure = segmentation.gallery(rows, COLORS, NAMES)
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["best", "worst"]
    assert [axis.get_title() for axis in axes[:, 1]] == ["a", "c"]
    assert texts(axes[0, 3]) == ["cat"] and not axes[1, 2].images


def test_names_that_would_overlap_go_to_larger_region():
    apart = boxes((40, 60), (1, slice(2, 38), slice(2, 28)), (2, slice(2, 34), slice(32, 58)))
    close = boxes((40, 60), (1, slice(2, 38), slice(2, 28)), (2, slice(15, 25), slice(30, 40)))
    names = ["background", "a cat with a long name", "dog"]
    for classes, expected in ((apart, {"cat", "dog"}), (close, {"a cat with a long name"})):
        named = ["background", "cat", "dog"] if classes is apart else names
        figure = segmentation.gallery({"row": [example("a", classes)] * 2}, COLORS, named, size=0.8)
        assert set(texts(figure.axes[1])) == expected


def test_confusion_is_percent_of_true_class():
    figure = segmentation.confusion(np.array([[90, 10, 0], [25, 75, 0], [0, 0, 0]]), NAMES)
    (axis,) = figure.axes
    assert sorted(texts(axis), key=int) == ["10", "25", "75", "90"], "an absent class has no percentages"
    shown = axis.images[0].get_array()
    assert np.isnan(np.diag(shown.filled(np.nan))).all()
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "ground truth")


def test_photo_shows_class_shares():
    classes = boxes((40, 60), (2, slice(0, 20), slice(0, 60)), (1, slice(20, 30), slice(0, 30)))
    figure = segmentation.photo(np.zeros((40, 60, 3), np.uint8), classes, COLORS, NAMES)
    bars = figure.axes[2]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["dog", "background", "cat"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([50, 37.5, 12.5])


def test_first_class_that_is_no_background_is_drawn():
    image = np.full((40, 60, 3), 99, np.uint8)
    for names, drawn in ((["road", "car", "bus"], True), (["background", "car", "bus"], False)):
        _, axis = plt.subplots()
        segmentation.draw_classes(axis, np.zeros((40, 60), np.uint8), COLORS, names, image)
        assert texts(axis) == (["road"] if drawn else [])
        assert (axis.images[0].get_array() != image).all() == drawn


def test_class_maps_have_own_colors_and_legend():
    classes, image = np.array([[0, 1], [3, VOID]], np.uint8), np.zeros((2, 2, 3), np.uint8)
    colors = segmentation.SYNTHETIC_COLORS
    names = ["background", "disc", "ring", "rod"]
    rows = {"first": [image, classes], "second": [image, classes[:, ::-1]]}
    figure = segmentation.class_maps(rows, ["image", "ground truth"], colors, names)
    painted = figure.axes[1].images[0].get_array()
    assert painted[0].tolist() == colors[:2].tolist() and painted[1, 0].tolist() == colors[3].tolist()
    assert painted[1, 1].tolist() == list(segmentation.VOID_COLOR)
    assert [axis.get_ylabel() for axis in figure.axes] == ["first", "", "second", ""]
    assert [axis.get_title() for axis in figure.axes[:2]] == ["image", "ground truth"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["background", "disc", "rod"]


def test_synthetic_colors_differ_widely():
    colors = segmentation.SYNTHETIC_COLORS.astype(int)
    assert len(colors) == len(SYNTHETIC_CLASSES)
    shown = np.array([*colors, segmentation.VOID_COLOR])
    distances = np.abs(shown[:, None] - shown[None]).sum(axis=2)
    assert distances[~np.eye(len(shown), dtype=bool)].min() > 80
