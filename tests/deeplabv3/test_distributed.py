"""Two gloo processes are one process with the same global batch: same losses, same weights, same statistics."""

import csv
import subprocess
import sys
from pathlib import Path

import ddp_run
import numpy as np
import pytest
import torch
from conftest import small_config

from deeplabv3 import distributed
from deeplabv3.config import TrainingConfig
from deeplabv3.distributed import ProcessGroup, init_distributed
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.trainer import Trainer


def torchrun(*arguments: object, processes: int = 2, restarts: int = 0) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    command += ["--max-restarts", restarts, *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)


def losses(folder: Path) -> list[float]:
    with open(folder / "log.csv") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture
def single(voc_root, tmp_path) -> Path:
    """The run of one process."""
    ddp_run.main(str(voc_root), str(tmp_path / "single"))
    return tmp_path / "single"


def same_run(folder: Path, other: Path) -> None:
    """Equal to rounding: losses, weights and batch norm's running statistics."""
    np.testing.assert_allclose(losses(folder), losses(other), rtol=2e-4)
    first, second = (load_checkpoint(path / "checkpoint.safetensors").model for path in (folder, other))
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=2e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_two_processes_equal_one(voc_root, single, tmp_path):
    result = torchrun(ddp_run.__file__, voc_root, tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert len(losses(tmp_path / "two")) == 8
    same_run(single, tmp_path / "two")


def test_synchronized_bfloat16_statistics_are_float32(tmp_path):
    """As PyTorch's batch norm has it: a sum in bfloat16 would lose most of the pixels."""
    features = torch.randn(2, 3, 65, 65).bfloat16() + 5
    plain, synchronized = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    distributed.dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        distributed.convert_sync_batchnorm(synchronized, ProcessGroup(0, 2))
        expected, found = plain(features), synchronized(features)
    finally:
        distributed.dist.destroy_process_group()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(synchronized.running_mean, plain.running_mean)
    torch.testing.assert_close(synchronized.running_var, plain.running_var)


def test_killed_process_is_reported_and_run_resumes(voc_root, single, tmp_path):
    """Process 1 is killed in step 4; the same command resumes from the checkpoint."""
    folder = tmp_path / "dying"
    folder.mkdir()
    broken = torchrun(ddp_run.__file__, voc_root, folder, 1, 1, 4)
    assert broken.returncode != 0
    assert "SIGKILL" in broken.stderr
    step = load_checkpoint(folder / "checkpoint.safetensors").step
    assert 0 < step <= 5
    resumed = torchrun(ddp_run.__file__, voc_root, folder, 1, 1, 4)
    assert resumed.returncode == 0, resumed.stderr
    same_run(single, folder)


def test_command_trains_and_evaluates_in_two_processes(profile_file, tmp_path, workspace):
    """Counts of two shares add up exactly; one process prints."""
    arguments = ("train", "--profile", profile_file, "--validate-every", "2")
    result = torchrun("-m", "walkthrough", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("mIoU") == 1
    (record,) = (workspace / "records").glob("*/*/eval-*.npz")
    shared = np.load(record)["confusion"]
    record.with_suffix(".json").unlink()
    record.unlink()
    again = subprocess.run(
        [sys.executable, "-m", "walkthrough", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
    np.testing.assert_array_equal(np.load(record)["confusion"], shared)
    assert len(list((workspace / "runs").glob("*/*/best.safetensors"))) == 1
    assert not list((workspace / "records").glob("*/*/partial-*"))


def test_more_processes_than_batch_size_are_refused(profile_file):
    result = torchrun("-m", "walkthrough", "train", "--profile", profile_file, processes=3)
    assert result.returncode != 0
    assert "setting 'batch_size' is 2; 3 processes" in result.stderr


def test_unreadable_image_ends_all_processes(profile_file, tmp_path):
    """The others wait for its gradients, and are ended by torchrun."""
    (tmp_path / "VOC2012" / "JPEGImages" / "image_0.jpg").write_bytes(b"no image")
    result = torchrun("-m", "walkthrough", "train", "--profile", profile_file)
    assert result.returncode != 0
    assert "image_0.jpg cannot be read" in result.stderr


def test_failed_process_does_not_wait_for_others(monkeypatch):
    """NCCL ends a group only when all its processes come, and those that wait for this one never do."""
    called = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: called.append("destroyed"))
    with pytest.raises(UserError), init_distributed():
        raise UserError("an image cannot be read.")
    assert called == []
    with init_distributed() as processes:
        assert processes == ProcessGroup(0, 2)
    assert called == ["destroyed"]


def test_machines_without_shared_folder_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda self, step: [step, step + 100])
    with pytest.raises(UserError, match=r"find different checkpoints in .*all machines share"):
        Trainer(DeepLabV3(small_config()), data, TrainingConfig(4, 2, 33), tmp_path, {}).run()
