"""Comparison of what a command leaves on disk after kills with what it leaves undisturbed; for ``kills.py``."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from deeplabv3.model.checkpoint import load_checkpoint

MEASURED = {"seconds", "images_per_second", "peak_memory_mib", "minutes"}
"""Values of records and of the walkthrough's state that differ between two runs of one command."""

UNCOMPARED = re.compile(r"\.lock$|/tensorboard/|^home/")
"""Files that hold no result: locks bind nobody once their process is gone, and TensorBoard's have times in them."""


def contents(folder: Path) -> dict[str, Any]:
    """Return what may not differ of every file below ``folder``, by the file's name: its bytes, or values in it."""
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: content(path) for name, path in files.items() if not UNCOMPARED.search(name)}


def content(path: Path) -> Any:
    """Return what may not differ of a file; a damaged one is a ``UserError`` or a ``ValueError``."""
    if path.suffix == ".safetensors":
        checkpoint = load_checkpoint(path)
        tensors = {name: value.numpy().tobytes() for name, value in (checkpoint.model | checkpoint.momentum).items()}
        return checkpoint.step, checkpoint.settings, tensors
    if path.suffix == ".json":
        return without_measured(json.loads(path.read_text()))
    if path.suffix == ".csv":
        rows = csv.DictReader(path.read_text().splitlines())
        return [{name: value for name, value in row.items() if name not in MEASURED} for row in rows]
    if path.suffix == ".ipynb":
        return [(cell.source, cell.get("outputs")) for cell in nbformat.read(path, as_version=4).cells]
    if path.name == "summary.md":
        return "a page, with minutes in it"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_measured(one) for key, one in value.items() if key not in MEASURED}
    return value


def differences(whole: dict[str, Any], resumed: dict[str, Any]) -> Iterator[str]:
    """Files that are missing, left over or other ones after a resumed command."""
    yield from (f"{name} is missing" for name in whole.keys() - resumed.keys())
    yield from (f"{name} is left over" for name in resumed.keys() - whole.keys())
    yield from (f"{name} differs" for name in whole.keys() & resumed.keys() if whole[name] != resumed[name])
