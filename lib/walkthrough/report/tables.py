"""The paper's tables beside what was measured: paper, ours, how sure, difference. Records are read; nothing is run."""

import html
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deeplabv3.files import write_atomically
from walkthrough.paper import claims, tables
from walkthrough.paper.tables import Table
from walkthrough.profiles import Profile, profile_names
from walkthrough.records import cells
from walkthrough.report import verdicts
from walkthrough.report.results import CellResults

MEASURES = ("paper", "ours", "95 %", "seeds", "difference")


def frame(table: Table, profile: Profile, evidence: CellResults | None = None) -> pd.DataFrame:
    """One row a cell: what it varies, the paper's mIoU and ours (the mean over ``seeds``) in percent.

    ``low`` and ``high`` bound the 95 % interval, ``least`` and ``most`` are the seeds' own values, and
    ``difference`` is ours minus the paper's. NaN where there is no record.
    """
    evidence = evidence or CellResults(profile)
    rows = []
    for cell in table.cells:
        found = evidence.of(cell)
        values = {"paper": cell.miou, "source_quality": cell.source_quality, "ours": float("nan"), "seeds": 0}
        if found is not None:
            low, high = found.interval()
            values |= {"ours": found.value, "low": low, "high": high, "seeds": len(found.values)}
            values |= {"least": found.values.min(), "most": found.values.max()}
            values["difference"] = found.value - cell.miou
        rows.append({**cell.keys, **values})
    own = ["paper", "source_quality", "ours", "low", "high", "seeds", "least", "most", "difference"]
    names = [*table.cells[0].keys, *own]
    return pd.DataFrame(rows, columns=names).rename(columns=lambda name: name.replace("_", " "))


def _measures(table: Table, values: pd.DataFrame) -> pd.DataFrame:
    """The columns :data:`MEASURES` as they are printed, of those that have anything to say."""
    found = pd.DataFrame({"paper": [f"{value:.2f}" for value in values["paper"]]})
    if all(cell.variant is None for cell in table.cells):
        return found
    absent = ["not run" if cell.variant is None else "missing" for cell in table.cells]
    texts = [_texts(row, word) for row, word in zip(values.to_dict("records"), absent, strict=True)]
    for name, column in zip(MEASURES[1:], zip(*texts, strict=True), strict=True):
        found[name] = column
    return found if values["seeds"].max() > 1 else found.drop(columns="seeds")


def _texts(row: dict, absent: str) -> tuple[str, str, str, str]:
    """Ours, its interval, the seeds' range and the difference of one cell."""
    if pd.isna(row["ours"]):
        return absent, "", "", ""
    seeds = f"{row['least']:.1f} to {row['most']:.1f}" if row["seeds"] > 1 else ""
    return f"{row['ours']:.2f}", f"{row['low']:.1f} to {row['high']:.1f}", seeds, f"{row['difference']:+.2f}"


def _printed(table: Table, values: pd.DataFrame) -> pd.DataFrame:
    """The table as the paper lays it out: a row a cell, or the values of ``across`` as columns."""
    measures = _measures(table, values)
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
    if stand_ins := _stand_ins(table, profile):
        notes.append(f"In this profile {', '.join(stand_ins)}.")
    from_scratch = not (profile.model.backbone_weights or profile.model.init_from)
    if from_scratch and any(cell.training.get("freeze_batch_norm") for cell in table.cells):
        notes.append(
            "This profile trains from scratch: batch norm that is not fine-tuned keeps mean 0 and deviation 1 there, "
            "which is none at all. The paper's keeps what ImageNet has taught it."
        )
    wanted = profile.seeds * sum(cell.variant is not None for cell in table.cells)
    if values["seeds"].sum() < wanted:
        more = f" --seeds {profile.seeds}" if profile.seeds > 1 else ""
        name = profile.name if profile.name in profile_names() else f"{profile.name}.yaml"
        notes.append(f"Missing cells: deeplabv3 table {table.number} --profile {name}{more} --run")
    return notes


def _stand_ins(table: Table, profile: Profile) -> list[str]:
    """What crops and batches of the paper are under ``profile``, where they are something else."""
    found = []
    for name in ("crop_size", "batch_size"):
        for paper in sorted({cell.training[name] for cell in table.cells if name in cell.training}):
            own = cells.in_profile({name: paper}, profile).get(name, getattr(profile.training, name))
            if own != paper:
                found.append(f"{name.removesuffix('_size')} {paper} is {own}")
    return found


@dataclass(frozen=True)
class View:
    """A table for people: a notebook shows it as HTML, a terminal as text."""

    table: Table
    profile: Profile
    values: pd.DataFrame
    verdicts: tuple[verdicts.Verdict, ...]

    @property
    def title(self) -> str:
        return f"Table {self.table.number}. {self.table.title} ({self.table.section})"

    def notes(self) -> list[str]:
        """What the reader has to know, and what the table's claims come to."""
        return _notes(self.table, self.profile, self.values) + [verdict.line() for verdict in self.verdicts]

    def __str__(self) -> str:
        texts = _printed(self.table, self.values).to_string(index=False)
        return "\n".join([self.title, "", texts, "", *self.notes()]) + "\n"

    __repr__ = __str__

    def markdown(self) -> str:
        body = markdown_rows(_printed(self.table, self.values))
        return f"**{self.title}**\n\n{body}\n\n" + "\n\n".join(self.notes()) + "\n"

    def csv(self) -> str:
        buffer = io.StringIO()
        self.values.assign(table=self.table.number).round(3).to_csv(buffer, index=False)
        return buffer.getvalue()

    def latex(self) -> str:
        body = _printed(self.table, self.values).rename(columns={" ": ""})
        return body.to_latex(
            index=False, escape=True, caption=_escaped(self.table.title), label=f"tab:{self.table.number}"
        )

    def _repr_html_(self) -> str:
        body = _printed(self.table, self.values).to_html(index=False, border=0)
        notes = "".join(f"<p><small>{html.escape(note)}</small></p>" for note in self.notes())
        return f"<p><b>{self.title}</b></p>\n{body}\n{notes}\n"


def markdown_rows(texts: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table."""
    lines = [" | ".join(texts.columns), " | ".join("---" for _ in texts.columns)]
    lines += [" | ".join(map(str, row)) for row in texts.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("&", r"\&").replace("%", r"\%").replace("_", r"\_")


def view(number: int, profile: Profile, evidence: CellResults | None = None) -> View:
    """Table ``number`` beside what ``profile`` has measured so far, with the verdicts on what the paper says of it."""
    evidence = evidence or CellResults(profile)
    table = tables.load(number)
    own = [verdicts.evaluate_claim(claim, evidence) for claim in claims.load() if number in claim.tables]
    return View(table, profile, frame(table, profile, evidence), tuple(own))


FORMATS = {
    "text": View.__str__,
    "markdown": View.markdown,
    "csv": View.csv,
    "html": View._repr_html_,
    "latex": View.latex,
}


def render(number: int, profile: Profile, form: str = "text", evidence: CellResults | None = None) -> str:
    """Table ``number`` as ``text``, ``markdown``, ``csv``, ``html`` or ``latex``."""
    return FORMATS[form](view(number, profile, evidence))


def write_tables(profile: Profile, output: Path) -> None:
    """Write ``tables.md``, ``tables.html``, ``tables.tex`` and one ``table_NN.csv`` a table into ``output``."""
    evidence = CellResults(profile)
    views = [view(number, profile, evidence) for number in tables.ALL]
    for name, form in (("tables.md", "markdown"), ("tables.html", "html"), ("tables.tex", "latex")):
        write_atomically(output / name, "\n".join(FORMATS[form](one) for one in views))
    for one in views:
        write_atomically(output / f"table_{one.table.number:02d}.csv", one.csv())
