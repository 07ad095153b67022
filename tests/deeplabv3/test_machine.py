"""Cores and memory of this process: in containers and batch jobs, by cgroups of both versions, and among processes."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from deeplabv3 import machine
from deeplabv3.data import voc
from deeplabv3.machine import available_cpus, available_memory


@pytest.fixture
def cgroups(tmp_path, monkeypatch) -> Path:
    """Folder of the cgroups, none of which has a limit, on a machine with 16 cores and 1,024,000 bytes free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_024_000))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    for name in ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE", machine.LOCAL_PROCESSES):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cgroup"


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_machine_without_limits_is_whole(cgroups):
    assert (available_cpus(), available_memory()) == (16, 1_024_000)
    write(cgroups.parent, own="0::/user.slice")
    write(cgroups / "user.slice", cpu__max="max 100000", memory__max="max", memory__current=9)
    assert (available_cpus(), available_memory()) == (16, 1_024_000)


def test_affinity_counts_instead_of_all_cores(cgroups, monkeypatch):
    """``taskset -c 0,5``, or SLURM's --cpus-per-task."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    assert available_cpus() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS
    assert available_cpus() == 64


@pytest.mark.parametrize("own", ["", "0::/", "0::/docker/a1"])
def test_container_limits_are_those_of_root(cgroups, own):
    """The machine's name of the group, if the container sees it, is no folder inside."""
    write(cgroups.parent, own=own)
    write(cgroups, cpu__max="150000 100000", memory__max=600_000, memory__current=100_000)
    assert (available_cpus(), available_memory()) == (2, 500_000)


def test_parents_of_a_cgroup_limit_it(cgroups):
    """SLURM's limits are the job's, some levels above the process."""
    write(cgroups.parent, own="0::/slurm/job_7/step_0/task_0")
    write(cgroups / "slurm/job_7", cpu__max="400000 100000", memory__max=500_000, memory__current=400_000)
    write(cgroups / "slurm/job_7/step_0", cpu__max="800000 100000", memory__max=900_000, memory__current=300_000)
    write(cgroups / "slurm/job_8", cpu__max="100000 100000", memory__max=1, memory__current=0)
    assert (available_cpus(), available_memory()) == (4, 100_000)


def test_version_1_cgroups_limit_by_controller(cgroups):
    own = "9:name=systemd:/x\n4:memory:/job_7/step_0\n2:cpu,cpuacct:/pod\n3:cpuset:/x\n0::/x"
    write(cgroups.parent, own=own)
    unlimited = 9_223_372_036_854_771_712
    write(cgroups / "memory", memory__limit_in_bytes=unlimited, memory__usage_in_bytes=900)
    write(cgroups / "memory/job_7", memory__limit_in_bytes=300_000, memory__usage_in_bytes=100_000)
    write(cgroups / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100_000)
    write(cgroups / "cpu/pod", cpu__cfs_quota_us=50_000, cpu__cfs_period_us=100_000)
    assert (available_cpus(), available_memory()) == (1, 200_000)


@pytest.mark.parametrize(
    ("own", "group", "limit", "usage", "stat"),
    [
        ("0::/", "", "memory.max", "memory.current", "anon 1\ninactive_file 300000\nactive_file 2"),
        (
            "4:memory:/", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
            "inactive_file 7\ntotal_inactive_file 300000",
        ),
    ],
)  # fmt: skip
def test_cached_files_count_as_free(cgroups, own, group, limit, usage, stat):
    """Reading a data set fills a job's memory with its files."""
    write(cgroups.parent, own=own)
    write(cgroups / group, **{limit: 600_000, usage: 590_000, "memory.stat": stat})
    assert available_memory() == 310_000


@pytest.mark.parametrize(
    ("variables", "share"),
    [
        ({"LOCAL_WORLD_SIZE": "8"}, 8),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3"}, 4),
        ({"SLURM_STEP_TASKS_PER_NODE": "4", "LOCAL_WORLD_SIZE": "4"}, 4),
        ({"DEEPLABV3_LOCAL_PROCESSES": "5"}, 5),
    ],
)
def test_memory_is_shared_by_local_processes(cgroups, monkeypatch, variables, share):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert available_memory() == 1_024_000 // share


def test_allowance_is_a_quarter_of_free_memory(cgroups):
    assert voc.allowance() == 256_000


def test_exhausted_limit_leaves_no_memory(cgroups):
    write(cgroups, memory__max=1_000, memory__current=1_500)
    assert available_memory() == 0
