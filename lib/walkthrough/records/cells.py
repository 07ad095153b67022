"""Runs and evaluations that fill the cells of a table under a profile."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deeplabv3.config import EvaluationConfig
from deeplabv3.errors import attempt
from walkthrough.paper import tables
from walkthrough.paper.tables import Cell, Table
from walkthrough.profiles import Profile, load_profile
from walkthrough.records.catalogue import all_records
from walkthrough.records.run import Run, file_hash

Job = tuple[Run, EvaluationConfig]
"""A run and the strategy that it is evaluated with."""

_PROTOCOL = {"crop_size": 513, "batch_size": 16, "lr": 0.007}
"""Training settings of the paper unless it states others (Section 4.1); the profile has its own in their place."""


def in_profile(training: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """Return changes of training settings with the paper's crop, batch size and learning rate scaled to ``profile``.

    Another crop than 513 becomes the nearest one that is k * 16 + 1 pixels wide. No batch has fewer than two images,
    which batch norm behind image pooling needs, and its parts are no larger than the profile's where those have two.
    """
    changes = {name: value for name, value in training.items() if _PROTOCOL.get(name) != value}
    if "crop_size" in changes:
        crop_size = profile.training.crop_size * changes["crop_size"] / _PROTOCOL["crop_size"]
        changes["crop_size"] = 16 * max(1, round((crop_size - 1) / 16)) + 1
    if "batch_size" in changes:
        batch_size = max(2, round(profile.training.batch_size * changes["batch_size"] / _PROTOCOL["batch_size"]))
        largest = profile.training.batch_size // profile.training.grad_accum_steps
        fitting = (n for n in range(1, batch_size) if batch_size % n == 0 and 2 <= batch_size // n <= largest)
        changes["batch_size"] = batch_size
        changes["grad_accum_steps"] = next(fitting, 1)
    if "lr" in changes:
        changes["lr"] = round(profile.training.lr * changes["lr"] / _PROTOCOL["lr"], 6)
    return changes


def cell_job(cell: Cell, profile: Profile) -> Job:
    """Return the run and the evaluation that fill ``cell`` under ``profile`` with its first seed."""
    config = profile.model_config(**(cell.variant or {}))
    training = replace(profile.training, **in_profile(cell.training, profile))
    run = Run.of(replace(profile, training=training), config)
    if cell.needs == tables.COCO:
        checkpoint, digest = _coco_start(cell, profile)
        started = replace(run.profile, model=replace(profile.model, init_from=str(checkpoint)))
        run = Run(started, run.identity | {"init_from": digest})
    return run, replace(profile.evaluation, **{"output_stride": config.output_stride} | cell.evaluation)


def _coco_start(cell: Cell, profile: Profile) -> tuple[Path, str]:
    """Return the checkpoint on COCO that a cell's runs start from, whatever their seed, and its hash.

    Where it is not here, the hash is that of the records; without any it is empty.
    """
    source = load_profile(profile.coco)
    run, _ = attempt(Run.of, source, source.model_config(**(cell.variant or {})))
    if run is None:  # neither images of COCO nor records
        return Path(), ""
    if run.checkpoint.is_file() and run.training_record() is not None:
        return run.checkpoint, file_hash("coco", str(run.checkpoint))
    starts = (values for values, _ in all_records(profile.name) if values.get("started_from") == run.name)
    digests = {values["settings"]["init_from"] for values in starts}
    return run.checkpoint, digests.pop() if len(digests) == 1 else ""


def waits_for(cell: Cell, profile: Profile) -> str:
    """Return the command that makes what a cell's runs start from, empty unless they wait for it."""
    if cell.variant is None or cell.needs != tables.COCO or _coco_start(cell, profile)[1]:
        return ""
    return f"deeplabv3 train --profile {profile.coco}"


def waiting(profile: Profile, numbers: Sequence[int]) -> list[str]:
    """Return a sentence on every cell of the tables that waits for another run."""
    cells = [(number, cell) for number in numbers for cell in tables.load(number, profile.extra_data).cells]
    return [
        f"Table {number} {key_text(cell)} waits for the network that it starts from: {command}"
        for number, cell in cells
        if (command := waits_for(cell, profile))
    ]


def is_run(cell: Cell, profile: Profile) -> bool:
    """True unless the paper's value is all there is: other data would be needed, or the profile leaves the cell out."""
    if cell.variant is None:
        return False
    return profile.model.extra_blocks or cell.variant.get("last_block", 4) == 4


def cell_jobs(cell: Cell, profile: Profile) -> list[Job]:
    """Return the jobs of ``cell`` for each of the profile's seeds; none if the cell is not run, or waits."""
    if not is_run(cell, profile) or waits_for(cell, profile):
        return []
    return [cell_job(cell, replace(profile, seed=seed)) for seed in profile.all_seeds()]


def table_jobs(table: Table, profile: Profile) -> list[Job]:
    """Return the jobs of a table under ``profile``, cell by cell, seed by seed; cells may share a run."""
    return [job for cell in table.cells for job in cell_jobs(cell, profile)]


def cells_by_run(profile: Profile, numbers: Sequence[int] = ()) -> dict[Run, dict[int, list[str]]]:
    """Return every run of the tables (none: all) under ``profile`` with the cells that it fills, as texts by table."""
    cells: dict[Run, dict[int, list[str]]] = {}
    for number in numbers or tables.numbers(profile.extra_data):
        for cell in tables.load(number, profile.extra_data).cells:
            for run, _ in cell_jobs(cell, profile):
                cells.setdefault(run, {}).setdefault(number, []).append(key_text(cell))
    return cells


def cells_text(cells: dict[int, list[str]]) -> str:
    """Text of a run's cells, such as ``Table 3 (1,2,1) block7; Table 4 output stride 16, output stride 8``."""
    return "; ".join(f"Table {number} {', '.join(texts)}" for number, texts in cells.items())


def key_text(cell: Cell) -> str:
    """Text of a cell's keys, such as ``(1,2,1) block7``; numbers and yes go with the key's name."""
    words = []
    for name, value in cell.keys.items():
        name = name.replace("_", " ")
        if value == "yes":
            words.append(name)
        elif value != "no":
            words.append(f"{name} {value}" if value.isdecimal() else value)
    return " ".join(words)
