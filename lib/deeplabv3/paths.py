"""Where the project's files are.

``DEEPLABV3_HOME`` names the checkout (notebooks and the paper's tables) when the package is not installed from it;
``DEEPLABV3_WORKSPACE`` the folder for everything that is made or downloaded, by default ``data/`` in the checkout.
"""

import os
from pathlib import Path

from deeplabv3.errors import UserError


def home() -> Path:
    """The checkout: the folder with ``notebooks/`` and ``data/paper/``."""
    folder = Path(os.environ.get("DEEPLABV3_HOME") or Path(__file__).resolve().parents[2])
    if not (folder / "data" / "paper").is_dir():
        raise UserError(
            f"{folder} is no checkout of the walkthrough; set DEEPLABV3_HOME to the folder with notebooks/."
        )
    return folder


def workspace() -> Path:
    """The folder below which data sets, runs, records and the executed walkthrough are kept."""
    named = os.environ.get("DEEPLABV3_WORKSPACE")
    return Path(named) if named else home() / "data"
