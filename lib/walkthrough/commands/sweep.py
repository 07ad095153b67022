"""``deeplabv3 sweep``: every missing run of the paper's tables, on this machine or on a Ray cluster."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deeplabv3.errors import UserError
from walkthrough.commands.options import data_options, profile_of, profile_verb, seeds_option

if TYPE_CHECKING:
    from walkthrough.experiments.sweep import Plan
    from walkthrough.experiments.task import Task
    from walkthrough.profiles import Profile


def add(verbs: Any) -> None:
    verb = profile_verb(verbs, "sweep", main, "make every run that the paper's tables still lack")
    data_options(verb)
    verb.add_argument("--tables", metavar="NUMBERS", help="such as 1-6,8 (default: every table that is regenerated)")
    seeds_option(verb)
    verb.add_argument("--backbone-weights", metavar="FILE", help="ImageNet weights: a file, or 'imagenet' to download")
    verb.add_argument("--dry-run", action="store_true", help="print runs, cells and estimated hours; run nothing")
    verb.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run as tasks of the Ray cluster at ADDRESS, or of one that is started here",
    )


def main(options: argparse.Namespace) -> int:
    from walkthrough.experiments import sweep
    from walkthrough.paper import tables

    profile = profile_of(options)
    numbers = sweep.parse_tables(options.tables) if options.tables is not None else tables.NUMBERS
    if options.dry_run:
        _show_plan(profile, numbers)
        return 0
    found = sweep.plan(profile, numbers)
    failures = _perform(found, options.ray)
    return _conclude(found, failures)


def _show_plan(profile: "Profile", numbers: Sequence[int]) -> None:
    from walkthrough.experiments import sweep

    try:
        found = sweep.plan(profile, numbers)
    except UserError as error:
        if profile.data.kind != "voc":
            raise
        with sweep.plan_without_images(profile, numbers) as everything:
            _print_plan(profile, everything, names=False)
        print(f"note: {error} Without images nobody can tell which runs are recorded already, so all are listed.")
    else:
        _print_plan(profile, found)


def _print_plan(profile: "Profile", found: "Plan", names: bool = True) -> None:
    from walkthrough.experiments import estimate, sweep

    if not found.tasks:
        print("Nothing is missing.")
        return
    speed, workers = estimate.speed_of(profile, found.tasks), estimate.workers_of(profile, found.tasks)
    print(sweep.describe(found, speed, workers, names))


def _perform(found: "Plan", ray: str | None) -> "dict[Task, BaseException]":
    from walkthrough.experiments.local import run_task, run_tasks

    if ray is None:
        return run_tasks(found.tasks, "sweep")
    from walkthrough.experiments.ray_cluster import on_cluster

    return on_cluster(run_task, found.tasks, "sweep", ray)


def _conclude(found: "Plan", failures: "dict[Task, BaseException]") -> int:
    """Say which tables are full and what failed; the exit code."""
    from walkthrough.experiments.sweep import missing_per_table

    full, lacking = missing_per_table(found.profile, found.numbers)
    if full:
        word = "Table" if len(full) == 1 else "Tables"
        say = f"print one with: deeplabv3 table {full[0]} --profile {found.profile.name}"
        print(f"{word} {', '.join(map(str, full))} complete; {say}")
    for number, (left, all_of_it) in lacking.items():
        print(f"Table {number} lacks {left} of {all_of_it} evaluations")
    for task, error in failures.items():
        if not isinstance(error, UserError):  # a defect, which whoever mends it wants to see in full
            traceback.print_exception(error)
        print(f"failed: {task.run.name}, seed {task.run.seed} ({found.cells_of(task.run)}): {error}", file=sys.stderr)
    if failures:
        print(
            f"deeplabv3: {len(failures)} of {len(found.tasks)} runs failed; the same command goes on.", file=sys.stderr
        )
    return 1 if failures else 0
