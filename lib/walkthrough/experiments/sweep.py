"""Sweep: every missing run of several tables, in an order that completes tables early, with its estimated cost.

All tables with one seed come before any with the second, since a table with one seed says more than half a table with
three. Among the tables, the one that needs least work comes next; a run of several tables counts for each.
"""

import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from deeplabv3.data import synthetic
from deeplabv3.data.voc import VOC_COUNTS
from deeplabv3.errors import UserError
from walkthrough.experiments.estimate import Throughput, estimate_hours
from walkthrough.experiments.task import Task, missing, tasks_of
from walkthrough.paper import tables
from walkthrough.profiles import Profile
from walkthrough.records.catalogue import all_records
from walkthrough.records.cells import cells_by_run, cells_text, table_jobs, waiting
from walkthrough.records.compare import duration
from walkthrough.records.run import Run


@dataclass(frozen=True)
class SweepPlan:
    """The tasks in their order, and for every run the cells that it fills, by table, such as ``(1,2,1) block7``."""

    profile: Profile
    numbers: tuple[int, ...]
    tasks: tuple[Task, ...]
    cells: dict[Run, dict[int, list[str]]]

    def cells_of(self, run: Run) -> str:
        """Text of a run's cells, such as ``Table 3 (1,2,1) block7; Table 4 output stride 16, output stride 8``."""
        return cells_text(self.cells[run])

    def names(self) -> list[str]:
        """The cells of each task's run, with its seed where there are several."""
        several = self.profile.seeds > 1
        return [self.cells_of(task.run) + (f", seed {task.run.seed}" if several else "") for task in self.tasks]


def parse_tables(text: str, data: Collection[str] = ()) -> tuple[int, ...]:
    """Return table numbers from ``1-6,8``; a range skips tables that are not regenerated, a single one is refused.

    ``data`` is that of :func:`walkthrough.paper.tables.load`.
    """
    known, numbers = sorted({*tables.NUMBERS, *tables.numbers(data)}), list[int]()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        chosen = [number for number in known if first <= number <= last]
        if not chosen:
            raise UserError(
                f"--tables {text!r}: {part.strip()!r} names no table that is regenerated; choose from "
                f"{', '.join(map(str, known))}, such as 1-6,8."
            )
        numbers += chosen
    return tuple(dict.fromkeys(numbers))


def plan(profile: Profile, numbers: Sequence[int] = ()) -> SweepPlan:
    """Return the missing runs of the tables (none: all) under ``profile``, one task a run."""
    numbers = numbers or tables.numbers(profile.extra_data)
    by_seed = {seed: replace(profile, seed=seed, seeds=1) for seed in profile.all_seeds()}
    loaded = {number: tables.load(number, profile.extra_data) for number in numbers}
    jobs = {(number, seed): table_jobs(loaded[number], by_seed[seed]) for number in numbers for seed in by_seed}
    cells = cells_by_run(profile, numbers)
    # A task has all evaluations of its run, of whatever table, so that no run is in two tasks.
    tasks = {task.run: task for task in tasks_of(missing(job for group in jobs.values() for job in group))}
    chosen: dict[Run, Task] = {}
    for seed in profile.all_seeds():
        left = {number: {run for run, _ in jobs[number, seed] if run in tasks} for number in numbers}
        while left:
            new = {number: [tasks[run] for run in runs if run not in chosen] for number, runs in left.items()}
            number = min(left, key=lambda number: (sum(task.left() for task in new[number]), number))
            for task in sorted(new[number], key=lambda task: (-task.left(), task.run.name)):
                chosen[task.run] = task
            del left[number]
    return SweepPlan(profile, tuple(numbers), tuple(chosen.values()), {run: cells[run] for run in chosen})


@contextmanager
def without_images(profile: Profile) -> Iterator[tuple[Profile, int]]:
    """The profile on two synthetic images that stand in, and the number of images in its list, by its records or VOC's.

    Names of runs are placeholders then.
    """
    evaluations = (values for _, found in all_records(profile.name) for values in found)
    recorded = (values["images"] for values in evaluations if values["list"] == profile.data.val_list)
    images = next(recorded, VOC_COUNTS.get(profile.data.val_list, VOC_COUNTS["val"]))
    with tempfile.TemporaryDirectory(prefix="deeplabv3-") as folder:
        root = synthetic.make(Path(folder) / "stand-in", 1, 1)
        data = replace(
            profile.data, root=str(root), train_list="train", val_list="val", classes=profile.data.class_map()
        )
        yield replace(profile, data=data), images


@contextmanager
def plan_without_images(profile: Profile, numbers: Sequence[int]) -> Iterator[SweepPlan]:
    """Plan of all runs, recorded or not: without the images, the names of the runs are unknown."""
    with without_images(profile) as (stand_in, images):
        everything = plan(stand_in, numbers)
        yield replace(everything, tasks=tuple(replace(task, images=images) for task in everything.tasks))


def describe(sweep: SweepPlan, speed: Throughput, workers: int, names: bool = True) -> str:
    """Text of a plan: its runs in order, the cells that each fills, its evaluations, and the hours."""
    lines = []
    for number, task in enumerate(sweep.tasks, start=1):
        run, steps, done = task.run, task.run.training.iterations, task.steps_done()
        if done == steps:
            training = "trained already"
        elif done:
            training = f"goes on at step {done:,} of {steps:,}"
        else:
            training = f"{steps:,} steps"
        count = len(task.evaluations)
        evaluations = f"{count} evaluation{'s' if count > 1 else ''}"
        name = run.name if names else run.name.rpartition("-")[0]
        time = duration(speed.seconds(task))
        lines.append(f"{number:3}  {name}  seed {run.seed}  {training}, {evaluations}, {time}")
        lines.append(f"     {sweep.cells_of(run)}")
    total = sum(len(task.evaluations) for task in sweep.tasks)
    parallel = duration(3600 * estimate_hours(sweep.tasks, speed, workers))
    sequential = duration(sum(map(speed.seconds, sweep.tasks)))
    lines.append(
        f"{len(sweep.tasks)} runs and {total} evaluations under profile {sweep.profile.name}: about {parallel} with "
        f"{workers} at a time, {sequential} one after the other, estimated {speed.source}"
    )
    return "\n".join(lines)


def missing_per_table(profile: Profile, numbers: Sequence[int]) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """Return the complete tables, and for each other one how many of its evaluations are missing, of how many."""
    complete, incomplete = [], {}
    for number in numbers:
        jobs = list(dict.fromkeys(table_jobs(tables.load(number, profile.extra_data), profile)))
        waits = profile.seeds * len(waiting(profile, [number]))
        if left := len(missing(jobs)) + waits:
            incomplete[number] = (left, len(jobs) + waits)
        else:
            complete.append(number)
    return complete, incomplete
