"""A process of test_store.py that writes or makes a record: PROFILE DOING …, as the functions below say."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch

from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.profiles import Profile, load_profile
from walkthrough.records.lock import locked
from walkthrough.records.run import Run


def run_of(profile: Profile) -> Run:
    return Run.of(profile, profile.model_config())


def counts_of(mark: int) -> np.ndarray:
    """Counts that tell who wrote them: all are ``mark`` on the diagonal."""
    return np.broadcast_to(np.eye(3, dtype=np.int64) * mark, (40, 3, 3))


def write(run: Run, mark: int) -> None:
    """An evaluation's record that says ``mark`` in both of its files."""
    settings = run.profile.evaluation
    values = run.evaluation_values(settings, counts_of(mark), 1.0) | {"mark": mark}
    run.write_evaluation_record(settings, values, counts_of(mark))


def keep_writing(run: Run, first: str, times: str) -> None:
    for number in range(int(times)):
        write(run, int(first) + number)
        print("written", flush=True)


def write_until(run: Run, mark: str, final: str) -> None:
    """Be killed with ``kill -9`` when the file that ends in ``final`` is about to get its name."""
    honest = os.replace

    def replace(source: Path, target: Path) -> None:
        if str(target).endswith(final):
            os.kill(os.getpid(), signal.SIGKILL)
        honest(source, target)

    os.replace = replace
    write(run, int(mark))


def train(run: Run, waits: str = "") -> None:
    """Train, saying each step; after the first, ``waits`` for a line of input."""

    def report(step: int, loss: float, lr: float) -> None:
        print(f"step {step}.", flush=True)
        if waits and step == 0:
            sys.stdin.readline()

    train_run(run, report)
    print("trained", flush=True)


def evaluate(run: Run, waits: str = "") -> None:
    """Evaluate, saying how many images are done; after the second, ``waits`` for a line of input."""

    def report(done: int) -> None:
        print(f"done {done}.", flush=True)
        if waits and done == 2:
            sys.stdin.readline()

    evaluate_run(run, run.profile.evaluation, report, save_every_s=0.0)


def hold(run: Run, path: str) -> None:
    """Hold a lock, with a child of the kind that data workers are."""
    with locked(Path(path), "a test"):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        print(f"held, child {child}.", flush=True)
        time.sleep(30)


if __name__ == "__main__":
    torch.set_num_threads(1)
    doings = (keep_writing, write_until, train, evaluate, hold)
    {doing.__name__: doing for doing in doings}[sys.argv[2]](run_of(load_profile(sys.argv[1])), *sys.argv[3:])
