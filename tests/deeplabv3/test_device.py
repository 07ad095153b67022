"""Switches of the device hold for a while, and are put back."""

import warnings

import pytest
import torch

from deeplabv3.device import autocast, compute_settings


def switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("float32",), (False, False, False, False)),
        (("tf32",), (False, False, True, False)),
        (("bfloat16", True), (True, False, False, False)),
        (("tf32", True, True), (False, True, True, True)),  # cuDNN's trials choose by time: not deterministic
    ],
)
def test_switches_hold_inside_the_context(arguments, expected):
    before = switches()
    with compute_settings(*arguments):
        assert switches() == expected
        with compute_settings("float32"):
            assert switches() == (False, False, False, False)
        assert switches() == expected
    assert switches() == before


def test_switches_are_put_back_after_errors():
    before = switches()
    with pytest.raises(KeyError), compute_settings("tf32", True, True):
        raise KeyError
    assert switches() == before


def test_float32_is_never_tf32_matrix_products():
    """Logits are upsampled by matrix products, in whole float32 at every precision."""
    with compute_settings("tf32"):
        assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_autocast_gives_convolutions_the_precision(precision, dtype):
    with autocast(torch.device("cpu"), precision):
        assert torch.nn.Conv2d(1, 1, 1)(torch.zeros(1, 1, 2, 2)).dtype == dtype


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("precision", "native", "warned"), [("bfloat16", False, True), ("bfloat16", True, False), ("tf32", False, False)]
)
def test_emulated_bfloat16_is_warned_of(monkeypatch, gpu, precision, native, warned):
    """As on a T4 or a V100, where PyTorch says that it is supported, and on x86 without AVX512-BF16 or AMX."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": native})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with compute_settings(precision):
            pass
    expected = "bfloat16 seems to be emulated here, up to 11 times slower than float32; set 'precision' to float32."
    assert [str(one.message) for one in caught] == [expected] * warned
