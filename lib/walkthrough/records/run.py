"""Estimate runs: what determines a run, where its record lies, and writing it so that it is there whole or not at all.

A run is named by the hash of everything that determines it (model, training settings, data fingerprint, seed), so
whoever asks for the same run again gets its record. A finished run has a folder ``records/PROFILE/LABEL-ID/`` with
``run.json`` and, for each strategy that it was evaluated with, ``eval-ID.npz`` (the confusion counts of every image)
and ``eval-ID.json``, which names the hash of those counts. ``partial-ID.npz`` is an evaluation on the way. Reading all
records of a profile is :mod:`walkthrough.records.store`'s.
"""

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from deeplabv3.config import EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.data.voc import fingerprint
from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup
from deeplabv3.errors import UserError
from deeplabv3.evaluation.metrics import class_iou, mean_iou, mean_iou_all, pixel_accuracy
from deeplabv3.files import CHECKPOINT, write_atomically, writing
from walkthrough import paths
from walkthrough.profiles import Profile
from walkthrough.records import catalogue, naming, store
from walkthrough.records.environment import environment, peak_memory_mib
from walkthrough.records.naming import RESULTS_VERSION
from walkthrough.records.store import COUNTS, PartialCounts


@lru_cache
def _fingerprint(root: Path, list_name: str) -> str:
    return fingerprint(root, list_name)


@lru_cache
def _file_hash(setting: str, path: str) -> str:
    if not Path(path).is_file():
        raise UserError(f"setting {setting!r} is {path}, which is not a file; check the path.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _inputs(profile: Profile) -> tuple[str, str]:
    """The fingerprint of the training images and what names the backbone's weights.

    Where the images are not at hand, they are those of the profile's records, if these agree on them: the tables that
    come with the project can be read without its data.
    """
    weights = profile.model.backbone_weights
    try:
        images = _fingerprint(profile.data_root(), profile.data.train_list)
    except UserError:
        recorded = catalogue.recorded_inputs(profile.name, profile.data.train_list, _classes(profile))
        if len(recorded) != 1:
            raise
        return recorded.pop()
    return images, weights if weights in ("", "imagenet") else _file_hash("model.backbone_weights", weights)


def _classes(profile: Profile) -> dict[str, str]:
    return {str(value): name for value, name in profile.data.class_map().items()}


def identity_of(profile: Profile, config: ModelConfig) -> dict:
    """Everything that determines a run's result, as JSON values."""
    images, weights = _inputs(profile)
    values = {
        "results_version": RESULTS_VERSION,
        "model": asdict(config),
        "training": asdict(profile.training),
        "data": {
            "fingerprint": images,
            "list": profile.data.train_list,
            "classes": _classes(profile),
        },
        "backbone_weights": weights,
        "seed": profile.seed,
    }
    if profile.model.init_from:
        values["init_from"] = _file_hash("model.init_from", profile.model.init_from)
    return json.loads(json.dumps(values))


@dataclass(frozen=True, eq=False)
class Run:
    """One training run: the profile says on which images, ``identity`` everything that determines its result."""

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
    def training(self) -> TrainingConfig:
        return TrainingConfig(**self.identity["training"])

    @property
    def seed(self) -> int:
        return self.identity["seed"]

    @cached_property
    def name(self) -> str:
        """What the run is, for people, and the hash of its identity."""
        return naming.run_name(self.identity)

    @property
    def folder(self) -> Path:
        """Where the run's checkpoint and log are."""
        return paths.workspace() / "runs" / self.profile.name / self.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def record_folder(self) -> Path:
        """Where the run's record is written."""
        return paths.workspace() / "records" / self.profile.name / self.name

    def _find(self, file: str) -> Path | None:
        """A file of the record: in the workspace, or among the records that come with the project."""
        found = (base / self.name / file for base in naming.record_bases(self.profile.name))
        return next((path for path in found if path.is_file()), None)

    def training_record(self) -> dict | None:
        """``run.json``, or None while the run is not finished."""
        path = self._find("run.json")
        return store.read_json(path) if path else None

    def evaluation_name(self, settings: EvaluationConfig) -> str:
        """``eval-ID``: the strategy and the images."""
        return naming.evaluation_name(settings, self._evaluated(), self.profile.data.val_list)

    def _evaluated(self) -> str:
        """The fingerprint of the images that it is evaluated on, from the records where those are not at hand."""
        try:
            return _fingerprint(self.profile.data_root(), self.profile.data.val_list)
        except UserError:
            recorded = catalogue.recorded_images(self.profile.name, self.profile.data.val_list)
            if len(recorded) != 1:
                raise
            return recorded.pop()

    def partial_counts(
        self,
        settings: EvaluationConfig,
        checkpoint: Path,
        device: str,
        save_every_s: float,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> PartialCounts:
        """What an evaluation that was interrupted has left behind, if anything; each of ``team`` has its own."""
        data = self.profile.data
        identity = {
            "results_version": RESULTS_VERSION,
            "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
            "settings": naming.strategy(settings),
            "classes": _classes(self.profile),
            "device": device,
        }
        share = f"-{processes.rank + 1}-of-{processes.world_size}" if processes.world_size > 1 else ""
        file = f"{naming.partial_stem(settings, data.val_list)}{share}.npz"
        return PartialCounts(self.record_folder() / file, identity, self.config.num_classes, save_every_s)

    def evaluation_record(self, settings: EvaluationConfig) -> dict | None:
        """``eval-ID.json``, or None when the run was not evaluated so."""
        found = self._evaluation(settings)
        return found[0] if found else None

    def confusion_counts(self, settings: EvaluationConfig) -> np.ndarray | None:
        """Confusion matrices ``(images, K, K)`` int64 of an evaluation, or None when there is none."""
        found = self._evaluation(settings)
        return store.read_counts(*found[1:]) if found else None

    def _evaluation(self, settings: EvaluationConfig) -> tuple[dict, Path, bytes] | None:
        """What an evaluation has found, the file of its counts, and what is in that."""
        path = self._find(self.evaluation_name(settings) + ".json")
        if path is None:
            return None
        values = store.read_json(path)
        counts = store.counts_beside(path, values)
        values.pop(COUNTS, None)
        return None if counts is None else (values, path.with_suffix(".npz"), counts)

    def write_training_record(self, seconds: float) -> None:
        """Write ``run.json`` for a run whose training took ``seconds``."""
        values = {
            "run": self.name,
            "profile": self.profile.name,
            "settings": self.identity,
            "seconds": round(seconds, 1),
            "images_per_second": round(self.training.iterations * self.training.batch_size / max(seconds, 1e-9), 2),
            "peak_memory_mib": peak_memory_mib(),
            **environment(),
        }
        path = self.record_folder() / "run.json"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(values, indent=2) + "\n")

    def evaluation_values(self, settings: EvaluationConfig, confusions: np.ndarray, seconds: float) -> dict:
        """What an evaluation with these confusion matrices ``(images, K, K)`` has found, as JSON values."""
        total = confusions.sum(axis=0)
        names = tuple(self.profile.data.class_map().values())
        iou = [None if np.isnan(value) else round(100 * float(value), 3) for value in class_iou(total)]
        return {
            "run": self.name,
            "settings": asdict(settings),
            "list": self.profile.data.val_list,
            "fingerprint": self._evaluated(),
            "images": len(confusions),
            "miou": round(mean_iou(total), 3),  # over the classes present
            "miou_all_classes": round(mean_iou_all(total), 3),
            "class_iou": dict(zip(names, iou, strict=True)),
            "pixel_accuracy": round(pixel_accuracy(total), 3),
            "seconds": round(seconds, 1),
            "images_per_second": round(len(confusions) / max(seconds, 1e-9), 2),
            "peak_memory_mib": peak_memory_mib(),
            **environment(),
        }

    def write_evaluation_record(self, settings: EvaluationConfig, values: dict, confusions: np.ndarray) -> None:
        """Write the counts, then the JSON beside them, which names their hash: with that they are a record.

        Whoever reads in between, or after a writer that was killed there, finds none.
        """
        path = self.record_folder() / f"{self.evaluation_name(settings)}.json"
        buffer = io.BytesIO()
        np.savez_compressed(buffer, confusion=confusions.astype(np.int32))
        counts = buffer.getvalue()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path.with_suffix(".npz"), counts)
            write_atomically(path, json.dumps(values | {COUNTS: store.counts_hash(counts)}, indent=2) + "\n")
