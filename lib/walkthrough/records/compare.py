"""Comparison of records: settings by their dotted names, and evaluations of two runs that can be compared."""

from collections.abc import Iterable
from typing import Any

from deeplabv3.config import EvaluationConfig
from walkthrough.profiles import Profile
from walkthrough.records.catalogue import Evaluation, RunRecord
from walkthrough.records.naming import DEFAULTS

_MEASURED = ("seconds", "images_per_second", "peak_memory_mib")
_MACHINE = ("device", "cpu", "threads", "compile", "tf32", "cuda", "cudnn", "driver_version", "commit")


def settings_of(record: RunRecord) -> dict[str, Any]:
    """Return a run's settings by dotted name; those newer than the record have their defaults."""
    settings = record.values.get("settings", {})
    named: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            named |= {f"{name}.{key}": one for key, one in (DEFAULTS.get(name, {}) | value).items()}
        else:
            named[name] = value
    return named


def default_of(name: str) -> Any:
    """Return the default of a setting by its dotted name; None if it has none, such as the images' fingerprint."""
    part, _, key = name.partition(".")
    return DEFAULTS.get(part, {}).get(key)


def environment_of(record: RunRecord) -> dict[str, Any]:
    """Return machine, versions, and time and memory of the training, by name."""
    values = record.values
    versions = {f"versions.{name}": version for name, version in values.get("versions", {}).items()}
    machine, measured = ({name: values[name] for name in names if name in values} for names in (_MACHINE, _MEASURED))
    return machine | versions | measured


def machine_text(values: dict[str, Any]) -> str:
    """Machine and versions of a run's or an evaluation's record as text."""
    threads = values.get("threads")
    words = [values.get("device"), values.get("cpu"), threads and f"{threads} thread{'s' if threads > 1 else ''}"]
    words += [f"{name} {values[name]}" for name in ("cuda", "cudnn", "driver_version") if name in values]
    words += [f"{name} {version}" for name, version in values.get("versions", {}).items()]
    words += [f"commit {values['commit']}"] if "commit" in values else []
    return ", ".join(filter(None, words))


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return names whose values differ, with both values; None stands for an absent one."""
    names = dict.fromkeys([*first, *second])
    return [(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]


def comparable(first: RunRecord, second: RunRecord) -> list[tuple[Evaluation, Evaluation]]:
    """Return pairs of evaluations of both runs with the same strategy on the same images, as far as known."""
    return [(one, other) for one in first.usable for other in second.usable if _same(one, other)]


def _same(one: Evaluation, other: Evaluation) -> bool:
    # early records lack the images' fingerprint
    known = "fingerprint" in one.values and "fingerprint" in other.values
    names = ("list", "images", "fingerprint") if known else ("list", "images")
    return one.settings == other.settings and all(one.values[name] == other.values[name] for name in names)


def label(evaluation: Evaluation, profile: Profile) -> str:
    """Short label of an evaluation, such as ``os8 6 scales flip``; the profile's own settings are left out."""
    settings, default = evaluation.settings, profile.evaluation
    words = [f"os{settings.output_stride}"]
    if settings.scales != (1.0,):
        count = len(settings.scales)
        words.append(f"{count} scales" if count > 2 else f"scale {','.join(map(str, settings.scales))}")
    words += ["flip"] if settings.flip else []
    words += [settings.fusion] if settings.fusion != "mean" else []
    if (settings.padding, settings.crop_size) != (default.padding, default.crop_size):
        words.append("tight" if settings.padding == "tight" else f"crop {settings.crop_size}")
    words += [settings.precision] if settings.precision != "float32" else []
    if evaluation.values["list"] != profile.data.val_list:
        words.append(evaluation.values["list"])
    return " ".join(words)


def by_label(evaluations: Iterable[Evaluation], profile: Profile) -> list[tuple[str, Evaluation]]:
    """Return evaluations with their labels, short labels first."""
    labeled = ((label(one, profile), one) for one in evaluations)
    return sorted(labeled, key=lambda pair: (len(pair[0]), pair[0]))


def sentence(settings: EvaluationConfig) -> str:
    """Full text of an evaluation's strategy."""
    return (
        f"{settings.padding} padding, output stride {settings.output_stride}, "
        f"scales {', '.join(map(str, settings.scales))}{', flip' if settings.flip else ''}"
        f"{'' if settings.fusion == 'mean' else f', {settings.fusion} of them'}"
        f"{'' if settings.precision == 'float32' else f', {settings.precision}'}"
    )


def duration(seconds: float) -> str:
    """Duration as text, such as ``90 s``, ``100 min``, ``2.5 h`` or ``12 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 3 * 86400 else f"{seconds / 86400:,.0f} days"
