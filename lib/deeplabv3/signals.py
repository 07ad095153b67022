"""SIGINT and SIGTERM: stop, save, resume later."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from deeplabv3.errors import UserError


class Interrupted(UserError):
    """Training was asked to stop and has saved its checkpoint."""


def sigterm_interrupts() -> AbstractContextManager[None]:
    """Context in which SIGTERM raises :class:`Interrupted` at once, as SIGINT raises KeyboardInterrupt."""

    def throw(exception: BaseException) -> None:
        raise exception

    return _on_signals(throw, signal.SIGTERM)


@contextmanager
def stop_requests() -> Iterator[list[BaseException]]:
    """A list that SIGINT and SIGTERM append their exceptions to, so that they never break into the middle of a step."""
    requests: list[BaseException] = []
    with _on_signals(requests.append, signal.SIGINT, signal.SIGTERM):
        yield requests


@contextmanager
def _on_signals(handle: Callable[[BaseException], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call ``handle`` with the exception of each signal; in the main thread alone, since no other has handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _: object) -> None:
        stop = Interrupted("stopped on the way; the same command goes on.")
        handle(KeyboardInterrupt() if number == signal.SIGINT else stop)

    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
