"""A process that writes or makes a record for the tests: PROFILE ACTION …, as the functions below say."""

import os
import signal
import sys
from pathlib import Path

import torch
from record_helpers import run_of, write

from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.profiles import load_profile
from walkthrough.records.lock import locked
from walkthrough.records.run import Run


def wait() -> None:
    """Wait for a line of input."""
    sys.stdin.readline()


def write_often(run: Run, first: str) -> None:
    """Say "ready" and wait; then write records with marks from ``first`` on, until there is input again."""
    number = int(first)
    print("ready", flush=True)
    wait()
    os.set_blocking(sys.stdin.fileno(), False)
    while not sys.stdin.buffer.raw.read(1):
        write(run, number)
        number += 1


def write_until(run: Run, mark: str, suffix: str) -> None:
    """Be killed with ``kill -9`` when the file with ``suffix`` is about to get its name."""
    replace = os.replace

    def replace_or_die(source: Path, target: Path) -> None:
        if str(target).endswith(suffix):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die
    write(run, int(mark))


def train(run: Run) -> None:
    """Train, saying each step; wait after the first."""

    def report(step: int, loss: float, lr: float) -> None:
        print(f"step {step}.", flush=True)
        if step == 0:
            wait()

    train_run(run, report)
    print("trained", flush=True)


def evaluate(run: Run) -> None:
    """Evaluate, saying how many images are done; wait after the second."""

    def report(done: int) -> None:
        print(f"done {done}.", flush=True)
        if done == 2:
            wait()

    evaluate_run(run, run.profile.evaluation, report, save_every_s=0.0)


def hold(run: Run, path: str) -> None:
    """Hold a lock, with a child such as data workers are, until both are killed."""
    with locked(Path(path), "a test"):
        child = os.fork()
        if child:
            print(f"held, child {child}.", flush=True)
        signal.pause()


if __name__ == "__main__":
    torch.set_num_threads(1)
    actions = (write_often, write_until, train, evaluate, hold)
    {action.__name__: action for action in actions}[sys.argv[2]](run_of(load_profile(sys.argv[1])), *sys.argv[3:])
