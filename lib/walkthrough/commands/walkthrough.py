"""``deeplabv3 walkthrough``: the notebooks, in order."""

import argparse
import os
from pathlib import Path
from typing import Any

from deeplabv3.errors import UserError
from walkthrough import paths
from walkthrough.commands.options import pairs, profile_verb, seeds_option


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "walkthrough", main, "execute the notebooks in order and build their pages")
    seeds_option(verb)
    verb.add_argument("--only", nargs="+", default=[], metavar="NOTEBOOK", help="notebooks such as 03 or 03_cascade")
    verb.add_argument("--fresh", action="store_true", help="execute notebooks again that are done already")
    verb.add_argument("--update", action="store_true", help="put the executed notebooks in the place of their sources")
    verb.add_argument("--output", type=Path, help="folder for notebooks, pages and tables")
    verb.add_argument(
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
