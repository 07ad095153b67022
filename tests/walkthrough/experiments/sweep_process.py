"""A sweep for test_sweep.py: PROFILE TABLES. It adds the name of each run that it trains to ``trained``."""

import sys

from walkthrough import paths
from walkthrough.cli import main
from walkthrough.experiments import task
from walkthrough.records.run import Run

write_training_record = Run.write_training_record


def write_and_note(run: Run, seconds: float) -> None:
    with open(paths.workspace() / "trained", "a") as file:
        file.write(f"{run.name}\n")
    write_training_record(run, seconds)


# In the worker processes, too, which import this file. One core: several sweeps with all threads each are slow.
Run.write_training_record = write_and_note
task.available_cpus = lambda: 1

if __name__ == "__main__":
    sys.exit(main(["sweep", "--profile", sys.argv[1], "--tables", sys.argv[2], "--set", "runtime.parallel_runs=1"]))
