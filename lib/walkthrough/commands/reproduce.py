"""``deeplabv3 reproduce``: make the records that ship anew, in a workspace of their own, and report what came out."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeplabv3.errors import UserError
from walkthrough import paths
from walkthrough.commands import sweep as sweep_command
from walkthrough.commands.options import add_profile_command, profile_of

if TYPE_CHECKING:
    from walkthrough.profiles import Profile


def add(subparsers: Any) -> None:
    parser = add_profile_command(
        subparsers, "reproduce", main, "make the records that ship with the project anew, and report what came out"
    )
    sweep_command.plan_options(parser)
    parser.add_argument(
        "--output", type=Path, help="folder of runs, records and report (default: reproduction/ in the workspace)"
    )
    parser.add_argument("--fresh", action="store_true", help="delete what an earlier reproduction made, and begin anew")


def main(options: argparse.Namespace) -> int:
    from walkthrough.experiments import sweep
    from walkthrough.profiles import with_data
    from walkthrough.records.naming import LOCAL, reading
    from walkthrough.report.reproduction_page import cells_view, write_reproduction

    profile = profile_of(options)
    numbers = sweep_command.tables_of(options, profile)
    _require_shipped(profile)
    if profile.data.kind == "voc":
        profile = with_data(profile, profile.data_root())
    output = (options.output or paths.workspace() / "reproduction").resolve()
    with paths.environment({"DEEPLABV3_WORKSPACE": str(output)}):
        if options.dry_run:
            with reading(LOCAL):
                sweep_command.show_plan(profile, numbers)
            return 0
        if options.fresh:
            for folder in (paths.local_records(), output / "runs"):
                shutil.rmtree(folder / profile.name, ignore_errors=True)
        with reading(LOCAL):
            _require_own(profile, output)
            plan = sweep.plan(profile, numbers)
            code = sweep_command.print_failures(plan, sweep_command.run_plan(plan, options.ray, "reproduction"))
        view = cells_view(profile, numbers)
    report = output / profile.name
    write_reproduction(view, report)
    print(view.summary())
    print(f"report {report / 'reproduction.md'}")
    return 1 if view.failed else code


def _require_shipped(profile: "Profile") -> None:
    """Refuse a profile without records to compare with, before hours go into it."""
    from walkthrough.records.catalogue import recorded_seeds
    from walkthrough.records.naming import SHIPPED, reading

    with reading(SHIPPED):
        if not recorded_seeds(profile.name):
            folder = paths.home() / "data" / "records" / profile.name
            raise UserError(f"the project ships no records of profile {profile.name!r} in {folder}; choose another.")


def _require_own(profile: "Profile", output: Path) -> None:
    """Refuse to go on with records of other code or versions: they would pass for what this code makes."""
    from walkthrough.records.catalogue import all_records
    from walkthrough.records.environment import environment

    here = environment()
    for training, _ in all_records(profile.name):
        for name in ("commit", "versions"):
            if training.get(name) != here[name]:
                raise UserError(
                    f"{output} holds runs with {name} {training.get(name)}, and here it is {here[name]}; give --fresh "
                    "to begin anew, or name another folder with --output."
                )
