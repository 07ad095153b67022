"""Notebooks 05 to 11 on data of one's own: two validation images, and classes without a background."""

from pathlib import Path

import pytest
import yaml
from conftest import profile_values, write_voc

from walkthrough.cli import main

DATA = {
    "two validation images": ({0: "background", 3: "square", 7: "disc"}, 2),
    "no background": ({0: "road", 3: "car", 7: "sky"}, 3),
}
NOTEBOOKS = ("05", "06", "07", "08", "09", "10", "11")


@pytest.fixture(scope="module", params=DATA.values(), ids=DATA)
def small(request, tmp_path_factory) -> tuple[Path, str]:
    """A workspace and a profile of three steps; both serve all notebooks, which share runs."""
    classes, val = request.param
    folder = tmp_path_factory.mktemp("small")
    values = profile_values(write_voc(folder / "VOC2012", val=val), classes)
    (folder / "small.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / "workspace", str(folder / "small.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs_on_small_data(small, monkeypatch, capsys, notebook):
    """Notebook 06 trains a network of the profile ``offline`` for it, which takes a minute."""
    workspace, profile = small
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", str(workspace))
    code = main(["walkthrough", "--profile", profile, "--only", notebook])
    assert code == 0, capsys.readouterr()
