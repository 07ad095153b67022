"""Which run and which evaluation fill a table's cell under a profile."""

from dataclasses import replace
from typing import Any

from deeplabv3.config import EvaluationConfig
from walkthrough.paper.tables import Cell, Table
from walkthrough.profiles import Profile
from walkthrough.records.run import Run

Job = tuple[Run, EvaluationConfig]
"""A run and how it is evaluated."""

_PROTOCOL = {"crop_size": 513, "batch_size": 16}
"""What the paper trains with unless it says otherwise (Section 4.1), and the profile with its own."""


def in_profile(training: dict[str, Any], profile: Profile) -> dict[str, Any]:
    """Changes of training settings with the paper's crop and batch put into the proportions of ``profile``.

    Another crop than 513 becomes the nearest one that is k * 16 + 1 pixels wide. No batch has fewer than two images,
    which batch norm behind image pooling needs, and its parts are no larger than the profile's.
    """
    own = {name: value for name, value in training.items() if _PROTOCOL.get(name) != value}
    if "crop_size" in own:
        own["crop_size"] = 16 * max(1, round((profile.training.crop_size * own["crop_size"] / _PROTOCOL["crop_size"] - 1) / 16)) + 1
    if "batch_size" in own:
        own["batch_size"] = max(2, round(profile.training.batch_size * own["batch_size"] / _PROTOCOL["batch_size"]))
        fits = profile.training.batch_size // profile.training.grad_accum_steps
        parts = range(1, own["batch_size"] + 1)
        own["grad_accum_steps"] = next(n for n in parts if own["batch_size"] % n == 0 and own["batch_size"] // n <= fits)
    return own


def cell_job(cell: Cell, profile: Profile) -> Job:
    """The run and the evaluation that fill ``cell`` under ``profile`` with its first seed."""
    config = profile.model_config(**cell.variant)
    training = replace(profile.training, **in_profile(cell.training, profile))
    run = Run.of(replace(profile, training=training), config)
    own = {"output_stride": config.output_stride} | cell.evaluation
    return run, replace(profile.evaluation, **own)


def cell_jobs(cell: Cell, profile: Profile) -> list[Job]:
    """The same for each of the profile's seeds; none where the cell is not run."""
    if cell.variant is None:
        return []
    return [cell_job(cell, replace(profile, seed=seed)) for seed in profile.all_seeds()]


def table_jobs(table: Table, profile: Profile) -> list[Job]:
    """What fills the table under ``profile``, cell by cell, seed by seed; cells may share a run."""
    return [job for cell in table.cells for job in cell_jobs(cell, profile)]
