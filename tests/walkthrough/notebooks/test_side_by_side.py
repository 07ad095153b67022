"""Notebooks that are executed two at a time, each in a process with its own share of the cores."""

import json
import os
import re
import signal

import pytest
import torch
from conftest import wait_for_end
from notebook_helpers import NAMES, executed, isolate, load, run, state, write_notebook, write_notebooks

from walkthrough.notebooks import execute
from walkthrough.notebooks import run as module
from walkthrough.profiles import load_profile

ALL = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
pytestmark = pytest.mark.skipif(len(ALL) < 2, reason="needs two cores that processes can be bound to")

MEET = """
import os, time
open(f"../{own}", "w").write(str(os.getpid()))
while not os.path.exists("../{other}") or not open("../{other}").read():
    time.sleep(0.02)
"""
"""A cell that ends when the other notebook has come as far."""


@pytest.fixture
def root(monkeypatch, tmp_path):
    """An empty folder; notebooks are executed on the first core and the second."""
    isolate(monkeypatch, tmp_path / "library")
    monkeypatch.setattr(module, "shares_of_cores", lambda profile: [{core} for core in ALL[:2]])
    return tmp_path


def meet(root, *sources):
    """Two notebooks that wait for one another before they execute ``sources``, the first and the second."""
    for own, other, source in zip("ab", "ba", sources, strict=True):
        write_notebook(root / "notebooks", f"0{'ab'.index(own)}_{own}", MEET.format(own=own, other=other), source)


def test_two_at_a_time_on_their_own_cores(root, capsys):
    cores = "import torch\nprint(os.sched_getaffinity(0), torch.get_num_threads())"
    meet(root, cores, cores)
    assert run(root) == 0
    shown = [load(root / "output" / f"{name}.ipynb").cells[-1].outputs[0].text for name in ("00_a", "01_b")]
    assert sorted(shown) == sorted(f"{{{core}}} 1\n" for core in ALL[:2])
    assert os.sched_getaffinity(0) == set(ALL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["00_a … started", "01_b … started"]
    assert not list((root / "output").glob(".kernels-*"))


def test_those_that_take_minutes_come_first(root, capsys):
    write_notebooks(root / "notebooks")
    file = root / "notebooks" / "02_third.ipynb"
    content = json.loads(file.read_text())
    content["metadata"]["minutes"] = 3
    file.write_text(json.dumps(content))
    assert run(root) == 0
    started = re.findall(r"(\w+) … started", capsys.readouterr().out)
    assert started == ["02_third", "00_first", "01_second"]
    assert sorted(executed(root)) == NAMES
    assert run(root) == 0 and executed(root) == []


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("1 / 0", "00_a failed in cell [5]"),
        # the process that executes the notebook, not its kernel
        ("os.kill(os.getppid(), 9)\ntime.sleep(600)", "00_a failed: its process was killed"),
    ],
)
def test_failure_stops_the_other(root, capsys, source, sentence):
    meet(root, source, "time.sleep(600)")
    assert run(root) == 1
    assert sentence in capsys.readouterr().err
    assert state(root / "output") == {"00_a": "failed", "01_b": "interrupted"}
    for name in "ab":
        wait_for_end(int((root / name).read_text()))


def test_interrupt_ends_both(root, capfd):
    meet(root, "time.sleep(600)", f"os.kill({os.getpid()}, {int(signal.SIGTERM)})\ntime.sleep(600)")
    with pytest.raises(KeyboardInterrupt):
        run(root)
    assert state(root / "output") == dict.fromkeys(("00_a", "01_b"), "interrupted")
    assert capfd.readouterr().err == ""
    for name in "ab":
        wait_for_end(int((root / name).read_text()))
        assert (root / "output" / f"0{'ab'.index(name)}_{name}.failed.ipynb").is_file()


def test_only_what_is_not_done_is_executed(root, capsys):
    """Each notebook by itself: none reads what another one makes."""
    write_notebooks(root / "notebooks")
    assert run(root) == 0
    executed(root)
    write_notebook(root / "notebooks", "00_first", "print('changed')")
    assert run(root) == 0
    assert executed(root) == ["00_first"]


def test_single_notebook_has_all_cores(root):
    write_notebook(root / "notebooks", "00_a", "import os\nprint(os.sched_getaffinity(0))")
    assert run(root) == 0
    assert load(root / "output" / "00_a.ipynb").cells[-1].outputs[0].text == f"{set(ALL)}\n"


@pytest.mark.parametrize(("cores", "quota", "gpu", "recorded", "shares"), [
    ({0, 1}, 2, False, True, [{0}, {1}]),
    ({0, 1, 2, 5, 7}, 5, False, True, [{0, 2, 7}, {1, 5}]),
    ({3}, 1, False, True, [{3}]),
    ({0, 1, 2, 3}, 2, False, True, [{0, 1, 2, 3}]),  # a container that may use two of four
    ({0, 1}, 2, True, True, [{0, 1}]),
    ({0, 1}, 2, False, False, [{0, 1}]),
])  # fmt: skip
def test_shares_of_cores(monkeypatch, profile, cores, quota, gpu, recorded, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(execute, "available_cpus", lambda: quota)
    monkeypatch.setattr(execute, "_is_recorded", lambda profile: recorded)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert execute.shares_of_cores(profile) == shares


def test_profile_is_recorded_if_no_evaluation_lacks_a_record(workspace):
    recorded = {name: execute._is_recorded(load_profile(name)) for name in ("offline", "smoke", "voc")}
    assert recorded == {"offline": True, "smoke": False, "voc": False}
    assert not execute._is_recorded(load_profile("offline", {"seeds": 9}))


def test_record_of_a_share_names_all_cores(root):
    show = "from walkthrough.records.environment import environment\nprint(environment()['device'])"
    meet(root, show, show)
    assert run(root) == 0
    shown = {load(root / "output" / f"{name}.ipynb").cells[-1].outputs[0].text for name in ("00_a", "01_b")}
    assert shown == {"CPU (2 cores)\n"}
