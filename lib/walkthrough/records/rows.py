"""A profile's records as a table: a row for every evaluation, as a list and as CSV."""

import csv
import io
from typing import Any

from deeplabv3.errors import attempt
from walkthrough import paths
from walkthrough.profiles import Profile
from walkthrough.records.catalogue import Evaluation, RunRecord, run_records
from walkthrough.records.cells import cells_by_run, cells_text
from walkthrough.records.compare import label, settings_of


def rows(profile: Profile) -> list[dict[str, Any]]:
    """Every usable evaluation: its run and seed, the tables' cells of that run, what was measured, and all settings.

    Settings have dotted names such as ``training.lr``, those of the inference ``evaluation.flip``; IoU is in percent by
    class, ``iou.background``. A run without a training record has no settings.
    """
    filled, _ = attempt(cells_by_run, profile)  # None without the data that the names of runs depend on
    cells = {run.name: cells_text(texts) for run, texts in (filled or {}).items()}
    return [
        _row(record, evaluation, profile, cells.get(record.name, ""))
        for record in run_records(profile.name)
        for evaluation in record.usable
    ]


def _row(record: RunRecord, evaluation: Evaluation, profile: Profile, cells: str) -> dict[str, Any]:
    values, training = evaluation.values, record.values
    measured = ("images", "miou", "miou_all_classes", "pixel_accuracy", "seconds", "images_per_second", "device", "cpu")
    row = {"run": record.name, "seed": training.get("settings", {}).get("seed"), "cells": cells}
    row |= {"evaluation": label(evaluation, profile), "list": values["list"]}
    row |= {"made here": evaluation.path.is_relative_to(paths.local_records())}
    row |= {name: values.get(name) for name in measured}
    row |= {"training seconds": training.get("seconds"), "torch": values.get("versions", {}).get("torch")}
    row |= {"commit": values.get("commit")}
    row |= {f"iou.{name}": iou for name, iou in values["class_iou"].items()}
    row |= {f"evaluation.{name}": value for name, value in values["settings"].items()}
    return row | {name: value for name, value in settings_of(record).items() if name != "seed"}


def as_csv(profile: Profile) -> str:
    """:func:`rows` as CSV with a header; empty without records."""
    found = rows(profile)
    buffer = io.StringIO()
    names = dict.fromkeys(name for row in found for name in row)
    writer = csv.DictWriter(buffer, list(names), lineterminator="\n")
    if found:
        writer.writeheader()
    writer.writerows(found)
    return buffer.getvalue()
