"""The command ``deeplabv3``: parse the command line, run one command, and word its errors."""

import argparse
import os
import select
import sys
from collections.abc import Sequence

from walkthrough.commands import (
    bench,
    claims,
    data,
    evaluate,
    export,
    predict,
    records,
    sweep,
    table,
    test_set,
    train,
    walkthrough,
)
from walkthrough.commands.errors import explain

COMMANDS = (walkthrough, data, train, evaluate, predict, test_set, export, table, claims, sweep, records, bench)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    An error that the user can mend is one sentence on stderr and exit code 1; a defect keeps its traceback.
    """
    parser = argparse.ArgumentParser(prog="deeplabv3", description="The DeepLabv3 walkthrough (arXiv 1706.05587).")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(subparsers)
    options = parser.parse_args(arguments)
    try:
        return options.command(options) or 0
    except KeyboardInterrupt:
        print("deeplabv3: interrupted; what was finished is kept.", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return 141  # what a shell reports of a process that SIGPIPE ended
        sentence = explain(error)
        if sentence is None:
            raise
        print(f"deeplabv3: {sentence}", file=sys.stderr)
        return 1


def _stdout_is_closed() -> bool:
    """True if the reader of stdout, such as ``head``, has gone."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # a pipe without a reader is an error, which is always reported
    return bool(poll.poll(0))


def script() -> None:
    """Entry point of the console script."""
    try:
        sys.exit(main())
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # drop the rest, or the interpreter would write it at its end and print a traceback
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
