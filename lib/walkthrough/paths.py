"""Folders of the project: the checkout and the workspace.

``DEEPLABV3_HOME`` names the checkout if the package is not installed from it, ``DEEPLABV3_WORKSPACE`` the workspace.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deeplabv3.errors import UserError
from deeplabv3.files import CHECKPOINT


def home() -> Path:
    """Return the checkout: the folder with ``notebooks/`` and the paper's tables in ``data/paper/``."""
    if not is_checkout():
        raise UserError(
            f"{_home()} is no checkout of the walkthrough; set DEEPLABV3_HOME to the folder with notebooks/."
        )
    return _home()


def is_checkout() -> bool:
    """Return whether there is a checkout; predict, export, train and evaluate need none."""
    return (_home() / "data" / "paper").is_dir()


def _home() -> Path:
    return Path(os.environ.get("DEEPLABV3_HOME") or Path(__file__).resolve().parents[2])


def find_checkpoint(named: Path | str) -> Path:
    """Return the checkpoint of a run, named by its file, its folder, its name or the hash at the end of its name.

    A missing file is returned unchanged; reading it raises the error.
    """
    path = Path(named)
    if path.is_dir():
        return path / CHECKPOINT
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    runs = workspace() / "runs"
    found = [file for file in sorted(runs.glob(f"*/*/{CHECKPOINT}")) if f"-{file.parent.name}".endswith(f"-{named}")]
    if not found:
        raise UserError(f"{named} is neither a file nor a run below {runs}; name a checkpoint or a run.")
    if len(found) > 1:
        raise UserError(f"there are {len(found)} runs {named} ({', '.join(map(str, found))}); name one of the files.")
    return found[0]


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables, such as ``DEEPLABV3_WORKSPACE``, here and in processes that start meanwhile."""
    before = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(before)


def shipped_records() -> Path | None:
    """Return the folder of the records that come with the project; None without a checkout."""
    return _home() / "data" / "records" if is_checkout() else None


def local_records() -> Path:
    """Return the folder of the records that are made here, which is never that of :func:`shipped_records`.

    It is ``records/`` in the workspace, or ``local_records/`` where the workspace is the checkout's ``data/``.
    """
    folder, shipped = workspace() / "records", shipped_records()
    return workspace() / "local_records" if shipped and folder.resolve() == shipped.resolve() else folder


def workspace() -> Path:
    """Return the folder of data sets, runs, records and executed notebooks.

    By default it is ``data/`` in the checkout, without one in the working folder.
    """
    named = os.environ.get("DEEPLABV3_WORKSPACE")
    return Path(named) if named else (home() if is_checkout() else Path()) / "data"
