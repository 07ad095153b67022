"""Checkpoints: one safetensors file, written atomically, with everything that a run needs to go on.

Tensors are named ``model.*`` and ``momentum.*``; the header holds the step, the run's settings as JSON, and a checksum
of all that (earlier checkpoints have none). Nothing is pickled, so a checkpoint from elsewhere cannot run code.
"""

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deeplabv3.config import ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.files import CHECKPOINT, atomic_path
from deeplabv3.model.deeplab import DeepLabV3


@dataclass
class Checkpoint:
    """State of a training run."""

    step: int  # training steps done
    seconds: float  # their time
    settings: dict  # of the run: model, training, data and seed, as JSON values
    model: dict[str, Tensor]  # the network's state dict
    momentum: dict[str, Tensor]  # SGD's, by parameter
    score: float | None = None  # mIoU in percent of a validation during training, where it is the best so far


def save_checkpoint(path: Path, checkpoint: Checkpoint, keep: int = 1) -> None:
    """Write ``checkpoint`` to ``path``; a reader sees the old file or the new one, never a part.

    The last ``keep`` are kept: the one before as ``NAME-1``, the one before that as ``NAME-2``. A full disk is a
    :class:`UserError` that names ``path``, and leaves all of them as they were.
    """
    tensors = {f"model.{name}": value.cpu().contiguous() for name, value in checkpoint.model.items()}
    tensors |= {f"momentum.{name}": value.cpu().contiguous() for name, value in checkpoint.momentum.items()}
    header = {"step": str(checkpoint.step), "seconds": str(checkpoint.seconds)}
    header["settings"] = json.dumps(checkpoint.settings)
    if checkpoint.score is not None:
        header["score"] = str(checkpoint.score)
    header["crc32"] = _checksum(header, tensors)
    with atomic_path(path) as partial:
        with open(partial, "wb") as file:
            file.write(save(tensors, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        for newer, older in reversed(list(pairwise(_paths(path, keep)))):
            if newer.exists():
                os.replace(newer, older)


def _checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of a header, but for the checksum in it, and of tensors in the CPU's memory."""
    checksum = zlib.crc32(repr(sorted(item for item in header.items() if item[0] != "crc32")).encode())
    for name, value in sorted(tensors.items()):
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return str(checksum)


def _is_finite(value: Tensor) -> bool:
    # One sum takes a thirtieth of the time of looking at every number; only the sum of large ones overflows.
    return bool(value.sum().isfinite() or value.isfinite().all())


def _paths(path: Path, count: int) -> list[Path]:
    return [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(1, count))]


def checkpoints(path: Path) -> list[Path]:
    """``path`` and the earlier ones that are kept beside it, those that exist, newest first."""
    return [file for file in _paths(path, 100) if file.exists()]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; a file that is damaged or something else is a :class:`UserError` that names it."""
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist; train first, or name another file.")
    try:
        with safe_open(path, framework="pt") as file:
            header: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        step, seconds, settings = int(header["step"]), float(header["seconds"]), json.loads(header["settings"])
        score = float(header["score"]) if "score" in header else None
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "momentum": {}}
        for name, value in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = value
        checksum = _checksum(header, tensors)
        if header.get("crc32", checksum) != checksum:
            raise SafetensorError("its content has another checksum than it was written with")
        if not all(map(_is_finite, tensors.values())):
            raise SafetensorError("it holds values that are not finite")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"checkpoint {path} is damaged or none ({error}); name another, or delete a run's: its training goes on "
            "from the one before, if there is one."
        ) from error
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is no checkpoint of this project; name a checkpoint.safetensors of a run.") from error
    return Checkpoint(step, seconds, settings, parts["model"], parts["momentum"], score)


def load_model(path: Path) -> tuple[DeepLabV3, Checkpoint]:
    """The network of a checkpoint, in evaluation mode: a checkpoint carries its configuration."""
    checkpoint = load_checkpoint(path)
    try:
        model = DeepLabV3(ModelConfig(**checkpoint.settings["model"]))
        model.load_state_dict(checkpoint.model)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"checkpoint {path} does not fit this version of the model ({reason}); train again.") from error
    return model.eval(), checkpoint


def read_header(path: Path) -> tuple[int, dict] | None:
    """Step and settings of the newest checkpoint of ``path`` that can be read, without its tensors; None without one.

    ``path`` is a checkpoint or the folder of a run. Training says what is wrong with a file that is skipped here.
    """
    for checkpoint in checkpoints(path / CHECKPOINT if path.is_dir() else path):
        try:
            with safe_open(checkpoint, framework="pt") as file:
                header = file.metadata()
            return int(header["step"]), dict(json.loads(header["settings"]))
        except (OSError, SafetensorError, TypeError, KeyError, ValueError):
            continue
    return None


def checkpoint_step(path: Path) -> int:
    """Step of the newest checkpoint of ``path`` that can be read, as :func:`read_header` finds it; 0 without one."""
    header = read_header(path)
    return header[0] if header else 0
