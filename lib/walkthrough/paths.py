"""Where the project's files are.

``DEEPLABV3_HOME`` names the checkout (notebooks and the paper's tables) when the package is not installed from it;
``DEEPLABV3_WORKSPACE`` the folder for everything that is made or downloaded, by default ``data/`` in the checkout.
"""

import os
from pathlib import Path

from deeplabv3.errors import UserError
from deeplabv3.files import CHECKPOINT


def home() -> Path:
    """The checkout: the folder with ``notebooks/`` and ``data/paper/``."""
    folder = Path(os.environ.get("DEEPLABV3_HOME") or Path(__file__).resolve().parents[2])
    if not (folder / "data" / "paper").is_dir():
        raise UserError(
            f"{folder} is no checkout of the walkthrough; set DEEPLABV3_HOME to the folder with notebooks/."
        )
    return folder


def find_checkpoint(named: Path | str) -> Path:
    """The checkpoint that a file, a run's folder or a run's name (or the hash at its end) stands for.

    A file that does not exist is returned as it is: whoever reads it says so.
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


def workspace() -> Path:
    """The folder below which data sets, runs, records and the executed walkthrough are kept."""
    named = os.environ.get("DEEPLABV3_WORKSPACE")
    return Path(named) if named else home() / "data"
