"""The paper's tables beside the measured values: paper, ours, 95 % interval, difference. Nothing is run."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deeplabv3.files import write_atomically
from walkthrough.paper import claims, tables
from walkthrough.paper.tables import Table
from walkthrough.profiles import Profile
from walkthrough.records import cells
from walkthrough.report import reproduction, verdicts
from walkthrough.report.render import FORMATS, Rendered
from walkthrough.report.results import CellResults

MEASURES = ("paper", "ours", "95 %", "seeds", "difference")


def frame(table: Table, profile: Profile, results: CellResults | None = None) -> pd.DataFrame:
    """One row a cell: its keys, the paper's mIoU and ours (the mean over ``seeds``) in percent.

    ``low`` and ``high`` bound the 95 % interval, ``least`` and ``most`` the values of single seeds; ``difference`` is
    ours minus the paper's. NaN where there is no record.
    """
    results = results or CellResults(profile)
    rows = []
    for cell in table.cells:
        found = results.estimate(cell)
        values = {"paper": cell.miou, "source_quality": cell.source_quality, "ours": float("nan"), "seeds": 0}
        if found is not None:
            low, high = found.interval()
            values |= {"ours": found.value, "low": low, "high": high, "seeds": len(found.values)}
            values |= {"least": found.values.min(), "most": found.values.max()}
            values["difference"] = found.value - cell.miou
        rows.append({**cell.keys, **values})
    measures = ["paper", "source_quality", "ours", "low", "high", "seeds", "least", "most", "difference"]
    names = [*table.cells[0].keys, *measures]
    return pd.DataFrame(rows, columns=names).rename(columns=lambda name: name.replace("_", " "))


def _measures(table: Table, profile: Profile, values: pd.DataFrame) -> pd.DataFrame:
    """The columns :data:`MEASURES` as texts, without those that are empty in every row."""
    found = pd.DataFrame({"paper": ["" if pd.isna(value) else f"{value:.2f}" for value in values["paper"]]})
    if all(cell.variant is None for cell in table.cells):
        return found
    absent = ["missing" if cells.is_run(cell, profile) else "not run" for cell in table.cells]
    texts = [_row_texts(row, word) for row, word in zip(values.to_dict("records"), absent, strict=True)]
    for name, column in zip(MEASURES[1:], zip(*texts, strict=True), strict=True):
        found[name] = column
    return found if values["seeds"].max() > 1 else found.drop(columns="seeds")


def _row_texts(row: dict, absent: str) -> tuple[str, str, str, str]:
    """Ours (else ``absent``), its interval, the seeds' range and the difference of one cell."""
    if pd.isna(row["ours"]):
        return absent, "", "", ""
    seeds = f"{row['least']:.1f} to {row['most']:.1f}" if row["seeds"] > 1 else ""
    difference = "" if pd.isna(row["difference"]) else f"{row['difference']:+.2f}"
    return f"{row['ours']:.2f}", f"{row['low']:.1f} to {row['high']:.1f}", seeds, difference


def _layout(table: Table, profile: Profile, values: pd.DataFrame) -> pd.DataFrame:
    """The table in the paper's layout: one row a cell, or the values of ``across`` as columns."""
    measures = _measures(table, profile, values)
    keys = [name.replace("_", " ") for name in table.cells[0].keys]
    if not table.across:
        return pd.concat([values[keys], measures], axis=1)
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for cell, texts in zip(table.cells, measures.to_dict("records"), strict=True):
        rest = tuple(value for key, value in cell.keys.items() if key != table.across)
        for name in measures.columns.drop("difference", errors="ignore"):
            rows.setdefault((*rest, name), {})[cell.keys[table.across]] = texts[name]
    names = [key.replace("_", " ") for key in table.cells[0].keys if key != table.across]
    return pd.DataFrame([dict(zip([*names, " "], row, strict=True)) | texts for row, texts in rows.items()])


def _notes(table: Table, profile: Profile, values: pd.DataFrame) -> list[str]:
    if all(cell.variant is None for cell in table.cells):
        return [f"The paper's values: {table.measure}. Not run here."]
    variants = [cell.variant for cell in table.cells if cell.variant is not None]
    networks = " and ".join(dict.fromkeys(profile.model.backbones[variant["backbone"]] for variant in variants))
    seeds = f"seed {profile.seed}" if profile.seeds == 1 else f"mean of up to {profile.seeds} seeds"
    notes = [
        f"Paper: {table.measure}. Ours: mIoU with {networks}, profile {profile.name}, {seeds}; 95 % interval over "
        f"the images{' and the seeds' if profile.seeds > 1 else ''}. Compare the order of the rows, not the "
        "numbers, unless data and network are the paper's."
    ]
    notes += [table.remark] if table.remark else []
    if substitutes := _substitutes(table, profile):
        notes.append(f"In this profile {', '.join(substitutes)}.")
    if profile.from_scratch and any(cell.training.get("freeze_batch_norm") for cell in table.cells):
        notes.append(verdicts.FROM_SCRATCH)
    waits = cells.waiting(profile, [table.number])
    wanted = profile.seeds * (sum(cells.is_run(cell, profile) for cell in table.cells) - len(waits))
    if values["seeds"].sum() < wanted:
        more = f" --seeds {profile.seeds}" if profile.seeds > 1 else ""
        notes.append(f"Missing cells: deeplabv3 table {table.number} --profile {profile.option}{more} --run")
    return notes + waits


def is_half_measured(table: Table, profile: Profile, values: pd.DataFrame) -> bool:
    """True where at least half of the cells that the profile runs have records; ``values`` are :func:`frame`'s."""
    measured = int((values["seeds"] > 0).sum())
    return measured > 0 and measured >= sum(cells.is_run(cell, profile) for cell in table.cells) / 2


def _substitutes(table: Table, profile: Profile) -> list[str]:
    """Crops, batches and learning rates that are others under ``profile``, each as ``batch 16 is 8``."""
    found = []
    for name in ("crop_size", "batch_size", "lr"):
        for paper in sorted({cell.training[name] for cell in table.cells if name in cell.training}):
            own = cells.in_profile({name: paper}, profile).get(name, getattr(profile.training, name))
            if own != paper:
                found.append(f"{name.removesuffix('_size')} {paper} is {own}")
    return found


@dataclass(frozen=True, repr=False)
class TableView(Rendered):
    """A table of the paper beside the measured values, with the verdicts on its claims."""

    table: Table
    profile: Profile
    values: pd.DataFrame
    verdicts: tuple[verdicts.Verdict, ...]
    warnings: tuple[str, ...] = ()  # of lists too small for their intervals
    made_here: tuple[float, ...] = ()  # differences of the evaluations that stand for shipped ones

    @property
    def title(self) -> str:
        return f"Table {self.table.number}. {self.table.title} ({self.table.section})"

    @property
    def caption(self) -> str:
        return self.table.title

    @property
    def label(self) -> str:
        return f"tab:{self.table.number}"

    def texts(self) -> pd.DataFrame:
        return _layout(self.table, self.profile, self.values)

    def numbers(self) -> pd.DataFrame:
        return self.values.assign(table=self.table.number)

    def notes(self) -> list[str]:
        notes = _notes(self.table, self.profile, self.values) + list(self.warnings)
        if count := len(self.made_here):
            other = [abs(difference) for difference in self.made_here if difference]
            rest = f", the others within {max(other):.2f} points" if other else ""
            notes.append(
                f"Made here, not taken from what ships: {count} evaluation{'s' if count > 1 else ''}, "
                f"{count - len(other)} of them the same to the last digit{rest}."
            )
        return notes + [verdict.summary() for verdict in self.verdicts]


def view(number: int, profile: Profile, results: CellResults | None = None) -> TableView:
    """Table ``number`` beside the values measured under ``profile``, with the verdicts on the claims about it."""
    results = results or CellResults(profile)
    table = tables.load(number, profile.extra_data)
    all_claims = claims.load(profile.extra_data)
    found = [verdicts.evaluate_claim(claim, results) for claim in all_claims if number in claim.tables]
    here = reproduction.made_here(job for cell in table.cells for job in results.jobs(cell))
    return TableView(table, profile, frame(table, profile, results), tuple(found), tuple(results.warnings), tuple(here))


def render(number: int, profile: Profile, form: str = "text", results: CellResults | None = None) -> str:
    """Table ``number`` as ``text``, ``markdown``, ``csv``, ``html`` or ``latex``."""
    return FORMATS[form](view(number, profile, results))


def write_tables(profile: Profile, output: Path) -> None:
    """Write ``tables.md``, ``tables.tex`` and one ``table_NN.csv`` a table into ``output``."""
    results = CellResults(profile)
    views = [view(number, profile, results) for number in tables.ALL]
    for name, form in (("tables.md", "markdown"), ("tables.tex", "latex")):
        write_atomically(output / name, "\n".join(FORMATS[form](one) for one in views))
    for one in views:
        write_atomically(output / f"table_{one.table.number:02d}.csv", one.csv())
