"""Runs of a profile that were made here with other settings, and that its tables therefore do not show."""

import json
import shlex
from typing import Any

from deeplabv3.errors import attempt
from walkthrough.paper.tables import ALL
from walkthrough.profiles import Profile
from walkthrough.records import cells, compare
from walkthrough.records.catalogue import RunRecord, run_records
from walkthrough.records.naming import LOCAL, reading, recipe_name

MOST = 5
"""Runs that are named, the others are counted."""


def notes(number: int, profile: Profile) -> list[str]:
    """Lines that name such runs, and for each the command that shows it in table ``number``; empty without any."""
    filled, _ = attempt(cells.cells_by_run, profile, ALL)  # None without the data that the names of runs depend on
    if filled is None:
        return []
    known = {recipe_name(run.identity) for run in filled}
    with reading(LOCAL):
        records = [record for record in run_records(profile.name) if record.path and not record.problem]
    others = [record for record in records if recipe_name(record.values["settings"]) not in known]
    shown = [
        compare.settings_of(RunRecord(run.name, None, {"settings": run.identity}, ()))
        for run, by_table in filled.items()
        if number in by_table
    ]
    if not others or not shown:
        return []
    lines = [f"Runs of profile {profile.name} with other settings, which its tables do not show:"]
    lines += [_line(record, shown, number, profile) for record in others[:MOST]]
    return lines + ([f"  and {len(others) - MOST} more: deeplabv3 records list"] if len(others) > MOST else [])


def _line(record: RunRecord, shown: list[dict[str, Any]], number: int, profile: Profile) -> str:
    """A run's name, in what it differs from the most similar one of the table, and how to show it there."""
    settings = compare.settings_of(record)
    changed = min(
        ([one for one in compare.differences(other, settings) if one[0] != "seed"] for other in shown), key=len
    )
    texts = [f"{name} {_text(value)}, here {_text(other)}" for name, other, value in changed]
    if all(name.startswith("training.") for name, _, _ in changed):
        options = " ".join(f"--set {shlex.quote(f'{name}={json.dumps(value)}')}" for name, _, value in changed)
        end = f"shown by: deeplabv3 table {number} --profile {profile.option} {options}"
    else:
        end = f"in no cell of this table: deeplabv3 records show {record.name} --profile {profile.option}"
    return f"  {record.name} ({'; '.join(texts)}), {end}"


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
