"""Overlays: outlines and names of the classes."""

import sys

import numpy as np
import pytest

from walkthrough.figures import overlay as overlay_module
from walkthrough.figures.overlay import name_places, outlines, overlay, written_names

NAMES = ["background", "cat", "dog"]
COLORS = np.array([[0, 0, 0], [64, 0, 0], [64, 0, 128]], dtype=np.uint8)


def boxes(shape: tuple[int, int], *items: tuple[int, slice, slice]) -> np.ndarray:
    """Class maps of rectangles."""
    classes = np.zeros(shape, dtype=np.uint8)
    for value, rows, columns in items:
        classes[rows, columns] = value
    return classes


def test_outline_starts_each_class():
    edges = outlines(boxes((4, 5), (1, slice(1, 3), slice(2, 4))))
    assert np.argwhere(edges).tolist() == [[1, 2], [1, 3], [1, 4], [2, 2], [2, 4], [3, 2], [3, 3]]
    assert not outlines(np.full((3, 3), 2)).any()


def test_region_is_named_inside_itself():
    classes = boxes((300, 400), (1, slice(20, 120), slice(20, 140)), (1, slice(200, 290), slice(300, 390)),
                    (2, slice(20, 60), slice(300, 390)), (255, slice(150, 180), slice(0, 100)))  # fmt: skip
    places = name_places(classes)
    assert [found for found, _, _ in places] == [1, 1, 2], "large regions first, void and background without a name"
    assert [int(classes[y, x]) for _, y, x in places] == [1, 1, 2]
    (_, y, x), *_ = places
    assert (abs(y - 70), abs(x - 80)) < (20, 25), "in the middle of the first one"


def test_name_is_at_widest_place():
    """A cat with a long tail is named on its body."""
    classes = boxes((90, 90), (1, slice(30, 60), slice(5, 35)), (1, slice(44, 47), slice(35, 90)))
    ((_, y, x),) = name_places(classes)
    assert (30 <= y < 60) and (5 <= x < 35)


def test_small_region_is_named_only_if_largest():
    classes = boxes((90, 90), (1, slice(5, 45), slice(5, 45)), (1, slice(80, 84), slice(80, 84)),
                    (2, slice(80, 84), slice(5, 9)))  # fmt: skip
    assert [found for found, _, _ in name_places(classes)] == [1, 2]


def test_names_do_not_overlap():
    classes = boxes((90, 90), (1, slice(22, 30), slice(20, 40)), (2, slice(30, 33), slice(20, 40)))
    assert [found for found, _, _ in name_places(classes)] == [1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2, 3)])
def test_tiny_images_have_name_places(shape):
    ((found, y, x),) = name_places(np.ones(shape, dtype=np.uint8))
    assert found == 1 and y < shape[0] and x < shape[1]
    painted = overlay(np.full((*shape, 3), 200, np.uint8), np.ones(shape, np.uint8), COLORS, NAMES)
    assert painted.shape == (*shape, 3)


def test_overlay_paints_classes_and_keeps_background():
    image = np.full((300, 300, 3), 200, dtype=np.uint8)
    painted = overlay(image, boxes((300, 300), (2, slice(50, 250), slice(50, 250))), COLORS, NAMES)
    assert painted.shape == image.shape and painted.dtype == np.uint8
    assert (painted[:48] == 200).all()
    assert painted[60, 60].tolist() == [132, 100, 164]
    assert (painted[50, 60] == 255).all(), "the outline"
    assert (painted[130:170, 100:200] > 220).all(axis=2).sum() > 10, "the name"
    assert image.min() == 200, "the image itself is left alone"


@pytest.mark.parametrize(
    "names", [["road", "car"], ["wall", "floor"], ["Hintergrund", "Katze"], ["foreground", "bg 2"]]
)
def test_first_class_that_is_no_background_is_painted_and_named(names):
    """Cityscapes begins with the road, ADE20K with the wall."""
    image, classes = np.full((200, 300, 3), 99, np.uint8), boxes((200, 300), (1, slice(100, 200), slice(0, 300)))
    painted = overlay(image, classes, COLORS[1:], names)
    assert painted[2, 2].tolist() == [81, 49, 49] and painted[197, 2].tolist() == [81, 49, 113]
    assert (painted[40:60, 100:200] > 220).all(axis=2).sum() > 10, "its name"


@pytest.mark.parametrize(("names", "hidden"), [(["Background", "cat"], 0), (["_background_", "cat"], 0),
                                               (["cat", "background"], 1)])  # fmt: skip
def test_background_is_known_by_its_name(names, hidden):
    image, classes = np.full((60, 60, 3), 99, np.uint8), boxes((60, 60), (1, slice(30, 60), slice(0, 60)))
    painted = overlay(image, classes, COLORS[1:], names)
    left = painted[[2, 57], [2, 2]].tolist()
    assert left[hidden] == [99, 99, 99] and left[1 - hidden] != [99, 99, 99]


def test_names_without_letters_here_become_values(monkeypatch):
    """DejaVu Sans has no Chinese; the numbers stand in the table too."""
    classes = {0: "background", 3: "裂缝", 7: "fissure é ж", 9: "\U0010fffd"}
    assert written_names({0: "background", 7: "fissure é ж"}) == ["background", "fissure é ж"]
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", [])
    assert written_names(classes) == ["background", "3", "fissure é ж", "9"]
    overlay(np.zeros((90, 90, 3), np.uint8), np.ones((90, 90), np.uint8), COLORS, written_names(classes)[:3])


def test_font_with_the_letters_is_taken(monkeypatch):
    """The first of the machine's fonts that has them all, where DejaVu Sans has not."""
    monkeypatch.setattr(overlay_module, "_has_letters", lambda font, text: "Mono" in font.path or text == "a")
    assert overlay_module._font(11, "a").path.endswith("DejaVuSans.ttf")
    assert "Mono" in overlay_module._font(11, "b").path


def test_outline_width_scales_with_image():
    """A hair line on 20 megapixels is invisible."""
    thickness = []
    for side in (400, 1600):
        classes = boxes((side, side), (1, slice(side // 2, None), slice(None)))
        painted = overlay(np.full((side, side, 3), 100, np.uint8), classes, COLORS, ["background", ""])
        thickness.append((painted[:, 5] == 255).all(axis=1).sum())
    assert thickness == [1, 5]


def test_overlay_without_matplotlib_writes_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.font_manager", None)
    image = np.full((300, 300, 3), 200, dtype=np.uint8)
    painted = overlay(image, boxes((300, 300), (2, slice(50, 250), slice(50, 250))), COLORS, NAMES)
    assert (painted[130:170, 100:200] > 220).all(axis=2).sum() > 10
