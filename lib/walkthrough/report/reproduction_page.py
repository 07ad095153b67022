"""Reproduction report: what was made here beside what ships, as text, Markdown, CSV and JSON. Nothing is run."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deeplabv3.errors import attempt
from deeplabv3.files import write_atomically
from walkthrough.paper import tables
from walkthrough.profiles import Profile
from walkthrough.records.cells import cell_jobs, cells_by_run, cells_text, key_text
from walkthrough.records.compare import machine_text
from walkthrough.records.naming import LOCAL, SHIPPED, reading
from walkthrough.report import verdicts
from walkthrough.report.render import Rendered
from walkthrough.report.reproduction import (
    FAILED,
    OTHER,
    OUTCOMES,
    REPRODUCED,
    ROUNDED_PIXELS,
    Compared,
    Shelf,
    Unit,
    compare,
)


@dataclass(frozen=True, repr=False)
class ReproductionView(Rendered):
    """Records that were made here beside those that ship, a row for each of ``rows``.

    ``kind`` is what a row is, ``run`` or ``cell``. ``machines`` of both sources are texts with the number of their
    evaluations, ``verdicts`` are claims with the verdict of the seeds that ship and of the same ones made here.
    ``others`` are runs of another recipe, which do not count.
    """

    profile: Profile
    kind: str
    rows: tuple[Compared, ...]
    machines: dict[str, dict[str, int]]
    verdicts: tuple[tuple[str, str, str], ...] = ()
    others: tuple[Compared, ...] = ()

    @property
    def title(self) -> str:
        return f"Reproduction of the records that ship, profile {self.profile.name}"

    @property
    def label(self) -> str:
        return "tab:reproduction"

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by outcome."""
        found = Counter(row.outcome for row in self.rows)
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}

    @property
    def failed(self) -> bool:
        """True where a row left the seeds' spread, or cannot be compared."""
        return any(outcome in FAILED for outcome in self.counts)

    def summary(self) -> str:
        """Such as ``Reproduced 12 of 12 runs: 11 same to the last digit, 1 within the seeds' spread.``."""
        total = len(self.rows)
        reproduced = sum(self.counts.get(outcome, 0) for outcome in REPRODUCED)
        parts = ", ".join(f"{count} {outcome}" for outcome, count in self.counts.items())
        return f"Reproduced {reproduced} of {total} {self.kind}{'' if total == 1 else 's'}{f': {parts}' * bool(parts)}."

    def changed(self) -> list[tuple[str, str, str]]:
        """The claims whose verdict is another one than that of the same seeds that ship."""
        return [one for one in self.verdicts if one[1] != one[2]]

    def notes(self) -> list[str]:
        notes = [self.summary()]
        if self.verdicts:
            changed = "; ".join(f"{claim}: {old}, here {new}" for claim, old, new in self.changed())
            equal, total = len(self.verdicts) - len(self.changed()), len(self.verdicts)
            notes.append(f"{equal} of {total} claims have the verdict of the same seeds that ship.")
            notes += [f"Changed: {changed}."] if changed else []
        wrong = [row for row in self.rows if row.detail and row.outcome not in REPRODUCED]
        notes += [f"{row.unit.label}: {row.outcome}: {row.detail}" for row in wrong]
        if self.others:
            first = self.others[0]
            count = f"{len(self.others)} run{'s' if len(self.others) > 1 else ''}"
            notes.append(f"Not counted, as {OTHER}: {count}, such as {first.unit.label}: {first.detail}")
        return [*notes, _RULE, *(f"{source}: {_machines_text(self.machines[source])}" for source in self.machines)]

    def texts(self) -> pd.DataFrame:
        columns = (self.kind, "seeds", "ships", "made here", "difference", "interval", "outcome")
        return pd.DataFrame([_texts(row) for row in self.rows], columns=columns)

    def numbers(self) -> pd.DataFrame:
        return pd.DataFrame([_values(row) for row in self.rows])

    def json(self) -> str:
        """Everything as JSON; null where there is no number."""
        values = {
            "profile": self.profile.name,
            "summary": self.summary(),
            "failed": self.failed,
            "counts": self.counts,
            "machines": self.machines,
            "verdicts": [dict(zip(("claim", "shipped", "made"), one, strict=True)) for one in self.verdicts],
            f"{self.kind}s": [
                {name: None if value != value else value for name, value in _values(row).items()}
                | {"runs": row.unit.runs, "shipped_by_seed": row.shipped, "made_by_seed": row.made}
                for row in self.rows
            ],
        }  # fmt: skip
        return json.dumps(values, indent=1) + "\n"


_RULE = (
    "Same to the last digit: the counts of every image are equal. Within rounding: at most one pixel in "
    f"{1 / ROUNDED_PIXELS:,.0f} changed its class. Within the seeds' spread: the mIoU lies in the interval for so many "
    "further seeds, from all seeds that ship. Its level allows for the number of comparisons: where rounding or seeds "
    "alone differ, all of them hold with a chance of 95 %."
)


def _machines_text(machines: dict[str, int]) -> str:
    return "; ".join(f"{text} ({count})" for text, count in machines.items()) or "none"


def _texts(row: Compared) -> tuple[str, ...]:
    seeds = list(row.made or row.unit.runs)
    several = f"{min(seeds)} to {max(seeds)}" if len(seeds) > 1 else str(seeds[0])
    interval = "" if np.isnan(row.low) else f"{row.low:.2f} to {row.high:.2f} ({len(row.shipped)} seeds)"
    figures = [f"{value:.2f}" if np.isfinite(value) else "" for value in (row.shipped_mean, row.made_mean)]
    difference = f"{row.difference:+.2f}" if np.isfinite(row.difference) else ""
    return row.unit.label, several, *figures, difference, interval, row.outcome


def _values(row: Compared) -> dict[str, Any]:
    return {
        "name": row.unit.label,
        "evaluation": row.unit.evaluation,
        "outcome": row.outcome,
        "shipped": row.shipped_mean,
        "made": row.made_mean,
        "difference": row.difference,
        "low": row.low,
        "high": row.high,
        "shipped_seeds": len(row.shipped),
        "made_seeds": len(row.made),
        "detail": row.detail,
    }


def runs_view(profile: Profile) -> ReproductionView | None:
    """A row for every run that was made here, with the worst of its evaluations; None where nothing was made or ships.

    Records that are stale are left out: nothing uses them.
    """
    made, shipped = Shelf(profile.name, LOCAL), Shelf(profile.name, SHIPPED)
    if not shipped.records:
        return None
    cells, _ = attempt(cells_by_run, profile)
    filled = {run.name: cells_text(texts) for run, texts in (cells or {}).items()}
    units = []
    for name, record in made.records.items():
        seed = _seed(name, made, shipped)
        for evaluation in record.evaluations:
            problem = record.problem or evaluation.problem
            if not problem.startswith("stale"):
                label = f"{filled.get(name, name)}, seed {seed}"
                units.append(Unit(label, evaluation.path.stem, {seed: name}))
    worst: dict[str, Compared] = {}
    others: dict[str, Compared] = {}
    for row in compare(units, made, shipped):
        (name,) = row.unit.runs.values()
        if row.outcome != OTHER:
            worst[name] = max(worst.get(name, row), row, key=lambda one: one.severity)
        elif name not in shipped.recipes:  # or else a page wants another evaluation of a run that ships
            others[name] = row
    if not worst and not others:
        return None
    machines = _machines(worst.values(), made, shipped)
    return ReproductionView(profile, "run", tuple(worst.values()), machines, others=tuple(others.values()))


def _seed(run: str, made: Shelf, shipped: Shelf) -> int:
    records = (shelf.records[run] for shelf in (made, shipped) if run in shelf.recipes)
    return next((record.values["settings"]["seed"] for record in records), 0)


def cells_view(profile: Profile, numbers: Sequence[int]) -> ReproductionView:
    """A row for every cell of the tables, over the profile's seeds, with the verdicts on the claims."""
    made, shipped = Shelf(profile.name, LOCAL), Shelf(profile.name, SHIPPED)
    units = []
    for number in numbers:
        for cell in tables.load(number).cells:
            if jobs := cell_jobs(cell, profile):
                names = {run.seed: run.name for run, _ in jobs}
                run, settings = jobs[0]
                units.append(Unit(f"Table {number} {key_text(cell)}", run.evaluation_name(settings), names))
    rows = tuple(compare(units, made, shipped))
    return ReproductionView(profile, "cell", rows, _machines(rows, made, shipped), tuple(_verdicts(profile)))


def _machines(rows: Iterable[Compared], made: Shelf, shipped: Shelf) -> dict[str, dict[str, int]]:
    """Machine and versions of the compared evaluations, with their number, by source."""
    names = dict.fromkeys((run, row.unit.evaluation) for row in rows for run in row.unit.runs.values())
    found = {}
    for source, shelf in (("ships", shipped), ("made here", made)):
        evaluations = (shelf.evaluation(*name)[0] for name in names)
        found[source] = dict(Counter(machine_text(one.values) for one in evaluations if one))
    return found


def _verdicts(profile: Profile) -> list[tuple[str, str, str]]:
    """Claims with the verdicts of the shipped and of the made records, where both have all of the claim's cells."""
    found = []
    for source in (SHIPPED, LOCAL):
        with reading(source):
            found.append(verdicts.evaluate_claims(profile))
    return [
        (old.claim.name, old.verdict, new.verdict)
        for old, new in zip(*found, strict=True)
        if old.found and new.found and old.complete and new.complete
    ]


def write_reproduction(view: ReproductionView, output: Path) -> None:
    """Write ``reproduction.md``, ``.csv`` and ``.json`` into ``output``."""
    write_atomically(output / "reproduction.md", view.markdown())
    write_atomically(output / "reproduction.csv", view.csv())
    write_atomically(output / "reproduction.json", view.json())


def write_comparison(profile: Profile, output: Path) -> None:
    """Write the files of :func:`runs_view`, or delete earlier ones where nothing was made here."""
    if view := runs_view(profile):
        write_reproduction(view, output)
    else:
        for path in output.glob("reproduction.*"):
            path.unlink()
