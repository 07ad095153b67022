"""SIGINT and SIGTERM: stop, save, go on later."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from deeplabv3.errors import UserError


@contextmanager
def _stop_request() -> Iterator[list[BaseException]]:
    """Holds what SIGINT or SIGTERM should raise: raised within Ray's own code, it would come out as a SystemError."""
    stop: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reasons = {
        signal.SIGINT: KeyboardInterrupt(),
        signal.SIGTERM: Interrupted("stopped on the way; the same command goes on."),
    }
    previous = {number: signal.signal(number, lambda number, _: stop.append(reasons[number])) for number in reasons}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises :class:`Interrupted` wherever the program is, as SIGINT raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Interrupted("stopped on the way; the same command goes on.")

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Interrupted(UserError):
    """Training was asked to stop and has saved its checkpoint."""


@contextmanager
def _stop_requests():
    """An event that SIGINT and SIGTERM set, instead of breaking into the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
