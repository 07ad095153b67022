"""Sentences for errors that a user can mend and that no module has worded."""

import errno
import os
import sys

from deeplabv3.errors import UserError, is_out_of_memory

EXTRAS = {
    **dict.fromkeys(
        ("ipywidgets", "jupyter_client", "matplotlib", "nbconvert", "nbformat", "pandas", "papermill"), "notebooks"
    ),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
    "ray": "ray",
    "tensorboard": "tensorboard",
}
"""Packages that not every command needs, and the extra of pyproject.toml that installs them."""


NO_COMPILER = ("No working C++ compiler", "Failed to find C compiler", "Cannot find a working triton installation")
"""Words of torch.compile's errors on the CPU, on a GPU, and on a GPU without Triton."""


OLD_RUNTIME = "Unsupported model IR version"
"""Words of ONNX Runtime's error for a file that is newer than it."""

OUT_OF_MEMORY = (
    "the computer's memory does not suffice; for training lower 'training.batch_size', 'training.crop_size' or "
    "'runtime.num_workers'; for evaluate and predict give --tile 1025. What is done is kept."
)


def explain(error: BaseException) -> str | None:
    """One sentence that names what is at fault and the remedy; None for a defect, whose traceback is needed."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").partition(".")[0]) in EXTRAS:
        extra = EXTRAS[package]
        return f"package {package} is not installed; install the extra {extra!r}: pip install -e '.[{extra}]'."
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if OLD_RUNTIME in str(error):
        return f"ONNX Runtime is older than the exporter ({error}); upgrade it: pip install -U onnxruntime."
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError):
        return _explain_torch_error(error)
    return None


def _explain_os_error(error: OSError) -> str | None:
    name = os.fspath(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else ""
    where = f"{os.fsdecode(name)}: " if name else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}{error.strerror}; make room there or name another place, and give the same command again."
    if not where or not error.strerror:
        return None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}{error.strerror}; name another place, or have its permissions changed."
    return f"{where}{error.strerror}; correct the path or name another."


def _explain_torch_error(error: RuntimeError) -> str | None:
    torch = sys.modules.get("torch")  # its errors exist only where it is imported
    if torch and isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU's memory does not suffice; for training raise 'training.grad_accum_steps', or lower "
            "'training.batch_size' or 'training.crop_size'; for evaluation lower 'runtime.eval_batch_size'; for "
            "predict lower '--max-size'. What is done is kept."
        )
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if "DataLoader worker (pid" in str(error):  # an error of its own has other words, which are kept
        return (
            "a data worker died, often for want of memory, or of shared memory in a container, which --shm-size=2g or "
            "--ipc=host gives it; else lower 'runtime.num_workers'. The same command goes on."
        )
    if any(words in str(error) for words in NO_COMPILER):
        reason = str(error).strip().partition("\n")[0]
        return f"torch.compile finds no compiler ({reason}); install g++, or give --set runtime.compile=false."
    return None
