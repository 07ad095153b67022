"""The records on disk: how they are named, where they lie, and which of them still say something about this code.

A run is named by the hash of everything that determines it, an evaluation by that of its strategy and its pictures. A
record is *stale* when its settings no longer exist in the code, *damaged* when it cannot be read or its counts are not
those that it was written with. Neither is used, and neither keeps anybody from reading the others.
"""

import difflib
import hashlib
import io
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from deeplabv3.config import TrainingSettings
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import EvaluationSettings
from deeplabv3.model.atrous import plan_rates
from deeplabv3.model.deeplab import ModelConfig
from walkthrough import paths

RECIPE = 1
"""Part of every run's name: raise it when a change of the code makes earlier results no longer its own."""

COUNTS = "counts"
"""In an evaluation's JSON file: the hash of the NPZ file beside it. Records of before do not have it."""

_FIRST_STRATEGY = ("output_stride", "scales", "flip", "crop", "padding")
"""What has always been in an evaluation's name; settings added later are in it where they differ from their default."""

DEFAULTS = {
    "model": json.loads(json.dumps(asdict(ModelConfig()))),
    "training": json.loads(json.dumps(asdict(TrainingSettings()))),
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


def strategy(settings: EvaluationSettings) -> dict:
    """The settings that name an evaluation."""
    default = asdict(EvaluationSettings())
    values = asdict(settings).items()
    return {name: value for name, value in values if name in _FIRST_STRATEGY or value != default[name]}


def evaluation_name(settings: EvaluationSettings, fingerprint: str, list_name: str) -> str:
    """``eval-ID``: the strategy and the pictures."""
    return "eval-" + short_hash({"settings": strategy(settings), "data": [fingerprint, list_name]})


def partial_stem(settings: EvaluationSettings, list_name: str) -> str:
    """``partial-ID``: what the file of an evaluation on the way begins with."""
    return "partial-" + short_hash({"settings": strategy(settings), "list": list_name})


def record_bases(profile_name: str) -> list[Path]:
    """Where a profile's records are: in the workspace, and among those that come with the project."""
    return [base / "records" / profile_name for base in (paths.workspace(), paths.home() / "data")]


def read_json(path: Path) -> dict:
    """A record's values; a damaged file is a :class:`UserError` that names it."""
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("no settings and values")
        return values
    except (OSError, ValueError) as error:
        raise UserError(f"record {path} is damaged ({error}); delete it and run again.") from error


def read_counts(path: Path, content: bytes) -> np.ndarray:
    """Confusion matrices ``(pictures, K, K)`` int64; a damaged file is a :class:`UserError` that names it."""
    try:
        with np.load(io.BytesIO(content)) as file:
            return file["confusion"].astype(np.int64)
    except Exception as error:  # a damaged archive can fail in any way
        raise UserError(f"record {path} is damaged ({error}); delete it and evaluate again.") from error


def counts_hash(content: bytes) -> str:
    """What an evaluation's JSON file says of the NPZ file beside it."""
    return hashlib.sha256(content).hexdigest()[:16]


def counts_beside(path: Path, values: dict) -> bytes | None:
    """The counts' file that an evaluation's ``values`` in ``path`` were written with; None where it is another or none.

    It is another where a writer was killed, or just is, between its two files: then there is no record.
    """
    try:
        content = path.with_suffix(".npz").read_bytes()
    except OSError:
        return None
    return content if values.get(COUNTS, counts_hash(content)) == counts_hash(content) else None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation's record: its JSON file and what that says. ``flaw`` is why it is not used, or empty."""

    path: Path
    values: dict
    flaw: str = ""

    @property
    def counts(self) -> Path:
        """The NPZ file beside it."""
        return self.path.with_suffix(".npz")

    @property
    def settings(self) -> EvaluationSettings:
        """How the run was evaluated; only for a record without a flaw."""
        return EvaluationSettings(**self.values["settings"])


@dataclass(frozen=True)
class Entry:
    """A run's record. ``path`` is its ``run.json``, None where there are only evaluations; ``flaw`` as above."""

    name: str
    path: Path | None
    values: dict
    evaluations: tuple[Evaluation, ...]
    flaw: str = ""

    @property
    def usable(self) -> list[Evaluation]:
        """The evaluations that say something about this code."""
        return [] if self.flaw else [found for found in self.evaluations if not found.flaw]

    @property
    def flawed(self) -> bool:
        """Whether the run or any of its evaluations is stale or damaged."""
        return bool(self.flaw) or any(found.flaw for found in self.evaluations)


def entries(profile_name: str) -> list[Entry]:
    """Every run of a profile that has a record, good or not, sorted by name.

    A file of the workspace goes before the one of the same name that comes with the project.
    """
    return [_entry(name, files) for name, files in sorted(_record_files(profile_name).items())]


def find(profile_name: str, named: str) -> Entry:
    """The run that is called ``named``: its name, the hash at its end, or how either of them begins, if no other does.

    None or several of them are a :class:`UserError` that offers names.
    """
    there = {entry.name: entry for entry in entries(profile_name)}
    ids = {name.rsplit("-", 1)[-1]: name for name in there}
    called = there | {name: there[full] for name, full in ids.items()}
    if named in called:
        return called[named]
    fitting = list(dict.fromkeys(entry.name for name, entry in called.items() if named and name.startswith(named)))
    if len(fitting) == 1:
        return there[fitting[0]]
    if fitting:
        raise UserError(f"{named!r} may be any of {', '.join(fitting)}; write more of it.")
    close = dict.fromkeys(ids.get(name, name) for name in difflib.get_close_matches(named, called, 3, 0.5))
    hint = f"did you mean {' or '.join(close)}?" if close else "'deeplabv3 records list' shows those there are."
    raise UserError(f"profile {profile_name!r} has no run {named!r}; {hint}")


def all_records(profile_name: str) -> list[tuple[dict, list[dict]]]:
    """Every finished run of a profile as (training record, its evaluation records), sorted by name."""
    return [
        (entry.values, [found.values for found in entry.usable])
        for entry in entries(profile_name)
        if entry.path and not entry.flaw
    ]


def all_counts(profile_name: str, run: str) -> dict[EvaluationSettings, np.ndarray]:
    """The confusion matrices ``(pictures, K, K)`` int64 of every recorded evaluation of a run, by its strategy.

    Neither the run's network nor its pictures need be there, as :meth:`Run.confusion_counts` wants the latter to be.
    """
    files = _record_files(profile_name).get(run)
    usable = _entry(run, files).usable if files else []
    return {found.settings: read_counts(found.counts, found.counts.read_bytes()) for found in usable}


def recorded_inputs(profile_name: str, list_name: str, classes: dict[str, str]) -> set[tuple[str, str]]:
    """(fingerprint of the pictures, backbone's weights) of the recorded runs on these classes of this list."""
    found = set()
    for training, _ in all_records(profile_name):
        data = training["settings"]["data"]
        if data["list"] == list_name and data["classes"] == classes:
            found.add((data["fingerprint"], training["settings"].get("backbone_weights", "")))
    return found


def recorded_pictures(profile_name: str, list_name: str) -> set[str]:
    """Fingerprints of the pictures of ``list_name`` that recorded evaluations saw."""
    evaluations = [values for _, found in all_records(profile_name) for values in found]
    return {values["fingerprint"] for values in evaluations if values["list"] == list_name and "fingerprint" in values}


def _record_files(profile_name: str) -> dict[str, dict[str, Path]]:
    """The JSON files of every run's record by name, the workspace's before the project's."""
    found: dict[str, dict[str, Path]] = {}
    for base in reversed(record_bases(profile_name)):
        for path in base.glob("*/*.json"):
            if path.name == "run.json" or path.name.startswith("eval-"):
                found.setdefault(path.parent.name, {})[path.name] = path
    return found


def _entry(name: str, files: dict[str, Path]) -> Entry:
    path, values, flaw = files.get("run.json"), {}, ""
    if path:
        try:
            values = read_json(path)
            flaw = _run_flaw(name, values)
        except UserError as error:
            flaw = f"damaged: {error}"
    model = {} if flaw else values.get("settings", {}).get("model", {})
    evaluations = tuple(_evaluation(files[file], model) for file in sorted(files) if file != "run.json")
    return Entry(name, path, values, evaluations, flaw)


def _evaluation(path: Path, model: dict) -> Evaluation:
    try:
        values = read_json(path)
        flaw = _evaluation_flaw(path, values, model)
    except UserError as error:
        values, flaw = {}, f"damaged: {error}"
    return Evaluation(path, {key: value for key, value in values.items() if key != COUNTS}, flaw)


def _run_flaw(name: str, values: dict) -> str:
    settings = values.get("settings")
    parts = ("recipe", "model", "training", "data", "seed")
    if lacking := [part for part in parts if not isinstance(settings, dict) or part not in settings]:
        return f"damaged: its settings lack {' and '.join(lacking)}."
    if not isinstance(values.get("seconds"), int | float) or "device" not in values:
        return "damaged: it does not say how long it took on which device."
    return (reason := why_stale(settings, name)) and f"stale: {reason}"


def why_stale(settings: dict, name: str) -> str:
    """Why the run ``name`` with these settings could not be made again, in one sentence, or the empty text."""
    if settings["recipe"] != RECIPE:
        return f"it was made by recipe {settings['recipe']}, and the code's is {RECIPE}."
    for part, kind in (("model", ModelConfig), ("training", TrainingSettings)):
        if reason := _refusal(part, kind, settings[part]):
            return reason
    if reason := _plan_refusal(settings["model"], {}):
        return reason
    own = run_name(settings)
    return "" if own == name else f"a run with its settings is called {own} now."


def _refusal(part: str, kind: type, values: Any) -> str:
    """Why ``kind`` does not take ``values``."""
    known = {field.name for field in fields(kind)}
    if not isinstance(values, dict):
        return f"its {part} settings are {values!r}."
    if unknown := sorted(set(values) - known):
        return f"{part} setting {unknown[0]!r} does not exist any more."
    try:
        kind(**values)
    except UserError as error:
        return f"the code refuses its {part} settings: {error}"
    except (TypeError, ValueError) as error:
        return f"its {part} settings are of another kind than the code's ({error})."
    return ""


def _plan_refusal(model: dict, changes: dict) -> str:
    """Why no network has these settings: its configuration alone does not say so."""
    config = ModelConfig(**(model | changes))
    try:
        plan_rates(config.backbone, config.output_stride, config.multi_grid, config.last_block, config.layout)
    except UserError as error:
        return f"the code refuses its network: {error}"
    except TypeError as error:
        return f"its network's settings are of another kind than the code's ({error})."
    return ""


def _evaluation_flaw(path: Path, values: dict, model: dict) -> str:
    if lacking := [part for part in ("run", "settings", "list", "pictures", "miou", "class_iou") if part not in values]:
        return f"damaged: it lacks {' and '.join(lacking)}."
    if not isinstance(values["miou"], int | float) or not isinstance(values["class_iou"], dict):
        return "damaged: its mIoU or its class_iou is no number."
    reason = _refusal("evaluation", EvaluationSettings, values["settings"])
    if not reason and model:
        reason = _plan_refusal(model, {"output_stride": values["settings"].get("output_stride", 16)})
    if not reason and "fingerprint" in values:
        own = evaluation_name(EvaluationSettings(**values["settings"]), values["fingerprint"], values["list"])
        reason = "" if own == path.stem else f"an evaluation with its settings is called {own} now."
    if reason:
        return f"stale: {reason}"
    counts = path.with_suffix(".npz")
    if not counts.is_file():
        return f"damaged: its counts {counts.name} are missing."
    content = counts_beside(path, values)
    if content is None:
        return f"damaged: its counts {counts.name} are not those that it was written with."
    if len(read_counts(counts, content)) != values["pictures"]:
        return f"damaged: its counts {counts.name} are not those of {values['pictures']} pictures."
    return ""
