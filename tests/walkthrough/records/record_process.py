"""A process that writes or makes a record for the tests: PROFILE ACTION …, as the functions below say."""

import os
import signal
import sys
from pathlib import Path

from record_helpers import run_of, write

from walkthrough.profiles import load_profile
from walkthrough.records import run as records
from walkthrough.records.run import Run

# PyTorch is loaded by the actions that need it alone: it takes seconds.


def write_without_torch(run: Run, mark: int) -> None:
    records.environment, records.peak_memory_mib = lambda precision: {}, int
    write(run, mark)


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
        write_without_torch(run, number)
        number += 1


def write_until(run: Run, mark: str, suffix: str) -> None:
    """Be killed with ``kill -9`` when the file with ``suffix`` is about to get its name."""
    replace = os.replace

    def replace_or_die(source: Path, target: Path) -> None:
        if str(target).endswith(suffix):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die
    write_without_torch(run, int(mark))


def train(run: Run) -> None:
    """Train, saying each step; wait after the first."""
    from walkthrough.experiments.run import train_run

    def report(step: int, loss: float, lr: float) -> None:
        print(f"step {step}.", flush=True)
        if step == 0:
            wait()

    train_run(run, report)
    print("trained", flush=True)


def evaluate(run: Run) -> None:
    """Evaluate, saying how many images are done; wait after the second."""
    from walkthrough.experiments.run import evaluate_run

    def report(done: int) -> None:
        print(f"done {done}.", flush=True)
        if done == 2:
            wait()

    evaluate_run(run, run.profile.evaluation, report, save_every_s=0.0)


def hold(run: Run, path: str) -> None:
    """Hold a lock, with a child such as data workers are, until both are killed."""
    from walkthrough.records.lock import locked

    with locked(Path(path), "a test"):
        if not os.fork():  # what the child says it says behind its own start, in which it closes the lock's file
            print(f"held, child {os.getpid()}.", flush=True)
        signal.pause()


if __name__ == "__main__":
    actions = (write_often, write_until, train, evaluate, hold)
    {action.__name__: action for action in actions}[sys.argv[2]](run_of(load_profile(sys.argv[1])), *sys.argv[3:])
