"""The profile of an imported data set: its classes, and training that fits its images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from walkthrough.datasets.propose import propose

TEXT = """\
title: {title}
data:
  kind: voc
  root: .  # this file's folder
  classes: {classes}
model:
  backbones: {{resnet50: mobilenet_v2, resnet101: mobilenet_v2}}
  rates: {{6: 3, 12: 6, 18: 9, 24: 12}}  # for crops of 257; the paper's are for 513
  backbone_weights: imagenet  # downloaded; --init-from starts from a whole network instead
training:
  lr: 0.02
  weight_decay: 0.0001
  batch_norm_momentum: 0.01
  scales: [0.5, 0.75, 1.0, 1.25]
  backbone_lr_factor: 0.35
  backbone_freeze_steps: 50
  backbone_warmup_steps: 50
  backbone_clip_norm: 1.0
{training}evaluation:
  padding: tight
runtime:
  num_workers: 1
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
    """Write ``TARGET/NAME.yaml`` unless it is there; return it."""
    path = profile_path(target)
    if path.is_file():
        return path
    settings = propose(sizes, train_images).items()
    training = "".join(f"  {name}: {value}\n" for name, value in settings)
    title = _flow(f"{target.resolve().name}, imported from {kind}")
    write_atomically(path, TEXT.format(title=title, classes=_flow(dict(classes)), training=training))
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
