"""Kernels of the walkthrough: their environment, their end, and their progress."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import wait_for_end
from notebook_helpers import isolate, load, run, state, write_notebook

from walkthrough import profiles


@pytest.fixture
def root(monkeypatch, tmp_path):
    """An empty folder for a test's notebooks and output."""
    isolate(monkeypatch, tmp_path / "library")
    return tmp_path


def test_dead_kernel_is_a_failure(root, capsys):
    dies = "import os, time\nos.write(2, b'its last words')\ntime.sleep(0.5)\nos._exit(1)"
    write_notebook(root / "notebooks", "00_first", "print('alive')", dies, "print('never')")
    assert run(root) == 1
    message = capsys.readouterr().err
    assert "00_first failed in cell [5]" in message and "died" in message and "its last words" in message
    assert "alive" in (root / "output" / "00_first.failed.ipynb").read_text()
    assert state(root / "output") == {"00_first": "failed"}


def test_interrupt_keeps_partial_notebook_and_ends_kernel(root, capfd):
    interrupt = "os.kill(os.getppid(), signal.SIGINT)\ntime.sleep(60)"
    write_notebook(root / "notebooks", "00_first", "import os, signal, time\nprint('pid', os.getpid())", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(root)
    kept = (root / "output" / "00_first.failed.ipynb").read_text()
    assert state(root / "output") == {"00_first": "interrupted"}
    assert "interrupted" in (root / "output" / "summary.md").read_text()
    printed = capfd.readouterr()
    assert "book of" not in printed.out and printed.err == ""
    with pytest.raises(ProcessLookupError):
        os.kill(int(re.search(r"pid (\d+)", kept)[1]), 0)


STOPPED = """
import sys
from pathlib import Path
from walkthrough import cli
from walkthrough.commands import walkthrough as command
from walkthrough.notebooks.run import walkthrough
root = Path({root!r})
command.main = lambda options: walkthrough("smoke", [], root / "output", False, {{}}, root / "notebooks")
sys.argv[1:] = ["walkthrough"]
cli.script()
"""


@pytest.mark.parametrize(
    ("number", "group", "code", "sentence"),
    [
        (signal.SIGINT, True, 130, "interrupted; what was finished is kept."),
        (signal.SIGTERM, False, 1, "stopped on the way; the same command goes on."),
        (signal.SIGTERM, True, 1, "stopped on the way; the same command goes on."),
    ],
)
def test_stopped_walkthrough_says_one_sentence(root, number, group, code, sentence):
    """Ctrl-C of a terminal and SIGTERM of a batch system, while a cell works; nothing is left running."""
    works = "import os, time\nopen('../started', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(root / "notebooks", "00_first", works)
    command = [sys.executable, "-c", STOPPED.format(root=str(root))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        while not (root / "started").is_file() or not (root / "started").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        (os.killpg if group else os.kill)(process.pid, number)
        stderr = process.communicate(timeout=60)[1].decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert (process.returncode, stderr) == (code, f"deeplabv3: {sentence}\n")
    assert state(root / "output") == {"00_first": "interrupted"}
    wait_for_end(int((root / "started").read_text()))
    assert not list((root / "output").glob(".kernels-*"))


SLOW_END = """
import asyncio
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

async def wait_and_clean_up(client):
    await asyncio.sleep(1.5)
    await client._async_cleanup_kernel()

NotebookClient._cleanup_kernel = run_sync(wait_and_clean_up)
"""


def test_kernel_that_ends_first_adds_no_words(root):
    """On a slow machine nbclient, which looks once a second, logs that its kernel is gone, and so may the kernel."""
    noise = "import os, signal, time\nos.write(2, b'noise')\ntime.sleep(0.5)"
    write_notebook(root / "notebooks", "00_first", noise, "os.kill(os.getppid(), signal.SIGTERM)\nos._exit(1)")
    command = [sys.executable, "-c", SLOW_END + STOPPED.format(root=str(root))]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (stopped.returncode, stopped.stderr) == (1, "deeplabv3: stopped on the way; the same command goes on.\n")


def test_folders_of_killed_walkthroughs_are_removed(root):
    write_notebook(root / "notebooks", "00_first")
    no_process = 2**30  # beyond Linux's largest number
    old, alive = (root / "output" / f".kernels-{pid}-x" for pid in (no_process, os.getpid()))
    for folder in (old, alive):
        folder.mkdir(parents=True)
        (folder / "kernel-1.json").touch()
    assert run(root) == 0
    assert not old.exists() and [*(root / "output").glob(".kernels-*")] == [alive]


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
