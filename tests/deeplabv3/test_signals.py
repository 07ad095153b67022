"""SIGTERM ends a process, whether or not it comes to a stop by itself."""

import os
import signal
import threading

import pytest

from deeplabv3.signals import stop_requests


@pytest.fixture
def ended(monkeypatch) -> list[int]:
    """Exit codes that this process would have ended with."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


@pytest.mark.parametrize("times", [1, 2])
def test_hanging_process_ends_after_sigterm(ended, monkeypatch, capsys, times):
    gone, over = threading.Event(), threading.Event()

    def end(code: int) -> None:
        ended.append(code)
        gone.set()
        over.wait(60)  # os._exit() does not return either: the second signal may come behind the end

    monkeypatch.setattr(os, "_exit", end)
    with stop_requests(grace_s=0.05) as stop:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
        assert gone.wait(60)  # as long as a batch that never comes
        over.set()
    assert len(stop) == times
    assert ended == [143]
    assert "after SIGTERM without saving; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_that_stops_is_not_ended(ended, number):
    """Nor one that Ctrl-C asked, which can be pressed again."""
    before = {*threading.enumerate()}
    with stop_requests(grace_s=20) as stop:  # more than a busy machine takes to leave the context
        os.kill(os.getpid(), number)
        assert len(stop) == 1
        timers = [new for new in {*threading.enumerate()} - before if isinstance(new, threading.Timer)]
        assert len(timers) == (number == signal.SIGTERM)
    for timer in timers:
        timer.join()
    assert ended == []
