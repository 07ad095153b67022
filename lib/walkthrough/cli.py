"""The command ``deeplabv3``: a thin face over the library's functions."""

import argparse
import sys
from collections.abc import Sequence

from deeplabv3.errors import UserError
from walkthrough.commands import (
    bench,
    claims,
    data,
    evaluate,
    export,
    predict,
    records,
    submit,
    sweep,
    table,
    train,
    walkthrough,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; a user's error is one sentence on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="deeplabv3", description="The DeepLabv3 walkthrough (arXiv 1706.05587).")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in (walkthrough, data, train, evaluate, predict, submit, export, table, claims, sweep, records, bench):
        verb.add(verbs)
    options = parser.parse_args(arguments)
    try:
        return options.verb(options) or 0
    except UserError as error:
        print(f"deeplabv3: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("deeplabv3: interrupted; what was finished is kept.", file=sys.stderr)
        return 130


def script() -> None:
    """The console script."""
    sys.exit(main())
