"""Two gloo processes are one process with the same global batch: same losses, same weights, same statistics."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import team_run
import torch

from deeplabv3.training.checkpoint import load_checkpoint


def torchrun(*arguments: object, processes: int = 2, restarts: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command += ["--max-restarts", restarts, *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)


def losses(folder: Path) -> list[float]:
    with open(folder / "log.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture
def alone(voc_root, tmp_path) -> Path:
    """The run of one process."""
    team_run.main(str(voc_root), str(tmp_path / "alone"))
    return tmp_path / "alone"


def same_run(one: Path, other: Path) -> None:
    """Equal to rounding: losses, weights and batch norm's running statistics."""
    np.testing.assert_allclose(losses(one), losses(other), rtol=2e-4)
    first, second = (load_checkpoint(folder / "checkpoint.safetensors").model for folder in (one, other))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=2e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_two_processes_are_one(voc_root, alone, tmp_path):
    result = torchrun(team_run.__file__, voc_root, tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert len(losses(tmp_path / "two")) == 8
    same_run(alone, tmp_path / "two")


def test_a_process_that_dies_is_reported_and_the_run_goes_on(voc_root, alone, tmp_path):
    """Process 1 is killed in step 4; the same command goes on from the checkpoint, as if nothing had happened."""
    folder = tmp_path / "dying"
    folder.mkdir()
    broken = torchrun(team_run.__file__, voc_root, folder, 1, 1, 4)
    assert broken.returncode != 0
    assert "SIGKILL" in broken.stderr
    step = load_checkpoint(folder / "checkpoint.safetensors").step
    assert 0 < step <= 5
    resumed = torchrun(team_run.__file__, voc_root, folder, 1, 1, 4)
    assert resumed.returncode == 0, resumed.stderr
    same_run(alone, folder)


def test_the_command_trains_and_evaluates_in_two_processes(profile_file, tmp_path, workspace):
    """Counts of two shares add up exactly; one process prints."""
    arguments = ("train", "--profile", profile_file, "--validate-every", "2")
    result = torchrun("-m", "deeplabv3", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("mIoU") == 1
    (record,) = (workspace / "records").glob("*/*/eval-*.npz")
    shared = np.load(record)["confusion"]
    record.with_suffix(".json").unlink()
    record.unlink()
    again = subprocess.run(
        [sys.executable, "-m", "deeplabv3", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    np.testing.assert_array_equal(np.load(record)["confusion"], shared)
    assert len(list((workspace / "runs").glob("*/*/best.safetensors"))) == 1
    assert not list((workspace / "records").glob("*/*/partial-*"))


def test_more_processes_than_the_batch_has_pictures_are_refused_in_one_sentence(profile_file):
    result = torchrun("-m", "deeplabv3", "train", "--profile", profile_file, processes=3)
    assert result.returncode != 0
    assert "setting 'batch' is 2; 3 processes" in result.stderr
