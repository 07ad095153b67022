"""``deeplabv3 table``: print the paper's tables beside the measurements."""

import argparse
from typing import Any

from walkthrough.commands.options import add_profile_command, data_options, profile_of, seeds_option


def add(subparsers: Any) -> None:
    parser = add_profile_command(subparsers, "table", main, "print a table of the paper beside the measurements")
    parser.add_argument("number", type=int, nargs="?", help="by default every table")
    parser.add_argument("--run", action="store_true", help="make the runs that are missing first")
    seeds_option(parser)
    data_options(parser)
    parser.add_argument("--format", choices=("text", "markdown", "csv", "html", "latex"), default="text")


def main(options: argparse.Namespace) -> int:
    from walkthrough.paper import tables
    from walkthrough.report import other_runs
    from walkthrough.report import tables as report

    profile = profile_of(options)
    for number in [options.number] if options.number is not None else tables.ALL:
        if options.run:
            from walkthrough.experiments.local import run_table

            run_table(number, profile)
        print(report.render(number, profile, options.format))
    if options.number is not None and options.format == "text":
        for line in other_runs.notes(options.number, profile):
            print(line)
    return 0
