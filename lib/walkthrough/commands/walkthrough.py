"""``deeplabv3 walkthrough``: execute the notebooks and build a book of them."""

import argparse
import os
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError
from walkthrough import paths
from walkthrough.commands.options import add_profile_command, pairs, seeds_option


def add(subparsers: Any) -> None:
    parser = add_profile_command(subparsers, "walkthrough", main, "execute the notebooks and build a book of them")
    seeds_option(parser)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NOTEBOOK", help="notebooks such as 03 or 03_cascade, unless done"
    )
    parser.add_argument("--fresh", action="store_true", help="execute notebooks again that are done already")
    parser.add_argument("--update", action="store_true", help="replace the notebooks by the executed ones")
    parser.add_argument("--output", type=Path, help="folder for notebooks, tables and the book")
    parser.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=VALUE", help="a notebook parameter, as YAML"
    )


def main(options: argparse.Namespace) -> int:
    from walkthrough.notebooks.run import output_folder, refresh, walkthrough

    if options.set:
        raise UserError("walkthrough takes no --set; write a profile of your own and name its file with --profile.")
    if options.seeds is not None:
        os.environ["DEEPLABV3_SEEDS"] = str(options.seeds)  # the notebooks' kernels read it as well
    parameters = pairs(options.parameter, "--parameter")
    code = walkthrough(options.profile, options.only, options.output, options.fresh, parameters)
    if options.update and code == 0:
        refresh(options.output or output_folder(options.profile), paths.home() / "notebooks", options.only)
    return code
