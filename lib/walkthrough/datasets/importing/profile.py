"""The profile of an imported data set: its classes, and training that fits its images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from walkthrough.datasets.propose import propose
from walkthrough.profiles import FOLDER

HEAD = """\
title: {title}
data:
  kind: voc
  root: .  # this file's folder
  classes: {classes}
"""


def profile_path(target: Path) -> Path:
    """The profile of a target: ``TARGET/NAME.yaml``."""
    return target / f"{target.resolve().name}.yaml"


def refuse_other_classes(target: Path, classes: Mapping[int, str]) -> None:
    """Raise a :class:`UserError` where the target's profile has other classes: it would misname those of the labels."""
    path = profile_path(target)
    if path.is_file() and _classes(path) != dict(classes):
        raise UserError(
            f"{path} has the classes {_flow(_classes(path))}, and this import {_flow(dict(classes))}; give the options "
            f"of the first import, choose another target, or delete {path}."
        )


def write_profile(
    target: Path, kind: str, classes: Mapping[int, str], sizes: Sequence[tuple[int, int]], train_images: int
) -> Path:
    """Write ``TARGET/NAME.yaml`` unless it is there; return it. Its settings are the profile ``finetune``'s."""
    path = profile_path(target)
    if path.is_file():
        return path
    finetune = (FOLDER / "finetune.yaml").read_text(encoding="utf-8")
    settings = finetune[finetune.index("model:\n") :]
    for name, value in propose(sizes, train_images).items():
        settings = re.sub(rf"^  {name}: .*$", f"  {name}: {value}", settings, flags=re.MULTILINE)
    title = _flow(f"{target.resolve().name}, imported from {kind}")
    write_atomically(path, HEAD.format(title=title, classes=_flow(dict(classes))) + settings)
    return path


def _flow(value: object) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _classes(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))["data"]["classes"]
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        return None
