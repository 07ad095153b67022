"""Cores and memory that this process may use, in a container or a batch job too, where the machine has more of both."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

LOCAL_PROCESSES = "DEEPLABV3_LOCAL_PROCESSES"
"""Environment variable: how many processes of a sweep share this machine's memory."""

ALL_CORES = "DEEPLABV3_ALL_CORES"
"""Environment variable: cores of a machine of which this process has a share."""


def available_cpus() -> int:
    """Cores by this process's affinity (``taskset``, SLURM) and the CPU quotas of its cgroups, rounded up."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _cgroups("cpu"):
        v1 = f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
        quota, _, period = (_read(group / "cpu.max") or v1).partition(" ")
        if quota.isdecimal() and period.isdecimal():  # else "max", or -1
            cpus = min(cpus, max(1, math.ceil(int(quota) / int(period))))
    return cpus


def available_memory() -> int:
    """Free bytes of the machine or of a cgroup, whichever is less, shared out evenly among the job's processes here."""
    free = psutil.virtual_memory().available
    v2, v1 = ("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
    for group in _cgroups("memory"):
        for limit, usage, prefix in (v2, v1):
            if (allowed := _read(group / limit)).isdecimal():
                used = int(_read(group / usage) or 0)
                # Files that were read and not used since give way, as psutil counts on too.
                cached = re.search(rf"^{prefix}inactive_file (\d+)$", _read(group / "memory.stat"), re.MULTILINE)
                free = min(free, int(allowed) - used + int(cached[1] if cached else 0))
    tasks = re.match(r"\d+", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    launched = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(tasks[0] if tasks else 1))  # torchrun's or srun's
    return max(0, free) // (launched * int(os.environ.get(LOCAL_PROCESSES, 1)))


def _cgroups(controller: str) -> Iterator[Path]:
    """Folders of the cgroups, v2 or v1, that limit this process with a controller: its own and their parents."""
    for line in (_read(OWN_CGROUPS) or "0::/").splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers or controller in controllers.split(","):  # v2 has one line, with none
            root, own = CGROUPS / controller if controllers else CGROUPS, PurePosixPath(name)
            # A container that sees the machine's name of its group has no such folder, but its own group's as the root.
            yield from (root / group.relative_to("/") for group in (own, *own.parents))


def _read(path: Path) -> str:
    """Content of a file, without the space around it; empty if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
