"""``deeplabv3 sweep``: make every missing run of the paper's tables, on this machine or on a Ray cluster."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deeplabv3.errors import UserError
from walkthrough.commands.errors import explain
from walkthrough.commands.options import add_profile_command, data_options, profile_of, seeds_option

if TYPE_CHECKING:
    from walkthrough.experiments.sweep import SweepPlan
    from walkthrough.experiments.task import Task
    from walkthrough.profiles import Profile


def add(subparsers: Any) -> None:
    plan_options(add_profile_command(subparsers, "sweep", main, "make every run that the paper's tables still lack"))


def plan_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which runs are made, and where."""
    data_options(parser)
    parser.add_argument("--tables", metavar="NUMBERS", help="such as 1-6,8 (default: every table that is regenerated)")
    seeds_option(parser)
    parser.add_argument(
        "--backbone-weights", metavar="FILE", help="ImageNet weights: a file, or 'imagenet' to download"
    )
    parser.add_argument("--dry-run", action="store_true", help="print runs, cells and estimated hours; run nothing")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run as tasks of the Ray cluster at ADDRESS, or of one that is started here",
    )


def tables_of(options: argparse.Namespace, profile: "Profile") -> tuple[int, ...]:
    """Numbers of the tables that the options name, by default all of ``profile``."""
    from walkthrough.experiments import sweep
    from walkthrough.paper import tables

    if options.dry_run and options.ray is not None:
        raise UserError("--ray has no effect with --dry-run, which estimates this machine's hours; give one of them.")
    data = profile.extra_data
    return sweep.parse_tables(options.tables, data) if options.tables is not None else tables.numbers(data)


def main(options: argparse.Namespace) -> int:
    from walkthrough.experiments import sweep

    profile = profile_of(options)
    numbers = tables_of(options, profile)
    if options.dry_run:
        show_plan(profile, numbers)
        return 0
    plan = sweep.plan(profile, numbers)
    failures = run_plan(plan, options.ray)
    _print_tables(plan)
    return print_failures(plan, failures)


def show_plan(profile: "Profile", numbers: Sequence[int]) -> None:
    """Print the missing runs with their cells and hours."""
    from walkthrough.experiments import sweep

    try:
        plan = sweep.plan(profile, numbers)
    except UserError as error:
        if profile.data.kind != "voc":
            raise
        with sweep.plan_without_images(profile, numbers) as plan:
            _print_plan(profile, plan, names=False)
        print(f"note: {error} Without images nobody can tell which runs are recorded already, so all are listed.")
    else:
        _print_plan(profile, plan)


def _print_plan(profile: "Profile", plan: "SweepPlan", names: bool = True) -> None:
    from walkthrough.experiments import estimate, sweep
    from walkthrough.experiments.task import parallel_runs
    from walkthrough.records.cells import waiting

    waits = waiting(profile, plan.numbers)
    print("\n".join(waits), end="\n" if waits else "")
    if not plan.tasks:
        print("Nothing else is missing." if waits else "Nothing is missing.")
        return
    workers = min(parallel_runs(profile), len(plan.tasks))
    print(sweep.describe(plan, estimate.speed_of(profile, plan.tasks), workers, names))


def run_plan(plan: "SweepPlan", ray: str | None, title: str = "sweep") -> "dict[Task, BaseException]":
    """Do a plan's tasks, here or on the cluster at ``ray``, and return the errors of failed ones."""
    from walkthrough.experiments.local import run_task, run_tasks

    if ray is None:
        return run_tasks(plan.tasks, title, plan.names())
    from walkthrough.experiments.ray_cluster import on_cluster

    return on_cluster(run_task, plan.tasks, title, ray, plan.names())


def _print_tables(plan: "SweepPlan") -> None:
    """Print which tables are complete."""
    from walkthrough.experiments.sweep import missing_per_table
    from walkthrough.records.cells import waiting

    complete, incomplete = missing_per_table(plan.profile, plan.numbers)
    if complete:
        word = "Table" if len(complete) == 1 else "Tables"
        hint = f"print one with: deeplabv3 table {complete[0]} --profile {plan.profile.option}"
        print(f"{word} {', '.join(map(str, complete))} complete; {hint}")
    for number, (missing, total) in incomplete.items():
        print(f"Table {number} lacks {missing} of {total} evaluations")
    for sentence in waiting(plan.profile, plan.numbers):
        print(sentence)


def print_failures(plan: "SweepPlan", failures: "dict[Task, BaseException]") -> int:
    """Print which runs failed, and why; the exit code."""
    for task, error in failures.items():
        sentence = explain(error)
        if sentence is None:
            traceback.print_exception(error)
        cells = plan.cells_of(task.run)
        print(f"failed: {task.run.name}, seed {task.run.seed} ({cells}): {sentence or error}", file=sys.stderr)
    if failures:
        print(
            f"deeplabv3: {len(failures)} of {len(plan.tasks)} runs failed; the same command goes on.", file=sys.stderr
        )
    return 1 if failures else 0
