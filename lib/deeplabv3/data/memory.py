"""How much memory decoded pictures may take."""

import os
from pathlib import Path

SHARE = 0.25
"""The part of the free memory that decoded pictures may take: training wants the rest, and so may other programs."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def allowance() -> int:
    """Bytes that this process may fill with decoded pictures; 0 where the system does not say what is free."""
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return 0
    # A container sees the memory of the whole machine there, and is killed at its own limit.
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    except (OSError, ValueError):  # no such limit
        pass
    # The processes that torchrun starts on one machine each have their own copy.
    return int(SHARE * free) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
