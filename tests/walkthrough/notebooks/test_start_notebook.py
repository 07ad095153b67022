"""Notebook 0: its photographs, its metric, and the minutes of its map."""

import re

import nbformat
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from deeplabv3 import load_pretrained
from deeplabv3.config import EvaluationConfig
from deeplabv3.data.reading import read_image
from deeplabv3.evaluation import metrics
from deeplabv3.evaluation.predict import predict_photo
from walkthrough import paths

CAT = paths.home() / "data" / "photographs" / "chelsea.jpg"


def markdown(name: str) -> str:
    notebook = nbformat.read(paths.home() / "notebooks" / f"{name}.ipynb", as_version=4)
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def minutes() -> dict[str, int]:
    """Reading minutes of every notebook, by its number, from the map."""
    rows = re.findall(r"^\| \[?(\d+) · .*\| (\d+) \| (\d+) \|$", markdown("00_start_here"), re.MULTILINE)
    return {number: int(read) for number, read, _ in rows}


def test_map_lists_every_notebook():
    linked = re.findall(r"^\| \[.*\]\((\d\d_\w+)\.ipynb\) \|", markdown("00_start_here"), re.MULTILINE)
    names = sorted(path.stem for path in (paths.home() / "notebooks").glob("*.ipynb"))
    assert ["00_start_here", *linked] == names and len(minutes()) == len(names)


def test_map_repeats_the_minutes_of_the_notebooks():
    compared = 0
    for path in (paths.home() / "notebooks").glob("*.ipynb"):
        if stated := re.search(r"^\*\*Time:\*\* (\d+) minutes to read", markdown(path.stem), re.MULTILINE):
            assert int(stated[1]) == minutes()[str(int(path.stem[:2]))], path.stem
            compared += 1
    assert compared >= 3


def test_routes_take_the_minutes_of_their_notebooks():
    routes = re.findall(r"\((\d+) minutes\): (\d+(?: → \d+)+)$", markdown("00_start_here"), re.MULTILINE)
    assert len(routes) == 3
    for total, route in routes:
        assert int(total) == sum(minutes()[number] for number in route.split(" → "))


@pytest.mark.parametrize(
    ("file", "name"), [(CAT, "cat"), (get_sample_data("grace_hopper.jpg", asfileobj=False), "person")]
)
def test_photograph_shows_its_class(file, name):
    """The first screen promises it, whichever network comes with the library."""
    model, names = load_pretrained()
    classes = predict_photo(model, read_image(file), EvaluationConfig(padding="tight"), max_size=321)
    shares = dict(zip(names.values(), np.bincount(classes.ravel(), minlength=len(names)) / classes.size, strict=True))
    assert shares[name] > 0.3
    assert shares[name] + shares["background"] > 0.95


def test_cat_is_small_and_licensed():
    assert CAT.stat().st_size <= 150_000
    with Image.open(CAT) as photo:
        assert photo.size == (451, 300)
    (row,) = [line for line in (paths.home() / "data" / "README.md").read_text().splitlines() if CAT.name in line]
    assert "Stefan van der Walt, CC0" in row


def test_metric_equals_library():
    page: dict = {"np": np}
    notebook = nbformat.read(paths.home() / "notebooks" / "00_start_here.ipynb", as_version=4)
    (source,) = [cell.source for cell in notebook.cells if "def mean_iou" in cell.source]
    exec(source, page)
    ground_truth, prediction = np.random.default_rng(0).integers(0, 5, (2, 20, 30))
    ground_truth[:3] = 255
    found = page["confusion"](ground_truth, prediction, 5)
    assert np.array_equal(found, metrics.confusion_matrix(ground_truth, prediction, 5))
    assert 100 * page["mean_iou"](found) == pytest.approx(metrics.mean_iou(found))
