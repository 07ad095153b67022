"""``deeplabv3 table``: the paper's tables beside what was measured."""

import argparse
from typing import Any

from deeplabv3.commands.common import data_options, profile_of, profile_verb, seeds_option


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "table", main, "print a table of the paper beside what was measured")
    verb.add_argument("number", type=int, nargs="?", help="by default every table")
    verb.add_argument("--run", action="store_true", help="make the runs that are missing first")
    seeds_option(verb)
    data_options(verb)
    verb.add_argument("--format", choices=("text", "markdown", "csv", "html", "latex"), default="text")


def main(options: argparse.Namespace) -> int:
    from deeplabv3.paper import report, tables
    from deeplabv3.paper.experiments import run_table

    profile = profile_of(options)
    for number in [options.number] if options.number is not None else tables.ALL:
        if options.run:
            run_table(number, profile)
        print(report.render(number, profile, options.format))
    return 0
