"""``deeplabv3 info``: versions, device, profile and workspace in one paste, for a report of a problem."""

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from walkthrough import paths
from walkthrough.commands.options import add_profile_command, profile_of


def add(subparsers: Any) -> None:
    add_profile_command(
        subparsers, "info", main, "print versions, device, profile and workspace, as a report of a problem needs them"
    )


def main(options: argparse.Namespace) -> int:
    from walkthrough.records.compare import machine_text
    from walkthrough.records.environment import environment

    profile = profile_of(options)
    try:
        package = version("deeplabv3-walkthrough")
    except PackageNotFoundError:  # run from a checkout that is not installed
        package = "not installed"
    variables = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("DEEPLABV3_")]
    lines = {
        "deeplabv3": package,
        "system": platform.platform(),
        "machine": machine_text(environment(profile.training.precision)),
        "profile": f"{profile.name}: {profile.title}",
        "workspace": _folder(paths.workspace()),
        "data": "drawn" if profile.data.kind == "synthetic" else _folder(profile.data_root()),
        "variables": ", ".join(variables) or "none",
    }
    for name, text in lines.items():
        print(f"{name + ':':11}{text}")
    return 0


def _folder(path: Path) -> str:
    return f"{path.resolve()}{'' if path.is_dir() else ' (does not exist)'}"
