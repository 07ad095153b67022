"""Every record of a profile, and which of them still hold for this code."""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from deeplabv3.config import EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.errors import UserError
from deeplabv3.model.atrous import plan_rates
from walkthrough.records.naming import RESULTS_VERSION, evaluation_name, record_bases, run_name
from walkthrough.records.store import COUNTS, counts_beside, read_counts, read_json


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
    def settings(self) -> EvaluationConfig:
        """How the run was evaluated; only for a record without a flaw."""
        return EvaluationConfig(**self.values["settings"])


@dataclass(frozen=True)
class RunRecord:
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


def entries(profile_name: str) -> list[RunRecord]:
    """Every run of a profile that has a record, good or not, sorted by name.

    A file of the workspace goes before the one of the same name that comes with the project.
    """
    return [_entry(name, files) for name, files in sorted(_record_files(profile_name).items())]


def find(profile_name: str, named: str) -> RunRecord:
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


def all_counts(profile_name: str, run: str) -> dict[EvaluationConfig, np.ndarray]:
    """The confusion matrices ``(images, K, K)`` int64 of every recorded evaluation of a run, by its strategy.

    Neither the run's network nor its images need be there, as :meth:`Run.confusion_counts` wants the latter to be.
    """
    files = _record_files(profile_name).get(run)
    usable = _entry(run, files).usable if files else []
    return {found.settings: read_counts(found.counts, found.counts.read_bytes()) for found in usable}


def recorded_inputs(profile_name: str, list_name: str, classes: dict[str, str]) -> set[tuple[str, str]]:
    """(fingerprint of the images, backbone's weights) of the recorded runs on these classes of this list."""
    found = set()
    for training, _ in all_records(profile_name):
        data = training["settings"]["data"]
        if data["list"] == list_name and data["classes"] == classes:
            found.add((data["fingerprint"], training["settings"].get("backbone_weights", "")))
    return found


def recorded_images(profile_name: str, list_name: str) -> set[str]:
    """Fingerprints of the images of ``list_name`` that recorded evaluations saw."""
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


def _entry(name: str, files: dict[str, Path]) -> RunRecord:
    path, values, flaw = files.get("run.json"), {}, ""
    if path:
        try:
            values = read_json(path)
            flaw = _run_flaw(name, values)
        except UserError as error:
            flaw = f"damaged: {error}"
    model = {} if flaw else values.get("settings", {}).get("model", {})
    evaluations = tuple(_evaluation(files[file], model) for file in sorted(files) if file != "run.json")
    return RunRecord(name, path, values, evaluations, flaw)


def _evaluation(path: Path, model: dict) -> Evaluation:
    try:
        values = read_json(path)
        flaw = _evaluation_flaw(path, values, model)
    except UserError as error:
        values, flaw = {}, f"damaged: {error}"
    return Evaluation(path, {key: value for key, value in values.items() if key != COUNTS}, flaw)


def _run_flaw(name: str, values: dict) -> str:
    settings = values.get("settings")
    parts = ("results_version", "model", "training", "data", "seed")
    if lacking := [part for part in parts if not isinstance(settings, dict) or part not in settings]:
        return f"damaged: its settings lack {' and '.join(lacking)}."
    if not isinstance(values.get("seconds"), int | float) or "device" not in values:
        return "damaged: it does not say how long it took on which device."
    return (reason := why_stale(settings, name)) and f"stale: {reason}"


def why_stale(settings: dict, name: str) -> str:
    """Why the run ``name`` with these settings could not be made again, in one sentence, or the empty text."""
    if settings["results_version"] != RESULTS_VERSION:
        return f"it was made by version {settings['results_version']} of the code's results, which is now {RESULTS_VERSION}."
    for part, kind in (("model", ModelConfig), ("training", TrainingConfig)):
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
        plan_rates(config.backbone, config.output_stride, config.multi_grid, config.last_block, config.stride_unit)
    except UserError as error:
        return f"the code refuses its network: {error}"
    except TypeError as error:
        return f"its network's settings are of another kind than the code's ({error})."
    return ""


def _evaluation_flaw(path: Path, values: dict, model: dict) -> str:
    if lacking := [part for part in ("run", "settings", "list", "images", "miou", "class_iou") if part not in values]:
        return f"damaged: it lacks {' and '.join(lacking)}."
    if not isinstance(values["miou"], int | float) or not isinstance(values["class_iou"], dict):
        return "damaged: its mIoU or its class_iou is no number."
    reason = _refusal("evaluation", EvaluationConfig, values["settings"])
    if not reason and model:
        reason = _plan_refusal(model, {"output_stride": values["settings"].get("output_stride", 16)})
    if not reason and "fingerprint" in values:
        own = evaluation_name(EvaluationConfig(**values["settings"]), values["fingerprint"], values["list"])
        reason = "" if own == path.stem else f"an evaluation with its settings is called {own} now."
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
