"""Sentences for errors that no module has worded, and None for defects."""

import errno
import os
import pickle

import pytest
import torch
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


class KilledWorker(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        os._exit(1)


def test_dead_data_worker_names_the_setting():
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(KilledWorker(), num_workers=1))
    assert "lower 'runtime.num_workers'" in explain(caught.value)


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
