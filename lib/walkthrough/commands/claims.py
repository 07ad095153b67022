"""``deeplabv3 claims``: print the paper's claims with the verdicts of the measurements."""

import argparse
from pathlib import Path
from typing import Any

from walkthrough.commands.options import add_profile_command, data_options, profile_of, seeds_option


def add(subparsers: Any) -> None:
    parser = add_profile_command(
        subparsers, "claims", main, "print each claim of the paper with the verdict of the measurements"
    )
    seeds_option(parser)
    parser.add_argument("--format", choices=("text", "markdown", "csv", "html"), default="text")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the page as an image, too (.png, .svg, .pdf)")
    data_options(parser)


def main(options: argparse.Namespace) -> int:
    from walkthrough.report import claims as page
    from walkthrough.report.render import FORMATS

    if options.figure:
        page.figure_format(options.figure)
    view = page.claims_view(profile_of(options))
    print(FORMATS[options.format](view))
    if options.figure:
        page.save_figure(view.figure(), options.figure)
    return 0
