"""Helpers of tests that interrupt training: signals at the right moment, without fixed sleeps."""

import multiprocessing
import os
import threading
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import ModuleType

from walkthrough.experiments.progress import Progress
from walkthrough.profiles import Profile


def with_runtime(profile: Profile, **changes) -> Profile:
    return replace(profile, runtime=replace(profile.runtime, **changes))


def with_training(profile: Profile, **changes) -> Profile:
    return replace(profile, training=replace(profile.training, **changes))


def interrupt_at_first_step(monkeypatch, module: ModuleType, number: int, whole_group: bool = False) -> list:
    """Send this process a signal after the first step that is reported to ``module``'s progress bar.

    With ``whole_group`` the workers get it, too. Return the list that the workers are put in.
    """
    trained, workers = threading.Event(), []

    class Spy(Progress):
        def moved(self, *event) -> None:
            super().moved(*event)
            trained.set()

    def interrupt() -> None:
        trained.wait(300)
        workers.extend(multiprocessing.active_children())
        for pid in (os.getpid(), *(worker.pid for worker in workers if whole_group)):
            os.kill(pid, number)

    monkeypatch.setattr(module, "Progress", Spy)
    threading.Thread(target=interrupt, daemon=True).start()
    return workers


def assert_ended(workers: list[BaseProcess]) -> None:
    assert workers, "there were none"
    for worker in workers:
        # Not join(): the pool's thread does, too, and the loser of that race sees no exit code.
        assert wait([worker.sentinel], timeout=60), f"{worker} lives"
