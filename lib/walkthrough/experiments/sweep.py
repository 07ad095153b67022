"""The grid: every missing run of several tables, in an order that fills tables early, with what it will cost.

All tables with one seed come before any with the second, since a table with one seed says more than half a table with
three. Among the tables, the one that needs least work comes next; a run that serves several counts for all.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
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
from walkthrough.records.cells import Job, cell_jobs, table_jobs
from walkthrough.records.run import Run


@dataclass(frozen=True)
class Plan:
    """The tasks in their order, and for every run the cells that it fills, by table, such as ``(1,2,1) block7``."""

    profile: Profile
    numbers: tuple[int, ...]
    tasks: tuple[Task, ...]
    cells: dict[Run, dict[int, list[str]]]

    def cells_of(self, run: Run) -> str:
        """The cells of a run, such as ``Table 3 (1,2,1) block7; Table 4 output stride 16, output stride 8``."""
        return "; ".join(f"Table {number} {', '.join(cells)}" for number, cells in self.cells[run].items())


def parse_tables(text: str) -> tuple[int, ...]:
    """``1-6,8`` as table numbers; a range passes over tables that are not regenerated, a single one is refused."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        chosen = [number for number in tables.NUMBERS if first <= number <= last]
        if not chosen:
            raise UserError(
                f"--tables {text!r}: {part.strip()!r} names no table that is regenerated; choose from "
                f"{', '.join(map(str, tables.NUMBERS))}, such as 1-6,8."
            )
        found += chosen
    return tuple(dict.fromkeys(found))


def plan(profile: Profile, numbers: Sequence[int] = tables.NUMBERS) -> Plan:
    """What is missing of the tables under ``profile``, one task a run."""
    wanted, cells = _wanted(profile, numbers)
    # With everything that any of the tables wants of a run, so that no run is in two tasks.
    tasks = {task.run: task for task in tasks_of(missing(job for jobs in wanted.values() for job in jobs))}
    chosen: dict[Run, Task] = {}
    for seed in profile.all_seeds():
        left = {number: {run for run, _ in wanted[number, seed] if run in tasks} for number in numbers}
        while left:
            new = {number: [tasks[run] for run in runs if run not in chosen] for number, runs in left.items()}
            number = min(left, key=lambda number: (sum(task.left() for task in new[number]), number))
            for task in sorted(new[number], key=lambda task: (-task.left(), task.run.name)):
                chosen[task.run] = task
            del left[number]
    return Plan(profile, tuple(numbers), tuple(chosen.values()), {run: cells[run] for run in chosen})


def _wanted(profile: Profile, numbers: Sequence[int]) -> tuple[dict, dict]:
    """The jobs of every table and seed, and for every run its cells by table."""
    wanted: dict[tuple[int, int], list[Job]] = {}
    cells: dict[Run, dict[int, list[str]]] = {}
    for number in numbers:
        for seed in profile.all_seeds():
            jobs = wanted[number, seed] = []
            for cell in tables.load(number).cells:
                for run, settings in cell_jobs(cell, replace(profile, seed=seed, seeds=1)):
                    jobs.append((run, settings))
                    cells.setdefault(run, {}).setdefault(number, []).append(_keys(cell.keys))
    return wanted, cells


def _keys(keys: dict[str, str]) -> str:
    """A cell's keys for people: a number or a yes means little without its name."""
    words = []
    for name, value in keys.items():
        name = name.replace("_", " ")
        if value == "yes":
            words.append(name)
        elif value != "no":
            words.append(f"{name} {value}" if value.isdecimal() else value)
    return " ".join(words)


@contextmanager
def plan_without_images(profile: Profile, numbers: Sequence[int]) -> Iterator[Plan]:
    """The plan of everything where the images are missing, and with them the names of the runs and their records.

    Two drawn images give the runs names of their own; VOC's lists have the lengths that they are known to have.
    """
    with tempfile.TemporaryDirectory(prefix="deeplabv3-") as folder:
        root = synthetic.make(Path(folder) / "stand-in", 1, 1)
        data = replace(
            profile.data, root=str(root), train_list="train", val_list="val", classes=profile.data.class_map()
        )
        found = plan(replace(profile, data=data), numbers)
        images = VOC_COUNTS.get(profile.data.val_list, VOC_COUNTS["val"])
        yield replace(found, tasks=tuple(replace(task, images=images) for task in found.tasks))


def describe(found: Plan, speed: Throughput, workers: int, names: bool = True) -> str:
    """What a sweep would do: its runs in order, the cells that each fills, its evaluations, and the hours."""
    lines = []
    for number, task in enumerate(found.tasks, start=1):
        run, steps, done = task.run, task.run.training.iterations, task.steps_done()
        if done == steps:
            what = "trained already"
        elif done:
            what = f"goes on at step {done:,} of {steps:,}"
        else:
            what = f"{steps:,} steps"
        count = len(task.evaluations)
        what += f", {count} evaluation{'s' if count > 1 else ''}, {_duration(speed.seconds(task))}"
        name = run.name if names else run.name.rpartition("-")[0]
        lines += [f"{number:3}  {name}  seed {run.seed}  {what}", f"     {found.cells_of(run)}"]
    evaluations = sum(len(task.evaluations) for task in found.tasks)
    alone = sum(map(speed.seconds, found.tasks))
    lines.append(
        f"{len(found.tasks)} runs and {evaluations} evaluations under profile {found.profile.name}: about "
        f"{_duration(3600 * estimate_hours(found.tasks, speed, workers))} with {workers} at a time, {_duration(alone)} one "
        f"after the other, estimated {speed.source}"
    )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    """In a unit that leaves digits to read."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def missing_per_table(profile: Profile, numbers: Sequence[int]) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """The tables that lack nothing, and of each other how many of its evaluations are missing, of how many."""
    full, lacking = [], {}
    for number in numbers:
        jobs = list(dict.fromkeys(table_jobs(tables.load(number), profile)))
        if left := len(missing(jobs)):
            lacking[number] = (left, len(jobs))
        else:
            full.append(number)
    return full, lacking
