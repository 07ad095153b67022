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
    gone = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda code: (ended.append(code), gone.set()))
    with stop_requests(grace_s=0.05) as stop:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGTERM)
        assert gone.wait(10)  # as long as a batch that never comes
    assert len(stop) == times
    assert ended == [143]
    assert "after SIGTERM without saving; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_that_stops_is_not_ended(ended, number):
    """Nor one that Ctrl-C asked, which can be pressed again."""
    before = threading.active_count()
    with stop_requests(grace_s=0.2) as stop:
        os.kill(os.getpid(), number)
        assert len(stop) == 1
        assert threading.active_count() - before == (number == signal.SIGTERM)
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
    assert ended == []
