"""A training run: its identity, the files of its record, and writing them.

A run's identity holds everything that determines its result: the network, the training settings, the fingerprint of
the training images with the list and the classes, the backbone's weights, the seed, and the version of the code's
results. Its name is a label and a hash of that (:mod:`walkthrough.records.naming`), so the same run finds its record
again. The folder ``records/PROFILE/LABEL-HASH/`` holds ``run.json`` once the run is trained and, for each strategy it
was evaluated with, ``eval-HASH.npz`` (confusion counts of every image) and ``eval-HASH.json``, which names the hash of
those counts. ``partial-HASH.npz`` is an evaluation that is not finished. :mod:`walkthrough.records.catalogue` reads
all records of a profile.
"""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from deeplabv3.config import VOID, EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.data import synthetic
from deeplabv3.data.voc import fingerprint
from deeplabv3.errors import UserError
from deeplabv3.evaluation.metrics import class_iou, mean_iou, mean_iou_all, pixel_accuracy
from deeplabv3.files import CHECKPOINT, write_atomically
from walkthrough import paths
from walkthrough.profiles import Profile
from walkthrough.records import catalogue, naming, store
from walkthrough.records.environment import environment, peak_memory_mib
from walkthrough.records.naming import RESULTS_VERSION
from walkthrough.records.store import COUNTS, PartialCounts

if TYPE_CHECKING:
    from deeplabv3.distributed import ProcessGroup


@lru_cache
def _fingerprint(root: Path, list_name: str) -> str:
    return fingerprint(root, list_name)


def _list_fingerprint(profile: Profile, list_name: str) -> str:
    """Fingerprint of a list's images; those of the synthetic profiles are not drawn for it."""
    data = profile.data
    known = synthetic.fingerprint(data.train, data.val, list_name) if data.kind == "synthetic" else None
    return known or _fingerprint(profile.data_root(), list_name)


@lru_cache
def _say_once(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


@lru_cache
def file_hash(setting: str, path: str) -> str:
    """Return 16 digits of a file's SHA-256; a missing file is a :class:`UserError` that names the setting."""
    if not Path(path).is_file():
        raise UserError(f"setting {setting!r} is {path}, which is not a file; check the path.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _inputs(profile: Profile) -> tuple[str, str]:
    """Return the fingerprint of the training images and the name or hash of the backbone's weights.

    Without the images, both are those of the profile's records, if these agree: the tables that come with the project
    can be read without its data.
    """
    weights = profile.model.backbone_weights
    try:
        images = _list_fingerprint(profile, profile.data.train_list)
    except UserError:
        recorded = catalogue.recorded_inputs(profile.name, profile.data.train_list, _classes(profile))
        if len(recorded) != 1:
            raise
        return recorded.pop()
    return images, weights if weights in ("", "imagenet") else file_hash("model.backbone_weights", weights)


def _classes(profile: Profile) -> dict[str, str]:
    return {str(value): name for value, name in profile.data.class_map().items()}


def identity_of(profile: Profile, config: ModelConfig) -> dict:
    """Return everything that determines a run's result, as JSON values."""
    images, weights = _inputs(profile)
    void = {} if profile.data.void == VOID else {"void": profile.data.void}
    values = {
        "results_version": RESULTS_VERSION,
        "model": asdict(config),
        "training": asdict(profile.training),
        "data": {
            "fingerprint": images,
            "list": profile.data.train_list,
            "classes": _classes(profile),
            **void,
        },
        "backbone_weights": weights,
        "seed": profile.seed,
    }
    if profile.model.init_from:
        from walkthrough.records import start  # imports torch, which tables do without

        values["init_from"] = file_hash("model.init_from", str(start.find(profile.model.init_from)))
        if profile.model.new_classes:
            values["new_classes"] = start.EQUAL_NAMES
    return json.loads(json.dumps(values))


@dataclass(frozen=True, eq=False)
class Run:
    """One training run under a profile; ``identity`` is everything that determines its result."""

    profile: Profile
    identity: dict

    @classmethod
    def of(cls, profile: Profile, config: ModelConfig) -> "Run":
        """Return the run of a network under a profile."""
        return cls(profile, identity_of(profile, config))

    @classmethod
    def foreign(cls, profile: Profile, config: ModelConfig, network: str) -> "Run":
        """Return what stands for the run of a network from elsewhere, whose training is not known: it has no record.

        ``network`` is the hash of its weights.
        """
        values = {"results_version": RESULTS_VERSION, "model": asdict(config), "training": {}, "seed": 0}
        data = {"classes": _classes(profile)}
        return cls(profile, json.loads(json.dumps(values | {"data": data, "network": network})))

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
        """Label and hash of the identity, such as ``aspp-resnet101-os16-0123456789ab``."""
        return naming.run_name(self.identity)

    @property
    def label(self) -> str:
        """Text for people, such as ``aspp-resnet101-os16, seed 0``."""
        return f"{self.name.rpartition('-')[0]}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Folder of the run's checkpoint and log."""
        return paths.workspace() / "runs" / self.profile.name / self.name

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def log(self) -> Path | None:
        """The training log ``log.csv`` in the run's folder, or beside its record; None if there is none."""
        own = self.folder / "log.csv"
        return own if own.is_file() else self._find("log.csv")

    def owns(self, checkpoint: Path) -> bool:
        """True unless a checkpoint of the run's settings holds other weights: an archived one, or a copy beside it."""
        if naming.ARCHIVE.search(checkpoint.resolve().parent.name):
            return False
        return not self.checkpoint.exists() or self.checkpoint.samefile(checkpoint)

    def record_folder(self) -> Path:
        """Folder that the run's record is written to."""
        return paths.local_records() / self.profile.name / self.name

    def _find(self, file: str) -> Path | None:
        """Path of a file of the record, made here or among the records that come with the project."""
        paths_by_base = (base / self.name / file for base in naming.record_bases(self.profile.name))
        return next((path for path in paths_by_base if path.is_file()), None)

    def training_record(self) -> dict | None:
        """Return ``run.json``, or None while the run is not finished."""
        path = self._find("run.json")
        return store.read_json(path) if path else None

    def evaluation_name(self, settings: EvaluationConfig) -> str:
        """Return ``eval-HASH`` for a strategy on the profile's evaluation images."""
        return naming.evaluation_name(settings, self._val_fingerprint(), self.profile.data.val_list)

    def _val_fingerprint(self) -> str:
        """Fingerprint of the evaluation images; that of the profile's records where the images are missing."""
        try:
            return _list_fingerprint(self.profile, self.profile.data.val_list)
        except UserError:
            recorded = catalogue.recorded_images(self.profile.name, self.profile.data.val_list)
            if len(recorded) != 1:
                raise
            return recorded.pop()

    def partial_counts(
        self,
        settings: EvaluationConfig,
        network: str,
        device: str,
        save_every_s: float,
        processes: "ProcessGroup | None" = None,
    ) -> PartialCounts:
        """Counts that an interrupted evaluation has saved, if any; each process of a group has its own file.

        Args:
            settings: the strategy
            network: hash of the weights, or of the checkpoint that has them
            device: on which they are counted
            save_every_s: seconds between saves
            processes: that share the images
        """
        data = self.profile.data
        identity = {
            "results_version": RESULTS_VERSION,
            "checkpoint": network,
            "settings": naming.strategy(settings),
            "classes": _classes(self.profile),
            "device": device,
        }
        share = ""
        if processes is not None and processes.world_size > 1:
            share = f"-{processes.rank + 1}-of-{processes.world_size}"
        file = f"{naming.partial_stem(settings, data.val_list)}{share}.npz"
        return PartialCounts(self.record_folder() / file, identity, self.config.num_classes, save_every_s)

    def evaluation_record(self, settings: EvaluationConfig) -> dict | None:
        """Return ``eval-HASH.json``, or None if the run was not evaluated with this strategy."""
        evaluation = self._evaluation(settings)
        return evaluation[0] if evaluation else None

    def confusion_counts(self, settings: EvaluationConfig) -> np.ndarray | None:
        """Confusion matrices ``(images, K, K)`` int64 of an evaluation, or None without its record."""
        evaluation = self._evaluation(settings)
        return store.read_counts(*evaluation[1:]) if evaluation else None

    def _evaluation(self, settings: EvaluationConfig) -> tuple[dict, Path, bytes] | None:
        """Values of an evaluation's record, the path of its counts, and that file's content."""
        path = self._find(self.evaluation_name(settings) + ".json")
        if path is None:
            return None
        values = store.read_json(path)
        counts = store.counts_beside(path, values)
        values.pop(COUNTS, None)
        if counts is None:
            _say_once(
                f"record {path} is not used: its counts {path.stem}.npz are missing or damaged; evaluating the run "
                "again makes it anew, 'deeplabv3 records prune' deletes it."
            )
            return None
        return values, path.with_suffix(".npz"), counts

    def write_training_record(self, seconds: float) -> None:
        """Write ``run.json`` for a run whose training took ``seconds``."""
        values = {
            "run": self.name,
            "profile": self.profile.name,
            "settings": self.identity,
            "seconds": round(seconds, 1),
            "images_per_second": round(self.training.iterations * self.training.batch_size / max(seconds, 1e-9), 2),
            "peak_memory_mib": peak_memory_mib(),
            "compile": self.profile.runtime.compile,
            **environment(self.training.precision),
        }
        if self.profile.model.init_from:
            from walkthrough.records import start

            values["started_from"] = start.origin(self.profile.model.init_from)
        write_atomically(self.record_folder() / "run.json", json.dumps(values, indent=2) + "\n")

    def evaluation_values(self, settings: EvaluationConfig, confusions: np.ndarray, seconds: float) -> dict:
        """Return the values of an evaluation's record from its confusion matrices ``(images, K, K)``."""
        total = confusions.sum(axis=0)
        names = tuple(self.profile.data.class_map().values())
        iou = [None if np.isnan(value) else round(100 * float(value), 3) for value in class_iou(total)]
        return {
            "run": self.name,
            "settings": asdict(settings),
            "list": self.profile.data.val_list,
            "fingerprint": self._val_fingerprint(),
            "images": len(confusions),
            "miou": round(mean_iou(total), 3),  # over the classes present
            "miou_all_classes": round(mean_iou_all(total), 3),
            "class_iou": dict(zip(names, iou, strict=True)),
            "pixel_accuracy": round(pixel_accuracy(total), 3),
            "seconds": round(seconds, 1),
            "images_per_second": round(len(confusions) / max(seconds, 1e-9), 2),
            "peak_memory_mib": peak_memory_mib(),
            **environment(settings.precision),
        }

    def write_evaluation_record(self, settings: EvaluationConfig, values: dict, confusions: np.ndarray) -> None:
        """Write the counts, then the JSON file that names their hash.

        A reader sees a complete record or none, even if the writer is killed halfway.
        """
        path = self.record_folder() / f"{self.evaluation_name(settings)}.json"
        counts = store.pack_counts(confusions)
        write_atomically(path.with_suffix(".npz"), counts)
        write_atomically(path, json.dumps(values | {COUNTS: store.counts_hash(counts)}, indent=2) + "\n")
