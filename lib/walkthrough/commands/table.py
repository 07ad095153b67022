"""``deeplabv3 table``: the paper's tables beside what was measured."""

import argparse
from typing import Any

from walkthrough.commands.options import data_options, profile_of, profile_verb, seeds_option


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "table", main, "print a table of the paper beside what was measured")
    verb.add_argument("number", type=int, nargs="?", help="by default every table")
    verb.add_argument("--run", action="store_true", help="make the runs that are missing first")
    seeds_option(verb)
    data_options(verb)
    verb.add_argument("--format", choices=("text", "markdown", "csv", "html", "latex"), default="text")


def main(options: argparse.Namespace) -> int:
    from walkthrough.experiments.local import run_table
    from walkthrough.paper import tables
    from walkthrough.report import tables as report

    profile = profile_of(options)
    for number in [options.number] if options.number is not None else tables.ALL:
        if options.run:
            run_table(number, profile)
        print(report.render(number, profile, options.format))
    return 0
