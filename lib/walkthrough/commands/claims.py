"""``deeplabv3 claims``: the paper's claims and the verdicts of what was measured."""

import argparse
from pathlib import Path
from typing import Any

from walkthrough.commands.options import data_options, profile_of, profile_verb, seeds_option


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "claims", main, "print each claim of the paper with the verdict of what was measured")
    seeds_option(verb)
    verb.add_argument("--format", choices=("text", "markdown", "csv", "html"), default="text")
    verb.add_argument("--figure", type=Path, metavar="FILE", help="draw the page as a image as well (.png, .svg, .pdf)")
    data_options(verb)


def main(options: argparse.Namespace) -> int:
    from walkthrough.report import claims as page

    if options.figure:
        page.figure_format(options.figure)
    view = page.claims_view(profile_of(options))
    print(page.FORMATS[options.format](view))
    if options.figure:
        page.save_figure(view, options.figure)
    return 0
