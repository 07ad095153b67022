"""Kernels of the walkthrough: their environment, their end, and their progress."""

import io
import json
import os
import re
import sys

import pytest
from notebook_helpers import isolate, load, run, state, write_notebook

from walkthrough import profiles


@pytest.fixture
def root(monkeypatch, tmp_path):
    """An empty folder for a test's notebooks and output."""
    isolate(monkeypatch, tmp_path / "library")
    return tmp_path


def test_dead_kernel_is_a_failure(root, capsys):
    write_notebook(root / "notebooks", "00_first", "print('alive')", "import os\nos._exit(1)", "print('never')")
    assert run(root) == 1
    message = capsys.readouterr().err
    assert "00_first failed in cell [5]" in message and "died" in message
    assert "alive" in (root / "output" / "00_first.failed.ipynb").read_text()
    assert state(root / "output") == {"00_first": "failed"}


def test_interrupt_keeps_partial_notebook_and_ends_kernel(root, capfd):
    interrupt = "os.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)"
    write_notebook(root / "notebooks", "00_first", "import os, signal, time\nprint('pid', os.getpid())", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(root)
    kept = (root / "output" / "00_first.failed.ipynb").read_text()
    assert state(root / "output") == {"00_first": "interrupted"}
    assert "interrupted" in (root / "output" / "index.html").read_text()
    assert capfd.readouterr().err == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(re.search(r"pid (\d+)", kept)[1]), 0)


def test_kernels_get_profile_parameters_and_absolute_paths(root, monkeypatch):
    show = "import os\nprint([profile, steps, os.environ['DEEPLABV3_PROFILE'], os.environ['DEEPLABV3_WORKSPACE']])"
    write_notebook(root / "notebooks", "00_first", show)
    (root / "own.yaml").write_text((profiles.FOLDER / "smoke.yaml").read_text())
    monkeypatch.chdir(root)
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", "work {here}")
    assert run(root, profile="own.yaml", output=None, parameters={"steps": 7}) == 0
    output = root / "work {here}" / "walkthrough" / "own"
    own = str(root / "own.yaml")
    text = load(output / "00_first.ipynb").cells[-1].outputs[0].text
    assert text == f"{[own, 7, own, str(root / 'work {here}')]}\n"
    assert os.environ["DEEPLABV3_WORKSPACE"] == "work {here}" and "DEEPLABV3_PROFILE" not in os.environ


def test_kernels_ignore_user_kernelspecs_and_startup_files(root, monkeypatch):
    spec = root / "jupyter" / "kernels" / "python3" / "kernel.json"
    startup = root / "ipython" / "profile_default" / "startup" / "own.py"
    for file in (spec, startup):
        file.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false"], "display_name": "Another", "language": "python"}))
    startup.write_text("import sys; sys.executable = 'changed'")
    monkeypatch.setenv("JUPYTER_PATH", str(root / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(root / "ipython"))
    write_notebook(root / "notebooks", "00_first", "import sys\nprint(sys.executable)")
    assert run(root) == 0
    assert load(root / "output" / "00_first.ipynb").cells[-1].outputs[0].text.strip() == sys.executable


def test_terminal_shows_bars_instead_of_lines(root, monkeypatch, capsys):
    write_notebook(root / "notebooks", "00_first")
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(root) == 0
    assert "00_first: " in terminal.getvalue() and "cells: " in terminal.getvalue()
    assert "…" not in capsys.readouterr().out
