"""The paper, line by line: ``docs/paper.md`` and README's counts from ``data/paper/lines.yaml``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fill_pages import HOME, count, table

from walkthrough.paper import tables

FILE = HOME / "data" / "paper" / "lines.yaml"


@dataclass(frozen=True)
class Line:
    """A line of the paper and what there is of it here; the file's head says what its fields hold."""

    section: str
    title: str
    place: str
    says: str
    explained: str = ""
    implemented: tuple[str, ...] = ()
    proven: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    open: str = ""


SEVERAL = ("implemented", "proven", "measured", "claims")
"""Fields that hold one text or a list of them."""


def load() -> list[Line]:
    """The lines in the order of the paper."""
    sections = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return [_line(one["section"], one["title"], fields) for one in sections for fields in one["lines"]]


def _line(section: str, title: str, fields: Mapping[str, Any]) -> Line:
    several = {name: fields[name] for name in SEVERAL if name in fields}
    found = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in several.items()}
    return Line(section, title, **{**fields, **found})


def counts() -> str:
    """How many lines there are, and of how many there is what."""
    lines = load()
    names = ("explained", "implemented", "proven", "measured")
    found = [f"{sum(bool(getattr(line, name)) for line in lines)} {name}" for name in names]
    opened = sum(bool(line.open) for line in lines)
    return f"{count(len(lines), 'line')}: {', '.join(found)}, {opened} open, in whole or in part"


def sections(verdicts: Mapping[str, str]) -> str:
    """A table for each section; ``verdicts`` has the verdict of each claim."""
    lines, parts = load(), []
    header = ("line", "the paper says", "here")
    for section in dict.fromkeys(line.section for line in lines):
        own = [line for line in lines if line.section == section]
        heading = f"{section}. {own[0].title}" if own[0].title else section
        rows = [_row(line, verdicts) for line in own]
        parts.append(f"## {heading}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def _row(line: Line, verdicts: Mapping[str, str]) -> list[str]:
    cells = {
        "explained": _explained(line.explained),
        "code": ", ".join(map(_code, line.implemented)),
        "test": ", ".join(map(_test, line.proven)),
        "measured": ", ".join(map(_measured, line.measured)),
        "claim": ", ".join(f"[{name}](results.md#claims): {verdicts.get(name, 'missing')}" for name in line.claims),
        "open": line.open,
    }
    return [line.place, line.says, "<br>".join(f"*{name}:* {cell}" for name, cell in cells.items() if cell)]


def slug(heading: str) -> str:
    """The anchor that GitHub and the book make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _explained(anchor: str) -> str:
    """Link to a heading of a notebook or a page; empty without one."""
    page, _, heading = anchor.partition(" > ")
    if not page:
        return ""
    if page.endswith(".md"):
        return f"[{page.removesuffix('.md')}: {heading}]({page}#{slug(heading)})"
    number = "" if heading[0].isdigit() else f"{int(page[:2])}: "
    return f"[{number}{heading}](../notebooks/{page}.ipynb#{slug(heading)})"


def source_file(anchor: str) -> Path:
    """The file of ``module:name``, or of a path."""
    if "/" in anchor:
        return HOME / anchor
    path = HOME / "lib" / anchor.split(":")[0].replace(".", "/")
    return path.with_suffix(".py")


def _code(anchor: str) -> str:
    path = source_file(anchor)
    text = f"{path.stem}.{anchor.split(':')[1]}" if ":" in anchor else path.name
    return f"[`{text}`](../{path.relative_to(HOME).as_posix()})"


def _test(anchor: str) -> str:
    path, name = anchor.split("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{path})"


def _measured(anchor: str) -> str:
    """Link to the table of a page that shows the record."""
    if anchor.startswith("Table "):
        one = tables.load(int(anchor.split()[1]))
        return f"[{anchor}](results.md#{slug(f'{anchor}. {one.title} ({one.section})')})"
    folder, name = anchor.split("/")
    if folder == "bench":
        return f"[{name}](benchmarks.md)"
    return f"[{name[-12:]}](results.md#real-images)"
