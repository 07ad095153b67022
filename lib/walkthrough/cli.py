"""The command ``deeplabv3``: parse the command line, run one command, and word its errors.

What takes time to import is imported in functions, after :func:`script` has taken care of Ctrl-C.
"""

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

COMMANDS = (
    "walkthrough", "data", "train", "evaluate", "predict", "test_set", "export", "table", "claims", "sweep",
    "reproduce", "records", "bench", "info",
)  # fmt: skip
"""Modules of :mod:`walkthrough.commands`."""

INTERRUPTED = "deeplabv3: interrupted; what was finished is kept."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    An error that the user can mend is one sentence on stderr and exit code 1; a defect keeps its traceback.
    """
    import argparse

    parser = argparse.ArgumentParser(prog="deeplabv3", description="The DeepLabv3 walkthrough (arXiv 1706.05587).")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    try:
        for name in COMMANDS:
            import_module(f"walkthrough.commands.{name}").add(subparsers)
        if "_ARGCOMPLETE" in os.environ:  # a shell asks for completions
            import argcomplete

            argcomplete.autocomplete(parser)
        options = parser.parse_args(arguments)
        return options.command(options) or 0
    except KeyboardInterrupt as stop:  # SIGTERM, too, which says what it is
        print(f"deeplabv3: {stop}" if str(stop) else INTERRUPTED, file=sys.stderr)
        return 1 if str(stop) else 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return 141  # what a shell reports of a process that SIGPIPE ended
        from walkthrough.commands.errors import explain

        sentence = explain(error)
        if sentence is None:
            raise
        print(f"deeplabv3: {sentence}", file=sys.stderr)
        return 1


def _stdout_is_closed() -> bool:
    """True if the reader of stdout, such as ``head``, has gone."""
    import select

    poll = select.poll()
    poll.register(sys.stdout, 0)  # a pipe without a reader is an error, which is always reported
    return bool(poll.poll(0))


def _interrupt(_: int, frame: FrameType | None) -> None:
    """Ctrl-C: end at once while a module is imported, which cannot be broken off (torch aborts), else as always."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, f"{INTERRUPTED}\n".encode())
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning of this project as a sentence, without file and line, which only those of libraries keep."""
    lib = Path(__file__).resolve().parents[1]
    own = any(Path(filename).resolve().is_relative_to(lib / package) for package in ("deeplabv3", "walkthrough"))
    if own and category is UserWarning:
        return f"deeplabv3: {message}\n"
    return _formatted(message, category, filename, lineno, line)


_formatted = warnings.formatwarning


def script() -> None:
    """Entry point of the console script."""
    warnings.formatwarning = _warning
    for stream in (sys.stdout, sys.stderr):  # which may know less than the names of files
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in the background
        signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.exit(main())
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to save, and a traceback helps nobody
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # drop the rest, or the interpreter would write it at its end and print a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
