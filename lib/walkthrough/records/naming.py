"""Names of runs and evaluations: a label and a hash of everything that determines the result.

A run ``aspp-resnet101-os16-0123456789ab`` is named by its head, backbone and output stride, and by the hash of its
identity (:func:`walkthrough.records.run.identity_of`). Settings at their defaults are left out of the hash. How a run
is computed (``runtime``: workers, compile, …) is not part of it. An evaluation ``eval-0123456789ab`` is named by its
strategy and the images.
"""

import hashlib
import json
import os
import re
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from deeplabv3.config import EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.errors import require
from walkthrough import paths

RESULTS_VERSION = 1
"""Part of every run's name: raise it when a change of the code changes results, so that earlier ones are not used."""

SOURCE = "DEEPLABV3_RECORDS"
LOCAL, SHIPPED = "local", "shipped"
"""Sources of records: this machine, and the project. The environment variable leaves one of them."""

ARCHIVE = re.compile(r"\.\d{8}-\d{6}$")
"""End of the name of a run's folder that ``--no-resume`` has put aside: the time."""

_FIRST_STRATEGY = ("output_stride", "scales", "flip", "crop_size", "padding")
"""Settings that are always in an evaluation's name; later ones are in it where they differ from their default."""

DEFAULTS = {
    "model": json.loads(json.dumps(asdict(ModelConfig()))),
    "training": json.loads(json.dumps(asdict(TrainingConfig()))),
}
"""Values of the settings that a record does not state because they are newer than it."""


def short_hash(values: dict) -> str:
    """Twelve hexadecimal digits that name ``values`` (JSON values only)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def run_name(identity: dict) -> str:
    """Name of the run with this ``identity``: its label and hash."""
    config = ModelConfig(**identity["model"])
    head = f"block{config.last_block}" if config.head == "cascade" else config.head
    # Without settings at their defaults: a setting that is added later, with a default that changes nothing, leaves
    # the names of earlier runs as they are.
    named = identity | {
        part: {key: value for key, value in identity[part].items() if value != defaults.get(key)}
        for part, defaults in DEFAULTS.items()
    }
    return f"{head}-{config.backbone}-os{config.output_stride}-{short_hash(named)}"


def recipe_name(identity: dict) -> str:
    """Name of the run's recipe: that of the run with seed 0, so one name for all seeds."""
    return run_name(identity | {"seed": 0})


def strategy(settings: EvaluationConfig) -> dict:
    """Return the settings that name an evaluation."""
    default = asdict(EvaluationConfig())
    values = asdict(settings).items()
    return {name: value for name, value in values if name in _FIRST_STRATEGY or value != default[name]}


def evaluation_name(settings: EvaluationConfig, fingerprint: str, list_name: str) -> str:
    """Return ``eval-HASH``, from the strategy and the images."""
    return "eval-" + short_hash({"settings": strategy(settings), "data": [fingerprint, list_name]})


def partial_stem(settings: EvaluationConfig, list_name: str) -> str:
    """Return ``partial-HASH``, the stem of the file of an evaluation that is not finished."""
    return "partial-" + short_hash({"settings": strategy(settings), "list": list_name})


def record_bases(profile_name: str) -> list[Path]:
    """Folders of a profile's records, the first with precedence: of those made here, and of those that ship.

    ``$DEEPLABV3_RECORDS``, ``local`` or ``shipped``, leaves one of them.
    """
    bases = {LOCAL: paths.local_records(), SHIPPED: paths.shipped_records()}
    only = os.environ.get(SOURCE, "")
    require(only in ("", LOCAL, SHIPPED), SOURCE, only, f"{LOCAL} or {SHIPPED}")
    return [base / profile_name for source, base in bases.items() if base and only in ("", source)]


def reading(source: str) -> AbstractContextManager[None]:
    """Context in which the records of one source alone are read."""
    return paths.environment({SOURCE: source})
