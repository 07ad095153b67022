"""SIGINT and SIGTERM: stop, save, resume later."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from deeplabv3.errors import UserError


class Interrupted(UserError):
    """Training was asked to stop and has saved its checkpoint."""


class Terminated(KeyboardInterrupt):
    """SIGTERM. Like Ctrl-C it is no ``Exception``, which a reader of images would take for a damaged file."""


def sigterm_interrupts() -> AbstractContextManager[None]:
    """Context in which SIGTERM raises :class:`Terminated` at once, as SIGINT raises KeyboardInterrupt."""

    def throw(exception: BaseException) -> None:
        raise exception

    return _on_signals(throw, signal.SIGTERM)


@contextmanager
def stop_requests(grace_s: float = 9.0) -> Iterator[list[BaseException]]:
    """A list that SIGINT and SIGTERM append their exceptions to, so that they never break into the middle of a step.

    ``grace_s`` seconds after SIGTERM a process that is still in this context, waiting for a disk perhaps, is ended.
    """
    requests: list[BaseException] = []
    deadline = threading.Timer(grace_s, _end, [grace_s])
    deadline.daemon = True

    def request(exception: BaseException) -> None:
        requests.append(exception)
        if isinstance(exception, Terminated) and not deadline.is_alive():
            deadline.start()

    try:
        with _on_signals(request, signal.SIGINT, signal.SIGTERM):
            yield requests
    finally:
        deadline.cancel()


def _end(grace_s: float) -> None:
    text = f"\nended {grace_s:.0f} s after SIGTERM without saving; the same command goes on from the last checkpoint."
    print(text, file=sys.stderr, flush=True)
    os._exit(128 + signal.SIGTERM)


@contextmanager
def _on_signals(handle: Callable[[BaseException], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call ``handle`` with the exception of each signal; in the main thread alone, since no other has handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, _: object) -> None:
        stop = Terminated("stopped on the way; the same command goes on.")
        handle(KeyboardInterrupt() if number == signal.SIGINT else stop)

    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)
