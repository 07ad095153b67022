"""The walkthrough with small notebooks: what is executed when, what is kept, and what the reader gets."""

import io
import re
import shutil
from contextlib import redirect_stdout

import pytest
from notebook_helpers import NAMES, executed, isolate, load, run, state, write_notebook, write_notebooks

from deeplabv3.errors import UserError
from walkthrough import profiles
from walkthrough.notebooks import execute
from walkthrough.notebooks import run as module
from walkthrough.notebooks.run import refresh


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run: its folder and what it printed. Tests only look at it."""
    root = tmp_path_factory.mktemp("finished")
    write_notebooks(root / "notebooks")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        isolate(patch, root / "library")
        patch.setenv("MPLBACKEND", "Agg")
        assert run(root) == 0
    assert executed(root) == NAMES
    return root / "output", printed.getvalue()


@pytest.fixture
def root(monkeypatch, tmp_path):
    """An empty folder for a test's notebooks and output."""
    isolate(monkeypatch, tmp_path / "library")
    return tmp_path


@pytest.fixture
def again(finished, root):
    """A copy of the complete run, to go on with."""
    for part in ("notebooks", "output"):
        shutil.copytree(finished[0].parent / part, root / part)
    return root


def test_prints_progress_and_result_paths(finished):
    output, printed = finished
    lines = printed.splitlines()
    assert [line.split(" in ")[0] for line in lines[:6]] == [f"{n} … {w}" for n in NAMES for w in ("started", "done")]
    assert str(output / "tables.md") in printed
    assert lines[-1] == f"{output}: book of {', '.join(NAMES)}"
    assert (output / "tables.md").read_text() == "tables of smoke"
    assert (output / "summary.md").read_text() in printed
    assert [re.split(r"\s*\|\s*", line)[1:4:2] for line in lines if line.startswith("| 0")] == [
        [n, "done"] for n in NAMES
    ]


def test_executed_notebooks_have_outputs_without_noise(finished):
    output, _ = finished
    assert sorted(path.name for path in output.glob("*.ipynb")) == [f"{name}.ipynb" for name in NAMES]
    text = (output / "01_second.ipynb").read_text()
    assert "noise" not in text and "papermill" not in text and "injected" not in text and "iopub" not in text
    cells = [cell for cell in load(output / "01_second.ipynb").cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert [out.text for out in cells[2].outputs] == ["seen\ntoo\n"]
    assert cells[3].outputs[0].data["text/plain"] == "42"


def test_figures_appear_with_any_matplotlib_backend(finished):
    cells = load(finished[0] / "02_third.ipynb").cells
    assert ["image/png" in out.data for cell in cells[-2:] for out in cell.outputs] == [True, True]
    assert cells[-1].metadata.alt == "A line & more"


def test_finished_notebooks_are_not_executed_again(again, capsys):
    (again / "output" / "tables.md").unlink()
    assert run(again) == 0
    assert executed(again) == []
    assert "02_third … done before" in capsys.readouterr().out
    assert (again / "output" / "tables.md").is_file()


def test_changed_notebook_and_later_ones_are_executed(again):
    write_notebook(again / "notebooks", "01_second", "print('changed')")
    assert run(again) == 0
    assert executed(again) == NAMES[1:]
    assert "changed" in (again / "output" / "01_second.ipynb").read_text()


@pytest.mark.parametrize("change", ["library", "profile", "parameter", "executed file", "state"])
def test_changed_dependency_executes_everything(again, monkeypatch, change):
    seen = []
    monkeypatch.setattr(execute, "_papermill", lambda source, *_: seen.append(source.stem))
    own = again / "own.yaml"
    own.write_text((profiles.FOLDER / "smoke.yaml").read_text())
    run(again, profile=str(own))
    seen.clear()
    run(again, profile=str(own))
    assert seen == []
    if change == "library":
        (again / "library" / "model.py").write_text("two")
    elif change == "profile":
        own.write_text(own.read_text() + "\nseed: 77\n")
    elif change == "executed file":
        (again / "output" / "00_first.ipynb").unlink()
    elif change == "state":
        (again / "output" / "state.json").write_text("{ damaged")
    run(again, profile=str(own), parameters={"steps": 2} if change == "parameter" else {})
    assert seen == NAMES


def test_hash_covers_sources_of_both_packages():
    assert [folder.name for folder in module.PACKAGES] == ["deeplabv3", "walkthrough"]
    assert all((folder / "__init__.py").is_file() for folder in module.PACKAGES)


def test_fresh_executes_everything(again):
    assert run(again, fresh=True) == 0
    assert executed(again) == NAMES


def test_killed_run_leaves_later_notebooks_not_executed(again, monkeypatch):
    seen = []
    monkeypatch.setattr(execute, "_papermill", lambda source, *_: seen.append(state(again / "output")))
    run(again, fresh=True)
    assert seen[0] == dict.fromkeys(NAMES, "not executed")


def test_only_executes_named_notebooks_in_order(again, capsys):
    assert run(again, only=["02", "notebooks/00_first.ipynb"], fresh=True) == 0
    assert executed(again) == ["00_first", "02_third"]
    assert state(again / "output") == dict.fromkeys(NAMES, "done")
    assert run(again) == 0 and executed(again) == []


def test_only_goes_on_where_it_was(again):
    """From the first of those named that is not done; the others are not looked at."""
    assert run(again, only=["00", "02"]) == 0 and executed(again) == []
    write_notebook(again / "notebooks", "01_second", "print('changed')")
    assert run(again, only=["00", "02"]) == 0 and executed(again) == []
    (again / "output" / "02_third.ipynb").unlink()
    assert run(again, only=["00", "02"]) == 0 and executed(again) == ["02_third"]
    assert run(again, only=["00", "01", "02"]) == 0 and executed(again) == NAMES[1:]


def test_only_in_empty_output_leaves_others_pending(root, capsys):
    write_notebooks(root / "notebooks")
    assert run(root, only=["01_second"]) == 0
    assert executed(root) == ["01_second"]
    assert (root / "output" / "tables.md").is_file()
    assert state(root / "output")["00_first"] == "not executed"
    assert capsys.readouterr().out.endswith("book of 01_second\n")
    assert run(root, only=["02"]) == 0
    assert capsys.readouterr().out.endswith("book of 01_second, 02_third\n"), "with those executed earlier"


def test_failure_is_explained_and_resumed(again, capsys):
    output = again / "output"
    source = "from pathlib import Path\nassert Path('../mended').is_file(), 'not \\x1b[31mmended'"
    write_notebook(again / "notebooks", "01_second", "print('before it')", source)
    assert run(again) == 1
    assert executed(again) == ["01_second"]
    out, message = capsys.readouterr()
    assert "book of" not in out
    assert "01_second failed in cell [5]" in message and "AssertionError: not mended" in message
    assert "\x1b" not in message and str(output / "01_second.failed.ipynb") in message
    assert "The same command goes on from there" in message
    assert "before it" in (output / "01_second.failed.ipynb").read_text()
    assert not (output / "01_second.ipynb").exists() and (output / "02_third.ipynb").exists()
    assert state(output) == {"00_first": "done", "01_second": "failed", "02_third": "not executed"}
    assert "failed" in (output / "summary.md").read_text()

    (again / "mended").touch()
    assert run(again) == 0
    assert executed(again) == NAMES[1:]
    assert state(output) == dict.fromkeys(NAMES, "done")
    assert {path.name for path in output.glob("*.ipynb")} == {f"{name}.ipynb" for name in NAMES}


def test_failure_writes_no_tables(root):
    write_notebook(root / "notebooks", "00_first", "1 / 0")
    assert run(root) == 1
    assert not (root / "output" / "tables.md").exists()


def test_user_errors_come_before_execution(root, monkeypatch):
    monkeypatch.setattr(execute, "_papermill", lambda *_: pytest.fail("executed"))
    with pytest.raises(UserError, match="no notebooks"):
        run(root)
    write_notebooks(root / "notebooks")
    with pytest.raises(UserError, match=r"notebook '07' is unknown; choose from 00_first, 01_second, 02_third"):
        run(root, only=["07"])
    with pytest.raises(UserError, match=r"00_first has no parameter 'step'; its parameters are profile, steps"):
        run(root, parameters={"step": 1})
    with pytest.raises(UserError, match="--profile"):
        run(root, parameters={"profile": "voc"})
    with pytest.raises(UserError, match="profile 'nothing' is unknown"):
        run(root, profile="nothing")
    with pytest.raises(UserError, match="notebooks themselves"):
        run(root, output=root / "notebooks")
    (root / "file").touch()
    with pytest.raises(UserError, match=r"file/output cannot be written"):
        run(root, output=root / "file" / "output")
    write_notebook(root / "notebooks", "02_third", tags=())
    with pytest.raises(UserError, match="02_third has no cell tagged 'parameters'"):
        run(root)
    (root / "notebooks" / "02_third.ipynb").write_text("{")
    with pytest.raises(UserError, match=r"02_third.ipynb is not a valid notebook"):
        run(root)


def test_refresh_replaces_sources_by_executed_notebooks(again):
    (again / "notebooks" / "notes.ipynb").write_text("not ours")
    refresh(again / "output", again / "notebooks")
    for name in NAMES:
        assert (again / "notebooks" / f"{name}.ipynb").read_bytes() == (again / "output" / f"{name}.ipynb").read_bytes()
    assert (again / "notebooks" / "notes.ipynb").read_text() == "not ours"
    assert run(again) == 0 and executed(again) == []


def test_refresh_refuses_outdated_notebooks(again):
    before = (again / "notebooks" / "00_first.ipynb").read_text()
    write_notebook(again / "notebooks", "02_third", "print('changed since')")
    with pytest.raises(UserError, match="02_third as it is now"):
        refresh(again / "output", again / "notebooks")
    assert (again / "notebooks" / "00_first.ipynb").read_text() == before


def test_refresh_of_one_notebook_keeps_others(again):
    write_notebook(again / "notebooks", "02_third", "print('changed since')")
    changed = (again / "notebooks" / "02_third.ipynb").read_bytes()
    refresh(again / "output", again / "notebooks", ["00"])
    assert (again / "notebooks" / "00_first.ipynb").read_bytes() == (again / "output" / "00_first.ipynb").read_bytes()
    assert (again / "notebooks" / "02_third.ipynb").read_bytes() == changed
