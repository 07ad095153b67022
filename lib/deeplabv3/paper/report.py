"""The paper's tables beside what was measured: paper, ours, difference. Only records are read; nothing is run."""

import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deeplabv3.paper import tables
from deeplabv3.paper.tables import Table
from deeplabv3.profiles import Profile
from deeplabv3.training.checkpoint import write_atomically


def frame(table: Table, profile: Profile) -> pd.DataFrame:
    """One row a cell: what it varies, the paper's mIoU, ours and the difference in percent; NaN where no record is."""
    rows = []
    for cell in table.cells:
        run, settings = cell.job(profile)
        record = run.evaluation_record(settings)
        ours = record["miou"] if record else float("nan")
        rows.append({**cell.keys, "paper": cell.miou, "ours": ours, "difference": ours - cell.miou})
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))


def _texts(values: pd.DataFrame) -> pd.DataFrame:
    """The frame as it is printed."""
    texts = values.astype(object).copy()
    for name, form in (("paper", "{:.2f}"), ("ours", "{:.2f}"), ("difference", "{:+.2f}")):
        texts[name] = ["missing" if pd.isna(value) else form.format(value) for value in values[name]]
    texts.loc[values["ours"].isna(), "difference"] = ""
    return texts


def _notes(table: Table, profile: Profile, values: pd.DataFrame) -> list[str]:
    networks = " and ".join(dict.fromkeys(profile.backbones[cell.variant["backbone"]] for cell in table.cells))
    notes = [
        f"Paper: mIoU on VOC 2012 val. Ours: mIoU with {networks}, profile {profile.name}, seed {profile.seed}. "
        "Compare the order of the rows, not the numbers, unless data and network are the paper's."
    ]
    if stand_ins := _stand_ins(table, profile):
        notes.append(f"In this profile {', '.join(stand_ins)}.")
    from_scratch = not (profile.backbone_weights or profile.start)
    if from_scratch and any(cell.training.get("freeze_batch_norm") for cell in table.cells):
        notes.append(
            "This profile trains from scratch: batch norm that is not fine-tuned keeps mean 0 and deviation 1 there, "
            "which is none at all. The paper's keeps what ImageNet has taught it."
        )
    if values["ours"].isna().any():
        notes.append(f"Missing cells: deeplabv3 table {table.number} --profile {profile.name} --run")
    return notes


def _stand_ins(table: Table, profile: Profile) -> list[str]:
    """What crops and batches of the paper are under ``profile``, where they are something else."""
    found = []
    for name in ("crop", "batch"):
        for paper in sorted({cell.training[name] for cell in table.cells if name in cell.training}):
            own = tables.in_profile({name: paper}, profile).get(name, getattr(profile.training, name))
            if own != paper:
                found.append(f"{name} {paper} is {own}")
    return found


@dataclass(frozen=True)
class View:
    """A table for people: a notebook shows it as HTML, a terminal as text."""

    table: Table
    profile: Profile
    values: pd.DataFrame

    @property
    def title(self) -> str:
        return f"Table {self.table.number}. {self.table.title} ({self.table.section})"

    def __str__(self) -> str:
        notes = "\n".join(_notes(self.table, self.profile, self.values))
        return f"{self.title}\n\n{_texts(self.values).to_string(index=False)}\n\n{notes}\n"

    __repr__ = __str__

    def markdown(self) -> str:
        texts = _texts(self.values)
        lines = [" | ".join(texts.columns), " | ".join("---" for _ in texts.columns)]
        lines += [" | ".join(map(str, row)) for row in texts.itertuples(index=False)]
        body = "\n".join(f"| {line} |" for line in lines)
        return f"**{self.title}**\n\n{body}\n\n" + "\n\n".join(_notes(self.table, self.profile, self.values)) + "\n"

    def csv(self) -> str:
        buffer = io.StringIO()
        self.values.assign(table=self.table.number).round(3).to_csv(buffer, index=False)
        return buffer.getvalue()

    def _repr_html_(self) -> str:
        body = _texts(self.values).to_html(index=False, border=0)
        notes = "".join(f"<p><small>{note}</small></p>" for note in _notes(self.table, self.profile, self.values))
        return f"<p><b>{self.title}</b></p>\n{body}\n{notes}\n"


def view(number: int, profile: Profile) -> View:
    """Table ``number`` beside what ``profile`` has measured so far."""
    table = tables.load(number)
    return View(table, profile, frame(table, profile))


FORMATS = {"text": View.__str__, "markdown": View.markdown, "csv": View.csv, "html": View._repr_html_}


def render(number: int, profile: Profile, form: str = "text") -> str:
    """Table ``number`` as ``text``, ``markdown``, ``csv`` or ``html``."""
    return FORMATS[form](view(number, profile))


def write_tables(profile: Profile, output: Path) -> None:
    """Write ``tables.md``, ``tables.html`` and one ``table_NN.csv`` a table into ``output``."""
    for name, form in (("tables.md", "markdown"), ("tables.html", "html")):
        write_atomically(output / name, "\n".join(render(number, profile, form) for number in tables.NUMBERS))
    for number in tables.NUMBERS:
        write_atomically(output / f"table_{number:02d}.csv", render(number, profile, "csv"))
