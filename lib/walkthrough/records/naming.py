"""Names of runs and evaluations: hashes of everything that determines their results."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from deeplabv3.config import EvaluationConfig, ModelConfig, TrainingConfig
from walkthrough import paths

RESULTS_VERSION = 1
"""Part of every run's name: raise it when a change of the code makes earlier results no longer its own."""


_FIRST_STRATEGY = ("output_stride", "scales", "flip", "crop_size", "padding")
"""What has always been in an evaluation's name; settings added later are in it where they differ from their default."""


DEFAULTS = {
    "model": json.loads(json.dumps(asdict(ModelConfig()))),
    "training": json.loads(json.dumps(asdict(TrainingConfig()))),
}
"""What a setting that a record does not know was then."""


def short_hash(values: dict) -> str:
    """Twelve hexadecimal digits that name ``values`` (JSON values only)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def run_name(identity: dict) -> str:
    """What a run is, for people, and the hash of ``identity``, which is everything that determines it."""
    config = ModelConfig(**identity["model"])
    end = f"block{config.last_block}" if config.head == "cascade" else config.head
    # Only settings that differ from their defaults count, so that a setting added later, whose default is what the
    # code did before, leaves the names of earlier runs as they are.
    named = identity | {
        part: {key: value for key, value in identity[part].items() if value != defaults.get(key)}
        for part, defaults in DEFAULTS.items()
    }
    return f"{end}-{config.backbone}-os{config.output_stride}-{short_hash(named)}"


def strategy(settings: EvaluationConfig) -> dict:
    """The settings that name an evaluation."""
    default = asdict(EvaluationConfig())
    values = asdict(settings).items()
    return {name: value for name, value in values if name in _FIRST_STRATEGY or value != default[name]}


def evaluation_name(settings: EvaluationConfig, fingerprint: str, list_name: str) -> str:
    """``eval-ID``: the strategy and the images."""
    return "eval-" + short_hash({"settings": strategy(settings), "data": [fingerprint, list_name]})


def partial_stem(settings: EvaluationConfig, list_name: str) -> str:
    """``partial-ID``: what the file of an evaluation on the way begins with."""
    return "partial-" + short_hash({"settings": strategy(settings), "list": list_name})


def record_bases(profile_name: str) -> list[Path]:
    """Where a profile's records are: in the workspace, and among those that come with the project."""
    return [base / "records" / profile_name for base in (paths.workspace(), paths.home() / "data")]
