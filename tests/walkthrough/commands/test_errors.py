"""Sentences for errors that no module has worded, and None for defects."""

import errno
import os
import pickle
import signal

import pytest
import torch
from torch._inductor.exc import InductorError, InvalidCxxCompiler, TritonMissing
from torch.utils.data import DataLoader, Dataset

from deeplabv3.errors import UserError
from walkthrough.commands.errors import explain


def test_user_error_explains_itself():
    assert explain(UserError("setting 'lr' is -1.")) == "setting 'lr' is -1."


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "make room there or name another place"),
        (errno.EDQUOT, "make room there or name another place"),
        (errno.EACCES, "name another place, or have its permissions changed"),
        (errno.EROFS, "name another place, or have its permissions changed"),
        (errno.ENOENT, "correct the path or name another"),
        (errno.EIO, "correct the path or name another"),
    ],
)
def test_os_error_names_file_and_remedy(number, remedy):
    sentence = explain(OSError(number, os.strerror(number), "runs/a/log.csv"))
    assert sentence.startswith(f"runs/a/log.csv: {os.strerror(number)}; {remedy}")


def test_full_disk_without_a_file_name():
    assert explain(OSError(errno.ENOSPC, "No space left on device")).startswith("No space left on device; make room")


def test_out_of_memory_names_the_settings():
    error = pickle.loads(pickle.dumps(torch.OutOfMemoryError("CUDA out of memory")))  # as a worker process sends it
    sentence = explain(error)
    for name in ("training.grad_accum_steps", "training.batch_size", "training.crop_size", "runtime.eval_batch_size"):
        assert repr(name) in sentence


class BadWorker(Dataset):
    """Data whose worker dies, or fails by itself."""

    def __init__(self, number: int | None):
        self.number = number

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        if self.number is None:
            raise RuntimeError("an error of its own")
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_dead_data_worker_names_the_remedies(number):
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(BadWorker(number), num_workers=1))
    sentence = explain(caught.value)
    assert "--shm-size" in sentence and "lower 'runtime.num_workers'" in sentence


def test_data_workers_own_error_keeps_its_text():
    with pytest.raises(RuntimeError, match="an error of its own") as caught:
        list(DataLoader(BadWorker(None), num_workers=1))
    assert explain(caught.value) is None


@pytest.mark.parametrize(
    "error",
    [
        InvalidCxxCompiler(),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        TritonMissing(None),
    ],
    ids=lambda error: type(error).__name__,
)
def test_missing_compiler_names_the_setting(error):
    """On the CPU, on a GPU, and on a GPU without Triton; torch.compile wraps them."""
    sentence = explain(InductorError(error, None))
    assert "install g++, or give --set runtime.compile=false" in sentence and "\n" not in sentence


@pytest.mark.parametrize(
    ("module", "extra"),
    [("papermill", "notebooks"), ("matplotlib.pyplot", "notebooks"), ("onnx", "export"), ("ray", "ray")],
)
def test_missing_package_names_its_extra(module, extra):
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert f"pip install -e '.[{extra}]'" in explain(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError("cannot identify image file"),
        ProcessLookupError(errno.ESRCH, "No such process"),
        ModuleNotFoundError("No module named 'deeplabv3.model.atros'", name="deeplabv3.model.atros"),
    ],
)
def test_defect_has_no_sentence(error):
    assert explain(error) is None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_want_of_memory_names_the_remedies(error):
    sentence = explain(error)
    assert "memory does not suffice" in sentence and "--tile 1025" in sentence and "'training.batch_size'" in sentence


def test_old_onnx_runtime_is_to_be_upgraded():
    """Its error comes after the long export, and from a class of its own."""
    error = type("Fail", (Exception,), {})("[ONNXRuntimeError] : Unsupported model IR version: 13, max supported: 10")
    assert "upgrade it: pip install -U onnxruntime" in explain(error)
