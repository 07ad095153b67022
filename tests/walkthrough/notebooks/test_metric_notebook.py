"""Notebook 7 with records whose checkpoint is missing, as that of the committed ones is."""

import nbformat
import pytest

from walkthrough import paths
from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.paper import tables
from walkthrough.profiles import load_profile
from walkthrough.records.cells import cell_job


@pytest.fixture
def recorded(monkeypatch):
    """The run of the notebook under the profile smoke: trained, evaluated at its own stride, its network deleted."""
    monkeypatch.setenv("DEEPLABV3_PROFILE", "smoke")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    run, settings = cell_job(tables.load(5).cell(image_pooling="yes"), load_profile("smoke"))
    train_run(run)
    evaluate_run(run, settings)
    run.checkpoint.unlink()
    return run


def test_notebook_7_without_checkpoint_trains_nothing(recorded, capsys):
    names: dict = {}
    for cell in nbformat.read(paths.home() / "notebooks" / "07_inference.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "07_inference.ipynb", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.count("what needs the network is left out") == 1
    assert list(names["records"]) == ["output stride 16"]
    assert not recorded.checkpoint.exists()
