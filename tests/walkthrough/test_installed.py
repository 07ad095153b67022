"""Both packages outside the checkout, and without the packages that only notebooks need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from walkthrough import cli

NOTEBOOK_PACKAGES = (
    "IPython",
    "ipywidgets",
    "jupyterlab",
    "matplotlib",
    "nbconvert",
    "nbformat",
    "pandas",
    "papermill",
)


@pytest.fixture
def run_installed(tmp_path):
    """``run_installed(code, *arguments)``: run code on a copy of both packages, outside the checkout."""
    site = tmp_path / "site"
    for package in ("deeplabv3", "walkthrough"):
        source = Path(cli.__file__).parents[1] / package
        shutil.copytree(source, site / package, ignore=shutil.ignore_patterns("__pycache__"))

    def run(code: str, *arguments: object, blocked=NOTEBOOK_PACKAGES, **environment: str) -> str:
        block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))"
        check = f"import deeplabv3; assert deeplabv3.__file__.startswith({str(site)!r}), deeplabv3.__file__"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DEEPLABV3_")}
        done = subprocess.run(
            [sys.executable, "-c", "\n".join([block, check, code]), *map(str, arguments)], cwd=tmp_path,
            env=kept | {"PYTHONPATH": str(site)} | environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


COMMAND = "from walkthrough.cli import script; script()"


def test_library_needs_no_study_packages(run_installed):
    code = "print(deeplabv3.DeepLabV3(deeplabv3.ModelConfig(backbone='small_resnet20', head_channels=8)).output_stride)"
    assert run_installed(code, blocked=(*NOTEBOOK_PACKAGES, "yaml", "filelock", "walkthrough")) == "16\n"


def test_predict_needs_no_checkout(run_installed, make_model, tmp_path):
    model = make_model()
    settings = {"model": vars(model.config)}
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(1, 1.0, settings, model.state_dict(), {}))
    Image.new("RGB", (60, 40), "red").save(tmp_path / "red.png")
    assert "red.png  60 x 40" in run_installed(COMMAND, "predict", "--weights", "c.safetensors", "red.png")
    assert (tmp_path / "predictions" / "red_overlay.jpg").is_file()


def test_evaluate_and_export_need_no_checkout(run_installed, make_model, profile_file, tmp_path):
    """The records go into ``data/`` of the working folder, or into the workspace that is named."""
    printed = run_installed(COMMAND, "train", "--profile", profile_file, "--set", "training.iterations=1")
    assert "record data/records/tiny-tests/" in printed
    (file,) = (tmp_path / "data" / "runs").rglob("checkpoint.safetensors")
    printed = run_installed(COMMAND, "evaluate", "--profile", profile_file, file, DEEPLABV3_WORKSPACE="elsewhere")
    assert "mIoU" in printed and list((tmp_path / "elsewhere" / "records").rglob("eval-*.json"))
    run_installed(COMMAND, "export", "weights", "small.safetensors", "--weights", file)
    assert (tmp_path / "small.safetensors").is_file()


def test_train_needs_no_notebook_packages(run_installed, profile_file, workspace):
    """Train, and evaluate the trained network."""
    home = str(Path(cli.__file__).parents[2])
    environment = {"DEEPLABV3_WORKSPACE": str(workspace), "DEEPLABV3_HOME": home}
    assert "mIoU" in run_installed(COMMAND, "train", "--profile", profile_file, **environment)
