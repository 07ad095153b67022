"""The paper, line by line: every anchor of ``data/paper/lines.yaml`` exists, and no part of the paper is left out."""

import ast
import importlib
import json
import re
from functools import cache
from pathlib import Path

import pytest

from walkthrough.paper import claims, tables

HOME = Path(__file__).resolve().parents[1]
SECTIONS = (
    "Abstract", "Section 1", "Section 2", "Section 3.1", "Section 3.2", "Section 3.2.1", "Section 3.3",
    "Section 4", "Section 4.1", "Section 4.2", "Section 4.3", "Section 5", "Appendix A", "Appendix B", "Appendix C",
)  # fmt: skip
"""The paper's, but for Section 3, which is two sentences on what follows."""


@pytest.fixture
def fill_lines(monkeypatch):
    """The module ``docs/fill_lines.py``."""
    monkeypatch.syspath_prepend(str(HOME / "docs"))
    return importlib.import_module("fill_lines")


@pytest.fixture
def lines(fill_lines):
    return fill_lines.load()


@cache
def headings(page: str) -> tuple[str, ...]:
    """The headings of a notebook, or of a page of docs/."""
    if page.endswith(".md"):
        texts = [(HOME / "docs" / page).read_text()]
    else:
        cells = json.loads((HOME / "notebooks" / f"{page}.ipynb").read_text())["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    return tuple(found for text in texts for found in re.findall(r"^#+ (.*)$", text, re.MULTILINE))


@cache
def definitions(path: Path) -> frozenset[str]:
    """Names of the functions, classes, methods and constants that a file defines, methods as ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        named = node.targets if isinstance(node, ast.Assign) else [node]
        found |= {getattr(one, "name", None) or getattr(one, "id", "") for one in named}
    return frozenset(found)


# --- anchors


def test_explained_headings_exist(lines):
    anchors = [line.explained.split(" > ") for line in lines if line.explained]
    assert len(anchors) > 100
    assert [anchor for anchor in anchors if headings(anchor[0]).count(anchor[1]) != 1] == []


def test_implemented_names_exist(lines, fill_lines):
    anchors = {anchor: fill_lines.source_file(anchor) for line in lines for anchor in line.implemented}
    assert len(anchors) > 40
    assert [anchor for anchor, file in anchors.items() if not file.is_file()] == []
    names = [(file, anchor.split(":")[1]) for anchor, file in anchors.items() if ":" in anchor]
    assert [(file, name) for file, name in names if name not in definitions(file)] == []


def test_proven_tests_exist(lines):
    anchors = {tuple(anchor.split("::")) for line in lines for anchor in line.proven}
    assert len(anchors) > 50
    assert all(path.startswith("tests/") and name.startswith("test_") for path, name in anchors)
    assert [(path, name) for path, name in anchors if name not in definitions(HOME / path)] == []


def test_measured_records_ship(lines):
    results = (HOME / "docs" / "results.md").read_text()
    records = HOME / "data" / "records"
    for anchor in sorted({anchor for line in lines for anchor in line.measured}):
        if anchor.startswith("Table "):
            assert f"### {anchor}. " in results, anchor
        elif anchor.startswith("bench/"):
            assert (records / f"{anchor}.json").is_file(), anchor
        else:
            assert (records / anchor / "run.json").is_file() and list((records / anchor).glob("eval-*.json")), anchor


# --- the whole paper


def test_every_line_has_an_anchor_or_a_reason(lines):
    assert 110 <= len(lines) <= 150
    assert len({(line.section, line.place) for line in lines}) == len(lines)
    for line in lines:
        assert line.says.endswith("."), line
        assert line.open or line.explained or line.implemented or line.proven or line.measured, line
        assert not line.open or line.open.endswith("."), line


def test_every_part_of_the_paper_has_a_line(lines):
    assert tuple(dict.fromkeys(line.section for line in lines)) == SECTIONS
    places = " ".join(line.place for line in lines)
    numbers = {kind: set(map(int, re.findall(rf"{kind} \(?(\d+)", places))) for kind in ("Figure", "Table", "Equation")}
    printed = set(tables.ALL) - {14}  # which is ours
    assert numbers == {"Figure": set(range(1, 9)), "Table": printed, "Equation": {1}}


def test_every_claim_has_a_line(lines):
    known = {claim.name: claim for claim in claims.load()}
    found = {name: line for line in lines for name in line.claims}
    assert set(found) == set(known)
    for name, line in found.items():
        claim = known[name]
        run = bool(claim.comparisons) and all(comparison.is_run for comparison in claim.comparisons)
        assert run or (line.open and not line.measured), f"{name} is not run, and its line has no reason"
        assert not run or {f"Table {number}" for number in claim.tables} & set(line.measured), name


def test_numbers_of_table_lines_are_the_tables(lines):
    compared = 0
    for line in lines:
        if line.place.startswith("Table "):
            printed = {f"{cell.miou:.2f}" for cell in tables.load(int(line.place.split()[1])).cells}
            said = re.findall(r"\b\d\d\.\d\d\b", line.says)
            assert set(said) <= printed, line
            compared += len(said)
    assert compared > 40


# --- the page


def test_page_shows_what_a_line_has(fill_lines):
    line = fill_lines.Line(
        "Section 3.1", "Dense Features", "rule", "It is so.", "02_output_stride > The unit",
        ("deeplabv3.config:SCALES",), ("tests/test_docs.py::test_readme_is_short",),
        ("Table 5", "bench/model-resnet50-cpu"), ("more blocks help",), "Not run.",
    )  # fmt: skip
    place, says, here = fill_lines._row(line, {"more blocks help": "higher"})
    assert (place, says) == ("rule", "It is so.")
    explained, code, test, measured, claim, opened = here.split("<br>")
    assert explained == "*explained:* [2: The unit](../notebooks/02_output_stride.ipynb#the-unit)"
    assert code == "*code:* [`config.SCALES`](../lib/deeplabv3/config.py)"
    assert test == "*test:* [readme is short](../tests/test_docs.py)"
    assert measured.startswith("*measured:* [Table 5](results.md#table-5-atrous-")
    assert measured.endswith(", [model-resnet50-cpu](benchmarks.md)")
    assert claim == "*claim:* [more blocks help](results.md#claims): higher" and opened == "*open:* Not run."


def test_page_leaves_out_what_a_line_lacks(fill_lines):
    assert fill_lines._row(fill_lines.Line("", "", "a", "b.", open="c."), {}) == ["a", "b.", "*open:* c."]


def test_counts_are_of_lines_that_have_something(fill_lines, lines):
    numbers = list(map(int, re.findall(r"\d+", fill_lines.counts())))
    names = ("explained", "implemented", "proven", "measured", "open")
    assert numbers == [len(lines), *(len([line for line in lines if getattr(line, name)]) for name in names)]
