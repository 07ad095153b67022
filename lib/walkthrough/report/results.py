"""mIoU of a table's cells with their uncertainty, from the records of a profile."""

from deeplabv3.errors import UserError
from walkthrough.paper.tables import Cell
from walkthrough.profiles import Profile
from walkthrough.records import catalogue
from walkthrough.records.cells import Job, cell_jobs
from walkthrough.report import intervals
from walkthrough.report.intervals import Estimate


class CellResults:
    """The records of ``profile``, each read once."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.warnings: dict[str, None] = {}  # of small lists, each once
        self._estimates: dict[tuple, Estimate | None] = {}
        self._known_jobs: dict[str, list[Job]] = {}

    def by_seed(self, cell: Cell) -> dict[int, Estimate]:
        """A cell's mIoU for each of the profile's seeds that has a record."""
        found = {}
        for run, settings in self.jobs(cell):
            key = (run.name, settings)
            if key not in self._estimates:
                confusions = run.confusion_counts(settings)
                self._estimates[key] = None if confusions is None else intervals.bootstrap(confusions)
                if confusions is not None and (warning := intervals.small_list_warning(confusions)):
                    self.warnings[warning] = None
            if (estimate := self._estimates[key]) is not None:
                found[run.seed] = estimate
        return found

    def jobs(self, cell: Cell) -> list[Job]:
        """Runs and evaluations that fill the cell; none where there are neither images nor records to tell them."""
        key = repr((cell.variant, cell.training, cell.evaluation, cell.needs))
        if key not in self._known_jobs:
            try:
                self._known_jobs[key] = cell_jobs(cell, self.profile)
            except UserError:
                if catalogue.all_records(self.profile.name):
                    raise
                self._known_jobs[key] = []
        return self._known_jobs[key]

    def is_one_network(self, terms: tuple[tuple[float, Cell], ...]) -> bool:
        """True where the profile fills all cells with one evaluation, such as those of both ResNets by MobileNetV2."""
        jobs = [self.jobs(cell)[:1] for _, cell in terms]
        return all(jobs) and len({(run.name, settings) for ((run, settings),) in jobs}) == 1

    def difference(self, terms: tuple[tuple[float, Cell], ...]) -> float | None:
        """The sum of ``weight * mIoU`` with the first seed, from the records' values alone; None where one is missing.

        Without an interval, it costs no bootstrap.
        """
        total = 0.0
        for weight, cell in terms:
            record = next((run.evaluation_record(settings) for run, settings in self.jobs(cell)[:1]), None)
            if record is None:
                return None
            total += weight * record["miou"]
        return total

    def estimate(self, cell: Cell) -> Estimate | None:
        """A cell's mIoU over all seeds that have a record; None where none has."""
        found = self.by_seed(cell)
        return intervals.combine_seeds(list(found.values())) if found else None

    def weighted_sum(self, terms: tuple[tuple[float, Cell], ...]) -> Estimate | None:
        """The sum of ``weight * mIoU`` over the seeds with which every cell has a record; None where there are none."""
        found = [(weight, self.by_seed(cell)) for weight, cell in terms]
        seeds = [seed for seed in self.profile.all_seeds() if all(seed in estimates for _, estimates in found)]
        if not seeds:
            return None
        return intervals.weighted_sum(
            [(weight, intervals.combine_seeds([estimates[s] for s in seeds])) for weight, estimates in found]
        )
