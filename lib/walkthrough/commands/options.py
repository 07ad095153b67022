"""What verbs share: profiles, settings given as ``NAME=VALUE``, and where the pictures are."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from deeplabv3.errors import UserError
from walkthrough.profiles import Profile, load_profile, profile_names, with_data


def profile_verb(verbs: Any, name: str, main: Callable, text: str) -> argparse.ArgumentParser:
    """A verb that works under a profile."""
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(verb=main)
    names = ", ".join(profile_names())
    verb.add_argument("--profile", help=f"{names}, or a YAML file (default: $DEEPLABV3_PROFILE, else offline)")
    verb.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="change a setting, e.g. training.lr=0.01"
    )
    return verb


def seeds_option(verb: argparse.ArgumentParser) -> None:
    """How many seeds a table's cell has."""
    verb.add_argument("--seeds", type=int, metavar="N", help="so many seeds a cell, from the profile's on (default: 1)")


def data_options(verb: argparse.ArgumentParser) -> None:
    """Where the pictures are."""
    verb.add_argument("--data", type=Path, metavar="ROOT", help="data set in VOC's layout, such as VOCdevkit")


def pairs(items: list[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` items with YAML values."""
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"{option} {item!r} should read NAME=VALUE.")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"{option} {item!r}: the value is not valid YAML.") from error
    return found


def profile_of(options: argparse.Namespace) -> Profile:
    """The profile that the options name, with their changes."""
    changes = pairs(options.set, "--set")
    if getattr(options, "seeds", None) is not None:
        changes["seeds"] = options.seeds
    profile = load_profile(options.profile, changes)
    return with_data(profile, getattr(options, "data", None), getattr(options, "backbone_weights", None))
