"""An evaluation to be killed at its fourth image, for test_evaluation_resume.py: PROFILE SECONDS_BETWEEN_SAVES."""

import sys
import time

import torch

from walkthrough.experiments.run import evaluate_run
from walkthrough.profiles import Profile, load_profile
from walkthrough.records.run import Run

LIST = {"data.val_list": "trainval"}
"""Nine images."""


def run_of(profile_file: str) -> tuple[Profile, Run]:
    profile = load_profile(profile_file, LIST)
    return profile, Run.of(profile, profile.model_config())


def report(done: int) -> None:
    time.sleep(0.1)
    print(f"done {done}", flush=True)
    while done == 4:  # a signal just before signal.pause() would not end it
        time.sleep(0.1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    profile, run = run_of(sys.argv[1])
    evaluate_run(run, profile.evaluation, report, save_every_s=float(sys.argv[2]))
