"""A trained network's model card, from its record alone: classes, data, recipe, IoU with intervals, failures."""

from pathlib import Path

import numpy as np
import pandas as pd

from deeplabv3.errors import UserError
from deeplabv3.evaluation.metrics import class_iou
from walkthrough import paths
from walkthrough.profiles import Profile
from walkthrough.records import catalogue
from walkthrough.records.compare import by_label, settings_of
from walkthrough.report import intervals
from walkthrough.report.render import markdown_rows

ORIGIN = """\
- Training and validation images: PASCAL VOC 2012 with SBD's labels, reduced to the images that show a cat, cow, dog,
  horse or sheep. The images come from Flickr and are subject to its terms; none of them is part of this project.
- The backbone starts from ImageNet weights of MobileNetV2 (ONNX model zoo, Apache-2.0).
- The weights of this network are under the project's own license (MIT).
"""
"""Origin of the networks whose records ship."""

OWN_ORIGIN = (
    "- State here the origin and the terms of the images, of the labels, and of the weights that training began with."
)


def model_card(profile: Profile, run: str) -> str:
    """Model card of a run of ``profile`` in Markdown; a run without evaluations is a ``UserError``."""
    record = catalogue.find(profile.name, run)
    if record.path is None:
        raise UserError(f"run {record.name} has no training record, so it has no card; train it with this profile.")
    settings, shipped = settings_of(record), paths.shipped_records()
    folder = record.path.parent
    ships = shipped is not None and folder.is_relative_to(shipped)
    if ships:
        folder = Path("data/records") / profile.name / record.name
    counts = catalogue.all_counts(profile.name, record.name)
    rows = []
    for label, evaluation in by_label(record.usable, profile):
        confusions = counts[evaluation.settings]
        rows.append(
            {"evaluation": label, "mIoU": _with_interval(intervals.bootstrap(confusions))}
            | _classes(confusions, profile)
        )
    best = max(record.usable, key=lambda evaluation: evaluation.values["miou"])
    confusions = counts[best.settings].sum(axis=0)
    names = list(profile.data.class_map().values())
    stages = _stages(profile, record)
    lines = [
        f"# Model card: DeepLabv3 with {settings['model.backbone']}",
        f"Generated from the record `{folder}` by "
        f"`deeplabv3 records card {record.name.rpartition('-')[2]} --profile {profile.name}`.",
        "## What it does",
        f"It labels every pixel of a photograph with one of {len(names)} classes: {', '.join(names)}. Anything else, "
        "such as a car or a bird, was void in training: the network has never been told what to do there.",
        "## How good it is",
        f"IoU in percent on {best.values['images']} validation images (list `{best.values['list']}`), with the 95 % "
        "interval of a bootstrap over the images. One training run: another seed would give other numbers. These are "
        "figures of these classes and images, not of PASCAL VOC.",
        markdown_rows(pd.DataFrame(rows)),
        "## Where it fails",
        _failures(confusions, names),
        "## How it was trained",
        "\n\n".join(stages),
        "## Where it comes from",
        ORIGIN.rstrip() if ships else OWN_ORIGIN,
    ]
    return "\n\n".join(lines) + "\n"


def _with_interval(estimate: intervals.Estimate) -> str:
    low, high = estimate.interval()
    return f"{estimate.value:.1f} ({low:.1f} to {high:.1f})"


def _classes(confusions: np.ndarray, profile: Profile) -> dict[str, str]:
    """IoU of each class with the interval of the same draws."""
    images = len(confusions)
    weights = intervals.draws_of_images(images)
    totals = (weights @ confusions.reshape(images, -1)).reshape(-1, *confusions.shape[1:])
    low, high = 100 * np.nanquantile(class_iou(totals), (0.025, 0.975), axis=0)
    iou = 100 * class_iou(confusions.sum(axis=0))
    names = profile.data.class_map().values()
    return {name: f"{iou[k]:.0f} ({low[k]:.0f} to {high[k]:.0f})" for k, name in enumerate(names)}


def _failures(confusion: np.ndarray, names: list[str]) -> str:
    """The five commonest confusions of one percent or more of the pixels of the class that is there."""
    shares = 100 * confusion / confusion.sum(axis=1, keepdims=True)
    np.fill_diagonal(shares, 0)
    worst = np.argsort(shares, axis=None)[::-1][:5]
    lines = []
    for row, column in zip(*np.unravel_index(worst[shares.ravel()[worst] >= 1], shares.shape), strict=True):
        lines.append(f"- {shares[row, column]:.0f} % of the pixels of {names[row]} are labeled {names[column]}.")
    return "\n".join(lines)


def _stages(profile: Profile, record: catalogue.RunRecord) -> list[str]:
    """The recipe of a run, after that of the recorded run whose network it started from."""
    start = record.values.get("started_from", "")
    recorded = {one.name: one for one in catalogue.run_records(profile.name)}
    before = _stages(profile, recorded[start]) if start in recorded else []
    first = f"From the network of `{start}`:" if start else "From the backbone's weights:"
    return [*before, f"{first}\n\n{_recipe(settings_of(record), record.values)}"]


def _recipe(settings: dict, values: dict) -> str:
    model, training = (
        {name.removeprefix(part): value for name, value in settings.items() if name.startswith(part)}
        for part in ("model.", "training.")
    )
    scales = ", ".join(f"{scale:g}" for scale in training["scales"])
    hard = ", ".join(training["hard_classes"])
    lines = [
        f"- Network: {model['backbone']}, output stride {model['output_stride']}, "
        f"multi-grid {tuple(model['multi_grid'])}, ASPP rates {tuple(model['atrous_rates'])}, "
        f"image pooling: {'yes' if model['image_pooling'] else 'no'}.",
        f"- {training['iterations']:,} steps of {training['batch_size']} crops of {training['crop_size']} "
        f"pixels, learning rate {training['lr']:g} (backbone: x {training['backbone_lr_factor']:g}), poly schedule, "
        f"weight decay {training['weight_decay']:g}, batch norm momentum {training['batch_norm_momentum']:g}, "
        f"scales {scales}, {training['precision']}"
        + (f", images with {hard} listed {training['hard_class_copies']} times." if hard else "."),
        f"- List `{settings['data.list']}`, seed {settings['seed']}, {values['seconds'] / 60:.0f} minutes on "
        f"{values['device']} with {values['threads']} thread{'s' if values['threads'] > 1 else ''}, "
        f"torch {values['versions']['torch']}.",
    ]
    return "\n".join(lines)
