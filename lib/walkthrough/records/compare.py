"""Records side by side: settings by their dotted names, and evaluations that can be compared."""

from collections.abc import Iterable
from typing import Any

from deeplabv3.config import EvaluationConfig
from walkthrough.profiles import Profile
from walkthrough.records.catalogue import Evaluation, RunRecord
from walkthrough.records.naming import DEFAULTS

_MEASURED = ("seconds", "images_per_second", "peak_memory_mib")
_MACHINE = ("device", "threads", "commit")


def settings_of(entry: RunRecord) -> dict[str, Any]:
    """A run's settings by dotted name; one that came after the record has the value that it stands for there."""
    settings = entry.values.get("settings", {})
    named: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            named |= {f"{name}.{key}": one for key, one in (DEFAULTS.get(name, {}) | value).items()}
        else:
            named[name] = value
    return named


def default_of(name: str) -> Any:
    """The default of a setting by its dotted name; None where it has none, such as the images' fingerprint."""
    part, _, key = name.partition(".")
    return DEFAULTS.get(part, {}).get(key)


def environment_of(entry: RunRecord) -> dict[str, Any]:
    """Machine, versions and what the training took, by name."""
    values = entry.values
    versions = {f"versions.{name}": version for name, version in values.get("versions", {}).items()}
    machine, measured = ({name: values[name] for name in names if name in values} for names in (_MACHINE, _MEASURED))
    return machine | versions | measured


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Names whose values differ, with both values; None stands for an absent one."""
    names = dict.fromkeys([*first, *second])
    return [(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]


def comparable(first: RunRecord, second: RunRecord) -> list[tuple[Evaluation, Evaluation]]:
    """The evaluations of both runs with the same strategy on the same images, as far as the records say."""
    return [(one, other) for one in first.usable for other in second.usable if _same(one, other)]


def _same(one: Evaluation, other: Evaluation) -> bool:
    own, theirs = one.values, other.values
    # records of before do not hold the images' fingerprint
    known = "fingerprint" in own and "fingerprint" in theirs
    named = ("list", "images", "fingerprint") if known else ("list", "images")
    return one.settings == other.settings and all(own[name] == theirs[name] for name in named)


def label(evaluation: Evaluation, profile: Profile) -> str:
    """An evaluation in a few letters, such as ``os8 6 scales flip``; what is usual for the profile goes without."""
    settings, usual = evaluation.settings, profile.evaluation
    words = [f"os{settings.output_stride}"]
    if settings.scales != (1.0,):
        count = len(settings.scales)
        words.append(f"{count} scales" if count > 2 else f"scale {','.join(map(str, settings.scales))}")
    words += ["flip"] if settings.flip else []
    if (settings.padding, settings.crop_size) != (usual.padding, usual.crop_size):
        words.append("tight" if settings.padding == "tight" else f"crop {settings.crop_size}")
    words += [settings.precision] if settings.precision != "float32" else []
    if evaluation.values["list"] != profile.data.val_list:
        words.append(evaluation.values["list"])
    return " ".join(words)


def by_label(evaluations: Iterable[Evaluation], profile: Profile) -> list[tuple[str, Evaluation]]:
    """Evaluations with their labels, the simple ones first."""
    labeled = ((label(one, profile), one) for one in evaluations)
    return sorted(labeled, key=lambda pair: (len(pair[0]), pair[0]))


def sentence(settings: EvaluationConfig) -> str:
    """An evaluation's strategy in full."""
    return (
        f"{settings.padding} padding, output stride {settings.output_stride}, "
        f"scales {', '.join(map(str, settings.scales))}{', flip' if settings.flip else ''}"
        f"{'' if settings.precision == 'float32' else f', {settings.precision}'}"
    )
