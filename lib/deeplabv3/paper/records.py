"""Measured runs: what determines a run, where its record lies, and reading and writing it atomically.

A run is named by the hash of everything that determines it (model, training settings, data fingerprint, seed), so
whoever asks for the same run again gets its record. A finished run has a folder ``records/PROFILE/LABEL-ID/`` with
``run.json`` and, for each strategy that it was evaluated with, ``eval-ID.json`` and ``eval-ID.npz`` (the confusion
counts of every picture). ``partial-ID.npz`` is an evaluation on the way.
"""

import hashlib
import io
import json
import os
import platform
import resource
import subprocess
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from deeplabv3 import paths
from deeplabv3.data.voc import fingerprint
from deeplabv3.errors import UserError, writing
from deeplabv3.evaluation.inference import EvaluationSettings
from deeplabv3.evaluation.metrics import class_iou, mean_iou, mean_iou_all, pixel_accuracy
from deeplabv3.model.deeplab import ModelConfig
from deeplabv3.paper.partial import PartialCounts
from deeplabv3.profiles import Profile
from deeplabv3.training.checkpoint import write_atomically
from deeplabv3.training.distributed import ALONE, Team
from deeplabv3.training.settings import TrainingSettings

RECIPE = 1
"""Part of every run's name: raise it when a change of the code makes earlier results no longer its own."""


@lru_cache
def _fingerprint(root: Path, list_name: str) -> str:
    return fingerprint(root, list_name)


@lru_cache
def _file_hash(setting: str, path: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"setting {setting!r} is {path}, which is not a file; check the path.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def short_hash(values: dict) -> str:
    """Twelve hexadecimal digits that name ``values`` (JSON values only)."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


_FIRST_STRATEGY = ("output_stride", "scales", "flip", "crop", "padding")
"""What has always been in an evaluation's name; settings added later are in it where they differ from their default."""

_DEFAULT_MODEL = json.loads(json.dumps(asdict(ModelConfig())))
_DEFAULT_TRAINING = json.loads(json.dumps(asdict(TrainingSettings())))


def identity_of(profile: Profile, config: ModelConfig) -> dict:
    """Everything that determines a run's result, as JSON values."""
    weights = profile.backbone_weights
    values = {
        "recipe": RECIPE,
        "model": asdict(config),
        "training": asdict(profile.training),
        "data": {
            "fingerprint": _fingerprint(profile.data_root(), profile.data.train_list),
            "list": profile.data.train_list,
            "classes": {str(value): name for value, name in profile.data.class_map().items()},
        },
        "backbone_weights": weights if weights in ("", "imagenet") else _file_hash("backbone_weights", weights),
        "seed": profile.seed,
    }
    if profile.start:
        values["start"] = _file_hash("start", profile.start)
    return json.loads(json.dumps(values))


def _strategy(settings: EvaluationSettings) -> dict:
    """The settings that name an evaluation."""
    default = asdict(EvaluationSettings())
    values = asdict(settings).items()
    return {name: value for name, value in values if name in _FIRST_STRATEGY or value != default[name]}


@dataclass(frozen=True, eq=False)
class Run:
    """One training run: the profile says on which pictures, ``identity`` everything that determines its result."""

    profile: Profile
    identity: dict

    @classmethod
    def of(cls, profile: Profile, config: ModelConfig) -> "Run":
        """The run of a network under a profile."""
        return cls(profile, identity_of(profile, config))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.name == other.name and self.profile.name == other.profile.name

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(**self.identity["model"])

    @property
    def training(self) -> TrainingSettings:
        return TrainingSettings(**self.identity["training"])

    @property
    def seed(self) -> int:
        return self.identity["seed"]

    @cached_property
    def name(self) -> str:
        """What the run is, for people, and the hash of its identity."""
        config = self.config
        end = f"block{config.last_block}" if config.head == "cascade" else config.head
        # Only settings that differ from their defaults count, so that a setting added later, whose default is what the
        # code did before, leaves the names of earlier runs as they are.
        named = self.identity | {
            part: {key: value for key, value in self.identity[part].items() if value != defaults.get(key)}
            for part, defaults in (("model", _DEFAULT_MODEL), ("training", _DEFAULT_TRAINING))
        }
        return f"{end}-{config.backbone}-os{config.output_stride}-{short_hash(named)}"

    @property
    def folder(self) -> Path:
        """Where the run's checkpoint and log are."""
        return paths.workspace() / "runs" / self.profile.name / self.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / paths.CHECKPOINT

    def record_folder(self) -> Path:
        """Where the run's record is written."""
        return paths.workspace() / "records" / self.profile.name / self.name

    def _find(self, file: str) -> Path | None:
        """A file of the record: in the workspace, or among the records that come with the project."""
        found = (base / self.name / file for base in _record_bases(self.profile.name))
        return next((path for path in found if path.is_file()), None)

    def training_record(self) -> dict | None:
        """``run.json``, or None while the run is not finished."""
        path = self._find("run.json")
        return read_json(path) if path else None

    def evaluation_name(self, settings: EvaluationSettings) -> str:
        """``eval-ID``: the strategy and the pictures."""
        data = self.profile.data
        pictures = [_fingerprint(self.profile.data_root(), data.val_list), data.val_list]
        return "eval-" + short_hash({"settings": _strategy(settings), "data": pictures})

    def partial_counts(
        self, settings: EvaluationSettings, checkpoint: Path, device: str, save_every_s: float, team: Team = ALONE
    ) -> PartialCounts:
        """What an evaluation that was interrupted has left behind, if anything; each of ``team`` has its own."""
        strategy, data = _strategy(settings), self.profile.data
        identity = {
            "recipe": RECIPE,
            "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "settings": strategy,
            "classes": {str(value): name for value, name in data.class_map().items()},
            "device": device,
        }
        share = f"-{team.rank + 1}-of-{team.size}" if team.size > 1 else ""
        file = f"partial-{short_hash({'settings': strategy, 'list': data.val_list})}{share}.npz"
        return PartialCounts(self.record_folder() / file, identity, self.config.num_classes, save_every_s)

    def evaluation_record(self, settings: EvaluationSettings) -> dict | None:
        """``eval-ID.json``, or None when the run was not evaluated so."""
        path = self._find(self.evaluation_name(settings) + ".json")
        return read_json(path) if path else None

    def confusion_counts(self, settings: EvaluationSettings) -> np.ndarray | None:
        """Confusion matrices ``(pictures, K, K)`` int64 of an evaluation, or None when there is none."""
        path = self._find(self.evaluation_name(settings) + ".npz")
        if path is None:
            return None
        return _read_counts(path)

    def write_training_record(self, seconds: float) -> None:
        """Write ``run.json`` for a run whose training took ``seconds``."""
        values = {
            "run": self.name,
            "profile": self.profile.name,
            "settings": self.identity,
            "seconds": round(seconds, 1),
            "images_per_second": round(self.training.iterations * self.training.batch / max(seconds, 1e-9), 2),
            "peak_memory_mib": peak_memory_mib(),
            **environment(),
        }
        path = self.record_folder() / "run.json"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(values, indent=2) + "\n")

    def evaluation_values(self, settings: EvaluationSettings, confusions: np.ndarray, seconds: float) -> dict:
        """What an evaluation with these confusion matrices ``(pictures, K, K)`` has found, as JSON values."""
        total = confusions.sum(axis=0)
        names = tuple(self.profile.data.class_map().values())
        iou = [None if np.isnan(value) else round(100 * float(value), 3) for value in class_iou(total)]
        return {
            "run": self.name,
            "settings": asdict(settings),
            "list": self.profile.data.val_list,
            "pictures": len(confusions),
            "miou": round(mean_iou(total), 3),  # over the classes present
            "miou_all_classes": round(mean_iou_all(total), 3),
            "class_iou": dict(zip(names, iou, strict=True)),
            "pixel_accuracy": round(pixel_accuracy(total), 3),
            "seconds": round(seconds, 1),
            **environment(),
        }

    def write_evaluation_record(self, settings: EvaluationSettings, values: dict, confusions: np.ndarray) -> None:
        """Write the counts, then the JSON beside them, which makes the record valid."""
        path = self.record_folder() / f"{self.evaluation_name(settings)}.json"
        buffer = io.BytesIO()
        np.savez_compressed(buffer, confusion=confusions.astype(np.int32))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path.with_suffix(".npz"), buffer.getvalue())
            write_atomically(path, json.dumps(values, indent=2) + "\n")


def _record_bases(profile_name: str) -> list[Path]:
    """Where a profile's records are: in the workspace, and among those that come with the project."""
    return [base / "records" / profile_name for base in (paths.workspace(), paths.home() / "data")]


def read_json(path: Path) -> dict:
    """A record's values; a damaged file is a :class:`UserError` that names it."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"record {path} is damaged ({error}); delete it and run again.") from error


def _read_counts(path: Path) -> np.ndarray:
    try:
        with np.load(path) as file:
            return file["confusion"].astype(np.int64)
    except Exception as error:  # a damaged archive can fail in any way
        raise UserError(f"record {path} is damaged ({error}); delete it and evaluate again.") from error


def all_records(profile_name: str) -> list[tuple[dict, list[dict]]]:
    """Every finished run of a profile as (training record, its evaluation records), sorted by name.

    A record of the workspace goes before the one of the same name that comes with the project.
    """
    return [
        (read_json(files["run.json"]), [read_json(files[name]) for name in sorted(files) if name.startswith("eval-")])
        for _, files in sorted(_record_files(profile_name).items())
        if "run.json" in files
    ]


def all_counts(profile_name: str, run: str) -> dict[EvaluationSettings, np.ndarray]:
    """The confusion matrices ``(pictures, K, K)`` int64 of every recorded evaluation of a run, by its strategy.

    Neither the run's network nor its pictures need be there, as :meth:`Run.confusion_counts` wants the latter to be.
    """
    files = _record_files(profile_name).get(run, {})
    return {
        EvaluationSettings(**read_json(path)["settings"]): _read_counts(path.with_suffix(".npz"))
        for name, path in sorted(files.items())
        if name.startswith("eval-")
    }


def _record_files(profile_name: str) -> dict[str, dict[str, Path]]:
    """The JSON files of every run's record by name, the workspace's before the project's."""
    found: dict[str, dict[str, Path]] = {}
    for base in reversed(_record_bases(profile_name)):
        for path in base.glob("*/*.json"):
            found.setdefault(path.parent.name, {})[path.name] = path
    return found


def peak_memory_mib() -> int:
    """The most memory that this process held: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if platform.system() == "Darwin" else 2**10)


def environment() -> dict:
    """Device, threads, versions and commit that a record was measured with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({os.cpu_count()} cores)"
    versions = {name: version(name) for name in ("torch", "torchvision", "numpy", "pillow")}
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": _commit(),
    }


@lru_cache
def _commit() -> str:
    """The commit of the checkout, marked ``+`` when files were changed, or ``unknown`` outside git."""
    try:
        git = ["git", "-C", str(paths.home())]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")
