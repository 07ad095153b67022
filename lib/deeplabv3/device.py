"""Settings of a device: precision of convolutions, cuDNN's choice of algorithms, equal bits for equal runs."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which the network's features have ``precision``; see :data:`deeplabv3.config.PRECISIONS`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def has_bfloat16() -> bool:
    """True where the GPU, or else the (x86) CPU, computes in bfloat16; elsewhere float32 is faster or not measured."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@contextmanager
def compute_settings(precision: str, one_size: bool = False, deterministic: bool = False) -> Iterator[None]:
    """Set PyTorch's switches for CUDA, and put them back at the end; the CPU has none of them.

    Args:
        precision: "float32" is IEEE's here, where PyTorch's own default on a GPU is TF32 in every convolution
        one_size: all batches have one size, so that cuDNN's trials of algorithms, seconds a size, are made once
        deterministic: equal runs on equal devices give equal bits, more slowly
    """
    if precision == "bfloat16" and not has_bfloat16():
        text = "bfloat16 seems to be emulated here, up to 11 times slower than float32; set 'precision' to float32."
        warnings.warn(text, stacklevel=3)
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    strict = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        # cuBLAS reads it when it is first used, and refuses to be deterministic without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn.benchmark, cudnn.deterministic = one_size and not deterministic, deterministic
    cudnn.allow_tf32 = precision == "tf32"
    if deterministic != strict:  # the first call takes a second, for what it imports
        torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before
        if deterministic != strict:
            torch.use_deterministic_algorithms(strict)
