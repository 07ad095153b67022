"""Starting a command, killing it, and finding what it leaves running; for ``kills.py``."""

import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.context import ForkProcess
from pathlib import Path

import psutil
import torch

from walkthrough.cli import script
from walkthrough.experiments import local  # noqa: F401 (imported before a command is forked)
from walkthrough.notebooks import run as notebooks  # noqa: F401

MARK = "DEEPLABV3_KILLS"
"""Environment variable by which the processes of a trial are found, whoever their parent is by now."""

LONGEST_S = 600.0  # a command that takes longer waits for something that a kill has left
ORPHANS_S = 90.0  # children have so long to notice that their parent is gone: on a busy machine they first import torch


def start(folder: Path, words: list[str], warm: bool) -> ForkProcess:
    """The command in ``folder``; ``warm`` spares it the seconds of imports, which this process has made before."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder, words, warm))
    process.start()
    return process


def run(folder: Path, words: list[str], warm: bool) -> None:
    """Become the command: in a session of its own, with its workspace and temporary files in or beside ``folder``."""
    os.setsid()
    os.chdir(folder)
    for name in list(os.environ):
        if name.startswith("DEEPLABV3_"):
            del os.environ[name]
    os.environ |= {"DEEPLABV3_WORKSPACE": "workspace", MARK: str(folder), "OMP_NUM_THREADS": "1"}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(folder.parent / "tmp")}
    if (folder / "home").is_dir():
        os.environ["DEEPLABV3_HOME"] = "home"
    output = os.open(folder.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if not warm:
        os.execv(sys.executable, [sys.executable, "-m", "walkthrough", *words])
    torch.set_num_threads(1)
    tempfile.tempdir = None
    sys.argv[1:] = words
    sys.modules["__main__"].__spec__ = find_spec("walkthrough.__main__")  # what processes that it spawns import
    script()


def wait(process: ForkProcess, seconds: float = LONGEST_S) -> int | None:
    """Exit code of the command; None if it still runs after ``seconds``."""
    deadline = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < deadline:  # join() does not see the end of what was started cold
        time.sleep(0.01)
    return process.exitcode


def finish(folder: Path, words: list[str], warm: bool = True) -> tuple[float, float]:
    """Seconds of the undisturbed command, which has to succeed, before and after its first change on disk."""
    began = time.monotonic()
    process = start(folder, words, warm)
    wait_for_change(folder, process)
    start_s = time.monotonic() - began
    assert wait(process) == 0, (folder.parent / "output.txt").read_text()
    return start_s, time.monotonic() - began - start_s


def left_running(folder: Path, session: int | None) -> list[str]:
    """Names of the processes of a command that do not end by themselves; they are killed."""
    deadline = time.monotonic() + ORPHANS_S
    while (found := processes(folder, session)) and time.monotonic() < deadline:
        time.sleep(0.2)
    names = []
    for process in found:
        with suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[-100:])
            process.kill()
    return names


def processes(folder: Path, session: int | None) -> list[psutil.Process]:
    """Processes that a command in ``folder`` has started, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            own = os.getsid(process.pid) == session or process.environ().get(MARK) == str(folder)
            if own and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def changed(folder: Path) -> int:
    """Time of the last change of the folders in ``folder``, where files are made, replaced or deleted."""
    times = [0]
    for path, _, _ in os.walk(folder):
        with suppress(FileNotFoundError):  # deleted by now
            times.append(Path(path).stat().st_mtime_ns)
    return max(times)


def wait_for_change(folder: Path, process: ForkProcess) -> None:
    """Wait until the command changes something in its folder, or ends."""
    before = changed(folder)
    while process.is_alive() and changed(folder) == before:
        time.sleep(0.005)


def kill(process: ForkProcess, victim: str, draw: random.Random) -> bool:
    """Kill the command; False if it had ended before."""
    if not process.is_alive():
        return False
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        chosen = children if victim == "all" else [draw.choice(children)] if victim == "child" and children else []
        for child in chosen:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        if victim == "child" and chosen:
            wait(process)  # it goes on without the child, or ends with a sentence
            return True
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL
