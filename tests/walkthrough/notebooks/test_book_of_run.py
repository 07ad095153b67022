"""The book at the end of a walkthrough: what its start page shows, and what is left where it cannot be built."""

import json
import sys

import pytest

from deeplabv3.errors import UserError
from walkthrough.notebooks import book


@pytest.fixture
def output(monkeypatch, tmp_path):
    """The output folder of a walkthrough with an earlier book, and a checkout whose settings of Sphinx fail."""
    for folder in ("home/data/paper", "home/docs/book", "output/book"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "home/docs/index.md").write_text("# A book")
    (tmp_path / "home/docs/book/conf.py").write_text("1 / 0")
    (tmp_path / "output/book/earlier.html").touch()
    rows = "".join(f"| {name:8} | 1.0 | {state} |\n" for name, state in (("00_first", "done"), ("01_next", "failed")))
    (tmp_path / "output/summary.md").write_text(rows)
    (tmp_path / "output/00_first.ipynb").write_text("{}")
    monkeypatch.setenv("DEEPLABV3_HOME", str(tmp_path / "home"))
    return tmp_path / "output"


def left(output):
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())


BEFORE = ["00_first.ipynb", "book/earlier.html", "summary.md"]


@pytest.mark.parametrize("missing", ["sphinx", "autoapi", "docs/book"])
def test_missing_extra_is_named_in_a_sentence(output, monkeypatch, capsys, missing):
    if missing == "docs/book":
        (output.parent / "home/docs/book/conf.py").unlink()
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    book.end_in_book(output, ["00_first"])
    (line,) = capsys.readouterr().out.splitlines()
    assert "pip install -e '.[book]'" in line and line.endswith(f"the executed notebooks are in {output}.")
    assert left(output) == BEFORE


def test_failed_build_keeps_earlier_book(output):
    pytest.importorskip("sphinx", reason="the extra 'book' is not installed")
    with pytest.raises(UserError, match=r"could not be built; the notebooks are in .*(?s:.*)division by zero"):
        book.end_in_book(output, ["00_first"])
    assert left(output) == BEFORE


def test_stopped_build_keeps_earlier_book(output):
    pytest.importorskip("sphinx", reason="the extra 'book' is not installed")
    stop = "import os, signal, time\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    (output.parent / "home/docs/book/conf.py").write_text(stop)
    with pytest.raises(KeyboardInterrupt):
        book.end_in_book(output, ["00_first"])
    assert left(output) == BEFORE


def test_start_page_links_only_executed_notebooks(output):
    (output / "reproduction.json").write_text(json.dumps({"summary": "Reproduced 1 of 1 run."}))
    (output / "claims.md").write_text("## The claims")
    page = book.start_page(output, ["docs/data.md", "notebooks/00_first.ipynb"])
    assert "| [](/notebooks/00_first.ipynb) | 1.0 | done |" in page and "| 01_next  | 1.0 | failed |" in page
    assert page.index("Reproduced 1 of 1 run.") < page.index("## The claims")
    assert "walkthrough.png" not in page
