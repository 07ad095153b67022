"""Environment of a measurement: device, threads, versions, commit and peak memory."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import version

from deeplabv3.errors import UserError
from deeplabv3.machine import ALL_CORES, available_cpus
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


def environment(precision: str = "float32") -> dict:
    """Device, threads, versions and commit of this process, as a record states them; ``precision`` is the network's."""
    import torch

    from deeplabv3.device import compute_settings

    cores = os.environ.get(ALL_CORES) or available_cpus()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({cores} cores)"
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    with compute_settings(precision):
        gpu = gpu_environment()
    return {
        "device": device,
        "cpu": processor(),
        "threads": torch.get_num_threads(),
        **gpu,
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
    }


def processor() -> str:
    """Name of the CPU, such as ``AMD EPYC 7B13``."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def gpu_environment() -> dict:
    """CUDA, cuDNN, TF32 (in convolutions), and from nvidia-smi driver, clocks and power limit; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    cudnn = torch.backends.cudnn
    return {"cuda": torch.version.cuda, "cudnn": cudnn.version(), "tf32": cudnn.allow_tf32, **_nvidia_smi()}


def _nvidia_smi() -> dict[str, str]:
    """Values of the current GPU by nvidia-smi, with units; empty where the program is missing or fails."""
    import torch

    names = ("driver_version", "clocks.sm", "clocks.max.sm", "power.limit")
    gpu = f"--id=GPU-{torch.cuda.get_device_properties().uuid}"
    command = ["nvidia-smi", gpu, f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, map(str.strip, answer.split(",")), strict=False))


@lru_cache
def _commit() -> str:
    """Commit of the checkout, marked ``+`` if files were changed; ``unknown`` outside git."""
    try:
        git = ["git", "-C", str(paths.home())]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (UserError, OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
