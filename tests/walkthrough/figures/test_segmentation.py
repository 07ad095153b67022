"""Images of segmentations: what is marked, outlined and named, and where."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

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


def test_outlines_lie_where_a_class_begins():
    edges = segmentation.outlines(boxes((4, 5), (1, slice(1, 3), slice(2, 4))))
    assert np.argwhere(edges).tolist() == [[1, 2], [1, 3], [1, 4], [2, 2], [2, 4], [3, 2], [3, 3]]
    assert not segmentation.outlines(np.full((3, 3), 2)).any()


def test_every_region_is_named_inside_itself():
    classes = boxes((300, 400), (1, slice(20, 120), slice(20, 140)), (1, slice(200, 290), slice(300, 390)),
                    (2, slice(20, 60), slice(300, 390)), (255, slice(150, 180), slice(0, 100)))  # fmt: skip
    places = segmentation.name_places(classes)
    assert [found for found, _, _ in places] == [1, 1, 2], "large regions first, void and background without a name"
    assert [int(classes[y, x]) for _, y, x in places] == [1, 1, 2]
    (_, y, x), *_ = places
    assert (abs(y - 70), abs(x - 80)) < (20, 25), "in the middle of the first one"


def test_the_name_stands_where_a_region_is_widest():
    """A cat with a long tail is named on its body."""
    classes = boxes((90, 90), (1, slice(30, 60), slice(5, 35)), (1, slice(44, 47), slice(35, 90)))
    ((_, y, x),) = segmentation.name_places(classes)
    assert (30 <= y < 60) and (5 <= x < 35)


def test_small_regions_stay_unnamed_unless_the_class_has_nothing_larger():
    classes = boxes((90, 90), (1, slice(5, 45), slice(5, 45)), (1, slice(80, 84), slice(80, 84)),
                    (2, slice(80, 84), slice(5, 9)))  # fmt: skip
    assert [found for found, _, _ in segmentation.name_places(classes)] == [1, 2]


def test_names_do_not_stand_on_each_other():
    classes = boxes((90, 90), (1, slice(22, 30), slice(20, 40)), (2, slice(30, 33), slice(20, 40)))
    assert [found for found, _, _ in segmentation.name_places(classes)] == [1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2, 3)])
def test_the_smallest_images_have_places_too(shape):
    ((found, y, x),) = segmentation.name_places(np.ones(shape, dtype=np.uint8))
    assert found == 1 and y < shape[0] and x < shape[1]
    painted = segmentation.overlay(np.full((*shape, 3), 200, np.uint8), np.ones(shape, np.uint8), COLORS, NAMES)
    assert painted.shape == (*shape, 3)


def test_overlay_paints_classes_and_leaves_the_background():
    image = np.full((300, 300, 3), 200, dtype=np.uint8)
    painted = segmentation.overlay(image, boxes((300, 300), (2, slice(50, 250), slice(50, 250))), COLORS, NAMES)
    assert painted.shape == image.shape and painted.dtype == np.uint8
    assert (painted[:48] == 200).all()
    assert painted[60, 60].tolist() == [132, 100, 164]
    assert (painted[50, 60] == 255).all(), "the outline"
    assert (painted[130:170, 100:200] > 220).all(axis=2).sum() > 10, "the name"
    assert image.min() == 200, "the image itself is left alone"


def test_outlines_grow_with_the_image():
    """A hair line on 20 megapixels is invisible."""
    thickness = []
    for side in (400, 1600):
        classes = boxes((side, side), (1, slice(side // 2, None), slice(None)))
        painted = segmentation.overlay(np.full((side, side, 3), 100, np.uint8), classes, COLORS, ["background", ""])
        thickness.append((painted[:, 5] == 255).all(axis=1).sum())
    assert thickness == [1, 5]


def test_errors_are_marked_and_void_is_none():
    image = np.zeros((2, 3, 3), dtype=np.uint8)
    truth, prediction = np.array([[0, 1, 255], [1, 1, 255]]), np.array([[0, 2, 0], [1, 0, 1]])
    shown = segmentation.error_map(image, truth, prediction)
    wrong = (shown == ORANGE).all(axis=2)
    assert wrong.tolist() == [[False, True, False], [False, True, False]]
    assert (shown[:, 2] == segmentation.VOID_COLOUR).all()


def test_changes_tell_repaired_from_broken():
    truth = np.array([[1, 1, 1, 2, 255]])
    before, after = np.array([[1, 0, 1, 0, 0]]), np.array([[0, 1, 1, 1, 1]])
    shown = segmentation.change_map(np.zeros((1, 5, 3), np.uint8), truth, before, after)
    assert tuple(shown[0, 0]) == ORANGE and tuple(shown[0, 1]) == BLUE
    pale = shown[0, 2:]
    assert (pale == pale[0]).all(), "still right, still wrong, and void: no change"


def example(name: str, prediction: np.ndarray) -> segmentation.Example:
    truth = boxes((40, 60), (1, slice(5, 35), slice(5, 25)), (255, slice(0, 40), slice(58, 60)))
    return segmentation.Example(name, np.full((40, 60, 3), 90, np.uint8), truth, prediction)


def test_a_comparison_has_a_row_an_example_and_a_legend_of_what_occurs():
    good, wrong = (
        example("best", boxes((40, 60), (1, slice(5, 35), slice(5, 25)))),
        example("worst", np.zeros((40, 60), int)),
    )
    figure = segmentation.comparison([good, wrong], COLORS, NAMES)
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[0]] == ["image", "truth", "prediction", "errors"]
    assert [row[0].get_ylabel() for row in axes] == ["best", "worst"]
    assert [texts(axis) for axis in axes[:, 2]] == [["cat"], []]
    errors = [(axis.images[0].get_array() == ORANGE).all(axis=2).sum() for axis in axes[:, 3]]
    assert errors == [0, 600]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["background", "cat", "void", "wrong"]


def test_changes_count_pixels_against_the_strategy_before():
    truth = np.ones((8, 8), dtype=np.uint8)
    steps = {"16": truth * 0, "8": truth.copy(), "flip": truth.copy()}
    steps["8"][0] = 0
    steps["flip"][:2] = 0
    image = np.zeros((8, 8, 3), np.uint8)
    figure = segmentation.changes([image], [truth], {name: [found] for name, found in steps.items()})
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "+56  −0", "+0  −8"]
    assert [axis.get_title() for axis in figure.axes] == ["image", "+ 8", "+ flip"]


def test_the_gallery_marks_its_failures():
    right = boxes((40, 60), (1, slice(5, 35), slice(5, 25)))
    figure = segmentation.gallery([[example("a", right), example("b", right)], [example("c", right)]], COLORS, NAMES)
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["", "failures"]
    assert [axis.get_title() for axis in axes[:, 1]] == ["a", "c"]
    assert texts(axes[0, 3]) == ["cat"] and not axes[1, 2].images


def test_confusion_is_in_percent_of_the_true_class():
    figure = segmentation.confusion(np.array([[90, 10, 0], [25, 75, 0], [0, 0, 0]]), NAMES)
    (axis,) = figure.axes
    assert sorted(texts(axis), key=int) == ["10", "25", "75", "90"], "an absent class has no percentages"
    shown = axis.images[0].get_array()
    assert np.isnan(np.diag(shown.filled(np.nan))).all()
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "truth")


def test_a_photo_has_its_shares_beside_it():
    classes = boxes((40, 60), (2, slice(0, 20), slice(0, 60)), (1, slice(20, 30), slice(0, 30)))
    figure = segmentation.photo(np.zeros((40, 60, 3), np.uint8), classes, COLORS, NAMES)
    bars = figure.axes[2]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["dog", "background", "cat"]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx([50, 37.5, 12.5])
