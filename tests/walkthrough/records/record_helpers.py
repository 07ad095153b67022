"""Runs and records of the tests in this folder, and of the processes that they start."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from walkthrough.profiles import Profile
from walkthrough.records.run import Run

PROFILE = "tiny-tests"


def run_of(profile: Profile) -> Run:
    return Run.of(profile, profile.model_config())


def counts_of(mark: int) -> np.ndarray:
    """Counts ``(40, 3, 3)`` that tell who wrote them: all are ``mark`` on the diagonal."""
    return np.broadcast_to(np.eye(3, dtype=np.int64) * mark, (40, 3, 3))


def write(run: Run, mark: int) -> None:
    """Write an evaluation's record that says ``mark`` in both of its files."""
    settings = run.profile.evaluation
    values = run.evaluation_values(settings, counts_of(mark), 1.0) | {"mark": mark}
    run.write_evaluation_record(settings, values, counts_of(mark))


def recorded(run: Run, **changes: Callable[[dict], object]) -> Path:
    """Folder of the run's record; ``training`` and ``evaluation`` change the values of its files afterwards."""
    run.write_training_record(1.0)
    write(run, 3)
    for name, change in changes.items():
        stem = "run" if name == "training" else run.evaluation_name(run.profile.evaluation)
        path = run.record_folder() / f"{stem}.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    return run.record_folder()


def setting(part: str, **values) -> Callable[[dict], None]:
    """Function that changes settings of a training record."""
    return lambda record: record["settings"][part].update(values)


def make_trained(run: Run, step: int | None = None, **changes) -> Path:
    """Folder of the run, with a record and a checkpoint as if it were trained; ``changes`` are settings by part."""
    from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
    from walkthrough.experiments.run import initial_model

    settings = run.identity | {part: run.identity[part] | values for part, values in changes.items()}
    step = run.training.iterations if step is None else step
    run.folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(run.checkpoint, Checkpoint(step, 1.0, settings, initial_model(run).state_dict(), {}))
    run.write_training_record(1.0)
    return run.folder


def make_old(path: Path) -> None:
    """Let a file look as if nobody writes to it any more."""
    from deeplabv3.files import FRESH_S

    then = time.time() - FRESH_S - 10
    os.utime(path, (then, then))


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen]:
    """A process of record_process.py, which does not outlive the test."""
    command = [sys.executable, str(Path(__file__).with_name("record_process.py")), *map(str, arguments)]
    pipe = subprocess.PIPE
    started = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()
