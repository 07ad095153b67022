"""Two gloo processes are one process with the same global batch: same losses, same weights, same statistics."""

import csv
import os
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
from walkthrough.records.store import read_counts


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


def test_synchronized_batch_norm_keeps_digits_and_compiles(tmp_path):
    """Its variance is right where the mean is a thousand times as large, and no part of it leaves the graph."""
    torch.manual_seed(0)
    features = torch.randn(4, 3, 9, 9) + 1000
    plain, synchronized = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    distributed.dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        distributed.convert_sync_batchnorm(synchronized, ProcessGroup(0, 2))
        expected, found = plain(features), synchronized(features)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(synchronized.running_var, plain.running_var, rtol=1e-5, atol=0)
        graphs = torch._dynamo.explain(synchronized)(features).graph_count
    finally:
        distributed.dist.destroy_process_group()
    assert graphs == 1


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
    shared = read_counts(record, record.read_bytes())
    record.with_suffix(".json").unlink()
    record.unlink()
    again = subprocess.run(
        [sys.executable, "-m", "walkthrough", *map(str, arguments)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as torchrun's: threads change the order of summation
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    np.testing.assert_array_equal(read_counts(record, record.read_bytes()), shared)
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


@pytest.fixture
def launched(monkeypatch) -> dict:
    """A process of two with GPUs, as a launcher starts it; what it chooses, by the names of PyTorch's functions."""
    chosen = {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: chosen.update(set_device=number))
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(distributed.dist, name, lambda *_, name=name, **options: chosen.update({name: options}))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    return chosen


@pytest.mark.parametrize(
    ("local_rank", "gpus", "launcher", "gpu"),
    [
        ("3", 4, {"TORCHELASTIC_RUN_ID": "1"}, 3),
        ("3", 4, {}, 3),
        ("3", 1, {}, 0),  # srun --gpus-per-task 1: each process sees its own GPU alone
        (None, 1, {}, 0),  # a pod for each process
    ],
)
def test_process_takes_its_own_gpu(launched, monkeypatch, local_rank, gpus, launcher, gpu):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name, value in (launcher | ({"LOCAL_RANK": local_rank} if local_rank else {})).items():
        monkeypatch.setenv(name, value)
    with init_distributed():
        pass
    assert launched["set_device"] == gpu
    assert launched["init_process_group"]["device_id"] == torch.device("cuda", gpu)


@pytest.mark.parametrize(("gpus", "launcher"), [(1, {"TORCHELASTIC_RUN_ID": "1"}), (2, {})], ids=["torchrun", "srun"])
def test_more_processes_than_gpus_are_refused(launched, monkeypatch, gpus, launcher):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for name, value in (launcher | {"LOCAL_RANK": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"process 3 was started on .* GPUs; lower"), init_distributed():
        pass
    assert not launched


def test_machines_without_shared_folder_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessGroup, "all_gather", lambda self, step: [step, step + 100])
    with pytest.raises(UserError, match=r"find different checkpoints in .*all machines share"):
        Trainer(DeepLabV3(small_config()), data, TrainingConfig(4, 2, 33), tmp_path, {}).run()
