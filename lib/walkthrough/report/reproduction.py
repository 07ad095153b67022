"""Records that were made here, compared with those that ship with the project.

An evaluation and the shipped one of the same run, which were made by the same settings, seed and images:

- *same to the last digit*: the counts of every image are equal;
- *within rounding*: at most one pixel in 100,000 changed its class. Sums that are added up in another order change the
  classes of pixels whose two best logits are nearly equal: none to one in four million, as measured. That is one
  network, evaluated twice. In training, rounding grows with every step, until it is worth another seed;
- *within the seeds' spread*: the mIoU lies in the prediction interval for so many further seeds, from all shipped ones;
- *outside the seeds' spread*: it does not. The interval is as wide as keeps the chance of one such word, among all
  comparisons with other counts, at 5 % where nothing but rounding or seeds differs (Bonferroni);
- *spread unknown*: the counts differ, and fewer than two seeds ship;
- *another recipe*: no shipped run has these settings and data, or one of both was made by other code;
- *broken record*: it cannot be read, or its counts, its mIoU and its ground truth do not belong together;
- *not made*.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from deeplabv3.evaluation.metrics import mean_iou
from walkthrough.records import catalogue, naming
from walkthrough.records.catalogue import Evaluation, RunRecord
from walkthrough.records.cells import Job
from walkthrough.records.compare import differences, machine_text, settings_of
from walkthrough.records.naming import LOCAL, SHIPPED, reading
from walkthrough.report import intervals

SAME, ROUNDING, SPREAD = "same to the last digit", "within rounding", "within the seeds' spread"
UNKNOWN, OUTSIDE = "spread unknown", "outside the seeds' spread"
OTHER, BROKEN, MISSING = "another recipe", "broken record", "not made"
OUTCOMES = (SAME, ROUNDING, SPREAD, UNKNOWN, OUTSIDE, OTHER, BROKEN, MISSING)
"""From the best to the worst."""

REPRODUCED, FAILED = (SAME, ROUNDING, SPREAD), (OUTSIDE, OTHER, BROKEN, MISSING)

ROUNDED_PIXELS = 1e-5
"""Share of the pixels that may change their class by rounding."""


@dataclass(frozen=True)
class Unit:
    """An evaluation of one recipe: its name, and the names of the runs by seed. ``label`` is for people."""

    label: str
    evaluation: str
    runs: dict[int, str]


@dataclass(frozen=True)
class Compared:
    """A unit, what came out, and the mIoU in percent by seed: of what was made here, and of all seeds that ship.

    ``low`` and ``high`` bound the prediction interval; ``detail`` says what is wrong, or which setting differs.
    """

    unit: Unit
    outcome: str
    made: dict[int, float]
    shipped: dict[int, float]
    low: float
    high: float
    detail: str = ""

    @property
    def made_mean(self) -> float:
        return float(np.mean(list(self.made.values()))) if self.made else float("nan")

    @property
    def shipped_mean(self) -> float:
        """Over the seeds that were made here, or all where one of those does not ship."""
        seeds = self.made.keys() if self.made and self.made.keys() <= self.shipped.keys() else self.shipped.keys()
        return float(np.mean([self.shipped[seed] for seed in seeds])) if seeds else float("nan")

    @property
    def difference(self) -> float:
        return self.made_mean - self.shipped_mean

    @property
    def severity(self) -> tuple[int, float]:
        """The larger, the worse."""
        return OUTCOMES.index(self.outcome), abs(np.nan_to_num(self.difference))


class Shelf:
    """The records of a profile from one source, :data:`LOCAL` or :data:`SHIPPED`."""

    def __init__(self, profile_name: str, source: str):
        with reading(source):
            self.records = {record.name: record for record in catalogue.run_records(profile_name)}
        self.recipes = {
            name: naming.recipe_name(record.values["settings"])
            for name, record in self.records.items()
            if record.path and not record.problem
        }

    def evaluation(self, run: str, name: str) -> tuple[Evaluation | None, str]:
        """The evaluation ``name`` of a run, None if there is none, and why it is not used."""
        record = self.records.get(run)
        found = next((one for one in record.evaluations if one.path.stem == name), None) if record else None
        return found, (record.problem or found.problem) if record and found else ""

    def by_seed(self, recipe: str, name: str) -> dict[int, float]:
        """MIoU of the usable evaluations ``name`` of a recipe's runs, by seed."""
        found = {}
        for run in (run for run, own in self.recipes.items() if own == recipe):
            evaluation, problem = self.evaluation(run, name)
            if evaluation and not problem:
                found[self.records[run].values["settings"]["seed"]] = evaluation.values["miou"]
        return dict(sorted(found.items()))


def compare(units: Sequence[Unit], made: Shelf, shipped: Shelf) -> list[Compared]:
    """Compare what was made of ``units`` with what ships."""
    examined = [_examined(unit, made, shipped) for unit in units]
    level = 1 - (1 - intervals.LEVEL) / max(1, sum(not outcome for outcome, _ in examined))
    found = []
    for unit, (outcome, detail) in zip(units, examined, strict=True):
        ours = {}
        for seed, run in unit.runs.items():
            evaluation, problem = made.evaluation(run, unit.evaluation)
            if evaluation and not problem:
                ours[seed] = evaluation.values["miou"]
        theirs = shipped.by_seed(_recipe(unit, made, shipped), unit.evaluation)
        low, high = intervals.prediction(np.array(list(theirs.values())), max(1, len(ours)), level)
        if not outcome:
            mean = np.mean(list(ours.values()))
            outcome = UNKNOWN if np.isnan(low) else SPREAD if low <= mean <= high else OUTSIDE
        found.append(Compared(unit, outcome, ours, theirs, low, high, detail))
    return found


def _recipe(unit: Unit, made: Shelf, shipped: Shelf) -> str:
    known = shipped.recipes | made.recipes
    return next((known[run] for run in unit.runs.values() if run in known), "")


def _examined(unit: Unit, made: Shelf, shipped: Shelf) -> tuple[str, str]:
    """The outcome of the unit's worst seed and its detail; an empty outcome where the spread is to decide."""
    ships = shipped.by_seed(_recipe(unit, made, shipped), unit.evaluation)
    found = []
    for run in unit.runs.values():
        ours, ours_problem = made.evaluation(run, unit.evaluation)
        theirs, theirs_problem = shipped.evaluation(run, unit.evaluation)
        if ours is None:
            found.append((MISSING, ""))
        elif problem := ours_problem or theirs_problem:
            found.append((BROKEN if problem.startswith("damaged") else OTHER, problem))
        elif theirs is None:
            found.append(("", "") if ships else (OTHER, _nearest(made.records[run], shipped.records)))
        else:
            found.append(_pair(ours, theirs))
    order = (SAME, ROUNDING, "", *OUTCOMES[2:])
    return max(found, key=lambda pair: order.index(pair[0]))


def _pair(ours: Evaluation, theirs: Evaluation) -> tuple[str, str]:
    """Outcome and detail of two evaluations of one run on the same images; an empty outcome as above."""
    counts = [one.confusions() for one in (ours, theirs)]
    for whose, one, confusions in zip(("made", "shipped"), (ours, theirs), counts, strict=True):
        if round(mean_iou(confusions.sum(axis=0)), 3) != one.values["miou"]:
            return BROKEN, f"the mIoU of the {whose} record, {one.path}, is not that of its counts."
    a, b = counts
    if a.shape != b.shape or (a.sum(axis=2) != b.sum(axis=2)).any():
        return BROKEN, f"the counts beside {ours.path} are of another ground truth than the shipped ones."
    moved = abs(a - b).sum() / 2 / b.sum()
    if not moved:
        return SAME, ""
    machines = [machine_text(one.values) for one in (theirs, ours)]
    detail = f"{moved:.1%} of the pixels have another class" if moved > ROUNDED_PIXELS else ""
    detail += "; machine and versions are the same" if detail and machines[0] == machines[1] else ""
    return (ROUNDING if moved <= ROUNDED_PIXELS else ""), detail


def _nearest(record: RunRecord, shipped: dict[str, RunRecord]) -> str:
    """The settings in which a run differs from the shipped one that is most like it."""
    if record.name in shipped:
        return "the run ships without an evaluation of this strategy on these images."
    settings = settings_of(record)
    candidates = [
        [(name, old, new) for name, old, new in differences(settings_of(other), settings) if name != "seed"]
        for other in shipped.values()
        if isinstance(other.values.get("settings"), dict)
    ]
    if not settings or not candidates:
        return ""
    nearest = min(candidates, key=len)
    texts = [f"{name} is {new}, there {old}" for name, old, new in nearest[:3]]
    more = f" and {len(nearest) - 3} more" if len(nearest) > 3 else ""
    return f"the shipped run that is most like it differs: {'; '.join(texts)}{more}."


def made_here(jobs: Iterable[Job]) -> list[float]:
    """Differences in mIoU of the evaluations that were made here and ship, too; exactly 0 where counts are equal."""
    found = []
    for run, settings in dict.fromkeys(jobs):
        if not run.record_folder().is_dir():  # the images need not be at hand then
            continue
        with reading(LOCAL):
            ours = run.confusion_counts(settings)
        if ours is None:
            continue
        with reading(SHIPPED):
            theirs = run.confusion_counts(settings)
        if theirs is not None:
            equal = np.array_equal(ours, theirs)
            found.append(0.0 if equal else mean_iou(ours.sum(axis=0)) - mean_iou(theirs.sum(axis=0)))
    return found
