"""What a record says of the machine: device, threads, versions, commit and the most memory that was held."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version

import torch

from walkthrough import paths

try:
    import resource
except ImportError:  # Windows has none
    resource = None


def reset_peak_memory() -> None:
    """Begin :func:`peak_memory_mib` anew, where the device allows it: on a GPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mib() -> int | None:
    """The most memory in MiB that this process held: on the GPU where there is one, else resident since it began.

    None where the system does not say.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)


def environment() -> dict:
    """Device, threads, versions and commit that a record was measured with."""
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
    """The commit of the checkout, marked ``+`` when files were changed, or ``unknown`` outside git."""
    try:
        git = ["git", "-C", str(paths.home())]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
