"""Catalogue of a profile's records, and which of them are valid.

A record is *stale* when the code no longer knows its settings or names them otherwise, *damaged* when it cannot be read
or its counts are not those that it was written with. Neither is used, and neither prevents the others from being read.
"""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from deeplabv3.config import EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.errors import UserError, attempt
from deeplabv3.model.atrous import plan_rates
from walkthrough.records.naming import RESULTS_VERSION, evaluation_name, record_bases, run_name
from walkthrough.records.store import COUNTS, counts_beside, read_counts, read_json


@dataclass(frozen=True)
class Evaluation:
    """Record of an evaluation: its JSON file and the values in it. ``problem`` is why it is not used, or empty."""

    path: Path
    values: dict
    problem: str = ""

    @property
    def counts(self) -> Path:
        """The NPZ file beside it."""
        return self.path.with_suffix(".npz")

    def confusions(self) -> np.ndarray:
        """Confusion matrices ``(images, K, K)`` int64; only of a record without a problem."""
        return read_counts(self.counts, self.counts.read_bytes())

    @property
    def settings(self) -> EvaluationConfig:
        """The strategy; only of a record without a problem."""
        return EvaluationConfig(**self.values["settings"])


@dataclass(frozen=True)
class RunRecord:
    """Record of a run. ``path`` is its ``run.json``, None if only evaluations exist; ``problem`` as above."""

    name: str
    path: Path | None
    values: dict
    evaluations: tuple[Evaluation, ...]
    problem: str = ""

    @property
    def usable(self) -> list[Evaluation]:
        """The evaluations that are neither stale nor damaged."""
        return [] if self.problem else [evaluation for evaluation in self.evaluations if not evaluation.problem]

    @property
    def has_problem(self) -> bool:
        """True if the run or any of its evaluations is stale or damaged."""
        return bool(self.problem) or any(evaluation.problem for evaluation in self.evaluations)


def run_records(profile_name: str) -> list[RunRecord]:
    """Return every run of a profile that has a record, valid or not, sorted by name.

    A file that was made here takes precedence over the one of the same name that comes with the project.
    """
    return [_run_record(name, files) for name, files in sorted(_record_files(profile_name).items())]


def find(profile_name: str, named: str) -> RunRecord:
    """Return the run ``named``: by its name, the hash at its end, or an unambiguous beginning of either.

    No run or several of them are a :class:`UserError` that offers names.
    """
    records = {record.name: record for record in run_records(profile_name)}
    names_by_hash = {name.rsplit("-", 1)[-1]: name for name in records}
    aliases = records | {short: records[name] for short, name in names_by_hash.items()}
    if named in aliases:
        return aliases[named]
    matches = list(dict.fromkeys(record.name for name, record in aliases.items() if named and name.startswith(named)))
    if len(matches) == 1:
        return records[matches[0]]
    if matches:
        raise UserError(f"{named!r} may be any of {', '.join(matches)}; write more of it.")
    close = dict.fromkeys(names_by_hash.get(name, name) for name in difflib.get_close_matches(named, aliases, 3, 0.5))
    hint = f"did you mean {' or '.join(close)}?" if close else "'deeplabv3 records list' shows those there are."
    raise UserError(f"profile {profile_name!r} has no run {named!r}; {hint}")


def profile_with(named: str, default: str) -> str:
    """Return the profile that has a run of this name, or with this hash at its end; ``default`` if not one alone."""
    bases = (base.parent for base in record_bases(default))
    folders = (folder for base in bases for folder in base.glob("*/*") if f"-{folder.name}".endswith(f"-{named}"))
    found = {folder.parent.name for folder in folders}
    return found.pop() if len(found) == 1 else default


def all_records(profile_name: str) -> list[tuple[dict, list[dict]]]:
    """Return every finished run of a profile as (training record, its evaluation records), sorted by name."""
    return [
        (record.values, [evaluation.values for evaluation in record.usable])
        for record in run_records(profile_name)
        if record.path and not record.problem
    ]


def all_counts(profile_name: str, run: str) -> dict[EvaluationConfig, np.ndarray]:
    """Confusion matrices ``(images, K, K)`` int64 of every recorded evaluation of a run, by its strategy.

    Needs neither the run's network nor, unlike :meth:`Run.confusion_counts`, its images.
    """
    return {one.settings: one.confusions() for one in evaluations_of(profile_name, run)}


def evaluations_of(profile_name: str, run: str) -> list[Evaluation]:
    """Return the evaluations of a run that are neither stale nor damaged."""
    files = _record_files(profile_name).get(run)
    return _run_record(run, files).usable if files else []


def recorded_inputs(profile_name: str, list_name: str, classes: dict[str, str]) -> set[tuple[str, str]]:
    """Return (fingerprint of the images, backbone's weights) of the recorded runs on these classes of this list.

    A run that started from a whole network says nothing of the backbone's weights; it counts where there is no other.
    """
    recorded = [training["settings"] for training, _ in all_records(profile_name)]
    found = [one for one in recorded if one["data"]["list"] == list_name and one["data"]["classes"] == classes]
    from_backbone = [one for one in found if "init_from" not in one]
    return {(one["data"]["fingerprint"], one.get("backbone_weights", "")) for one in from_backbone or found}


def recorded_seeds(profile_name: str) -> set[int]:
    """Seeds of the runs whose training is recorded, whatever their other settings."""
    files = (files["run.json"] for files in _record_files(profile_name).values() if "run.json" in files)
    values = (attempt(read_json, file)[0] or {} for file in files)
    seeds = (record["settings"].get("seed") for record in values if isinstance(record.get("settings"), dict))
    return {seed for seed in seeds if isinstance(seed, int)}


def recorded_images(profile_name: str, list_name: str) -> set[str]:
    """Fingerprints of the images of ``list_name`` that recorded evaluations saw."""
    evaluations = [values for _, recorded in all_records(profile_name) for values in recorded]
    return {values["fingerprint"] for values in evaluations if values["list"] == list_name and "fingerprint" in values}


def _record_files(profile_name: str) -> dict[str, dict[str, Path]]:
    """JSON files of every run's record by run and file name; those made here take precedence."""
    files: dict[str, dict[str, Path]] = {}
    for base in reversed(record_bases(profile_name)):
        for path in base.glob("*/*.json"):
            if path.name == "run.json" or path.name.startswith("eval-"):
                files.setdefault(path.parent.name, {})[path.name] = path
    return files


def _run_record(name: str, files: dict[str, Path]) -> RunRecord:
    path, problem = files.get("run.json"), ""
    values: dict = {}
    if path:
        try:
            values = read_json(path)
            problem = _run_problem(name, values)
        except UserError as error:
            problem = f"damaged: {error}"
    model = {} if problem else values.get("settings", {}).get("model", {})
    evaluations = tuple(_evaluation(files[file], model) for file in sorted(files) if file != "run.json")
    return RunRecord(name, path, values, evaluations, problem)


def _evaluation(path: Path, model: dict) -> Evaluation:
    try:
        values = read_json(path)
        problem = _evaluation_problem(path, values, model)
    except UserError as error:
        values, problem = {}, f"damaged: {error}"
    return Evaluation(path, {key: value for key, value in values.items() if key != COUNTS}, problem)


def _run_problem(name: str, values: dict) -> str:
    settings = values.get("settings")
    if not isinstance(settings, dict):
        settings = {}
    if lacking := [part for part in ("results_version", "model", "training", "data", "seed") if part not in settings]:
        return f"damaged: its settings lack {' and '.join(lacking)}."
    if not isinstance(values.get("seconds"), int | float) or "device" not in values:
        return "damaged: it does not say how long it took on which device."
    return (reason := why_stale(settings, name)) and f"stale: {reason}"


def why_stale(settings: dict, name: str) -> str:
    """Return in one sentence why the code cannot train the run ``name`` with these settings again, or an empty text."""
    version = settings["results_version"]
    if version != RESULTS_VERSION:
        return f"it was made by version {version} of the code's results, which is now {RESULTS_VERSION}."
    for part, kind in (("model", ModelConfig), ("training", TrainingConfig)):
        if reason := _refusal(part, kind, settings[part]):
            return reason
    if reason := _plan_refusal(settings["model"], {}):
        return reason
    current_name = run_name(settings)
    return "" if current_name == name else f"a run with its settings is called {current_name} now."


def _refusal(part: str, kind: type, values: Any) -> str:
    """Return why ``kind`` does not take ``values``, or an empty text."""
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
    """Return why no network can be built from these settings, or an empty text."""
    config = ModelConfig(**(model | changes))
    try:
        plan_rates(config.backbone, config.output_stride, config.multi_grid, config.last_block, config.stride_unit)
    except UserError as error:
        return f"the code refuses its network: {error}"
    except TypeError as error:
        return f"its network's settings are of another kind than the code's ({error})."
    return ""


def _evaluation_problem(path: Path, values: dict, model: dict) -> str:
    if lacking := [part for part in ("run", "settings", "list", "images", "miou", "class_iou") if part not in values]:
        return f"damaged: it lacks {' and '.join(lacking)}."
    if not isinstance(values["miou"], int | float) or not isinstance(values["class_iou"], dict):
        return "damaged: its mIoU is no number, or its class_iou no list of classes."
    reason = _refusal("evaluation", EvaluationConfig, values["settings"])
    if not reason and model:
        reason = _plan_refusal(model, {"output_stride": values["settings"].get("output_stride", 16)})
    if not reason and "fingerprint" in values:
        name = evaluation_name(EvaluationConfig(**values["settings"]), values["fingerprint"], values["list"])
        reason = "" if name == path.stem else f"an evaluation with its settings is called {name} now."
    if reason:
        return f"stale: {reason}"
    counts = path.with_suffix(".npz")
    if not counts.is_file():
        return f"damaged: its counts {counts.name} are missing."
    content = counts_beside(path, values)
    if content is None:
        return f"damaged: its counts {counts.name} are not those that it was written with."
    if len(read_counts(counts, content)) != values["images"]:
        return f"damaged: its counts {counts.name} are not those of {values['images']} images."
    return ""
