"""Environment of a measurement: device, threads, versions, commit and peak memory."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version

from walkthrough import paths


def reset_peak_memory() -> None:
    """Restart :func:`peak_memory_mib` on a GPU; on the CPU it counts since the process began."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mib() -> int | None:
    """Peak memory of this process in MiB: on the GPU if there is one, else resident; None if unknown."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)


def environment() -> dict:
    """Device, threads, versions and commit of this process, as a record states them."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({os.cpu_count()} cores)"
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
    }


@lru_cache
def _commit() -> str:
    """Commit of the checkout, marked ``+`` if files were changed; ``unknown`` outside git."""
    try:
        git = ["git", "-C", str(paths.home())]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
