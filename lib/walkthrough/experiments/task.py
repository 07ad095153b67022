"""How much work a run is, in multiply-adds: what progress bars, orders and estimates of time go by.

Steps of different networks cost very different times, and evaluation in six scales at output stride 8 costs more than
many steps: counting steps or runs would tell a person little about when it ends.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from deeplabv3.config import EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.data.voc import find_root, read_list
from deeplabv3.model.checkpoint import checkpoint_step
from deeplabv3.model.cost import multiply_adds
from walkthrough.profiles import Profile
from walkthrough.records.cells import Job
from walkthrough.records.run import Run

BACKWARD = 3
"""A training step costs so many forward passes: the gradient of the features and that of the weights cost one each."""


def step_work(config: ModelConfig, training: TrainingConfig) -> int:
    """Multiply-adds of one training step."""
    return BACKWARD * training.batch_size * multiply_adds(config, training.crop_size, training.crop_size)


def image_work(config: ModelConfig, settings: EvaluationConfig) -> int:
    """Multiply-adds of evaluating one image that is padded to the crop, in every scale and with its mirror image."""
    config = replace(config, output_stride=settings.output_stride)
    sides = [round((settings.crop_size - 1) * scale) + 1 for scale in settings.scales]
    return (1 + settings.flip) * sum(multiply_adds(config, side, side) for side in sides)


@dataclass(frozen=True)
class Task:
    """A run that is to be trained, unless it is, and then evaluated on the ``images`` of its evaluation list."""

    run: Run
    evaluations: tuple[EvaluationConfig, ...]
    images: int

    @property
    def training(self) -> int:
        """Multiply-adds of the whole training."""
        return self.run.training.iterations * step_work(self.run.config, self.run.training)

    def evaluation(self, settings: EvaluationConfig) -> int:
        """Multiply-adds of evaluating every image."""
        return self.images * image_work(self.run.config, settings)

    @property
    def total(self) -> int:
        """Multiply-adds of everything, done or not."""
        return self.training + sum(map(self.evaluation, self.evaluations))

    def steps_done(self) -> int:
        """The step at which training goes on; all of them where it need not."""
        if self.run.checkpoint.is_file() and self.run.training_record() is not None:
            return self.run.training.iterations
        return min(checkpoint_step(self.run.checkpoint), self.run.training.iterations)

    def done(self) -> int:
        """Multiply-adds of the training that need not be done again."""
        return self.steps_done() * step_work(self.run.config, self.run.training)

    def left(self) -> int:
        """Multiply-adds that are still to be done."""
        return self.total - self.done()


def tasks_of(jobs: Iterable[Job]) -> list[Task]:
    """The jobs as one task a run, the longest first: a long one that began last would have all others wait for it."""
    by_run: dict[Run, list[EvaluationConfig]] = {}
    for run, settings in dict.fromkeys(jobs):
        by_run.setdefault(run, []).append(settings)
    tasks = [Task(run, tuple(settings), _images(run)) for run, settings in by_run.items()]
    return sorted(tasks, key=Task.left, reverse=True)


def _images(run: Run) -> int:
    profile = run.profile
    return len(read_list(find_root(profile.data_root()), profile.data.val_list))


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def parallel_runs(profile: Profile) -> int:
    """How many runs train at once on this machine."""
    return profile.runtime.parallel_runs or torch.cuda.device_count() or os.cpu_count() or 1


def threads_of(profile: Profile) -> int:
    """A run's share of the cores, whether or not others train beside it: other threads add in another order, and a run
    that rounds otherwise ends elsewhere."""
    return max(1, (os.cpu_count() or 1) // parallel_runs(profile))


def missing(jobs: Iterable[Job]) -> list[Job]:
    """The jobs without a record, each once, in order."""
    return [job for job in dict.fromkeys(jobs) if job[0].evaluation_record(job[1]) is None]


Report = Callable[..., None]
"""``report(position, loss)``: how far a task is in multiply-adds, and the loss of its last step if it is training."""


Work = Callable[[Task, Report], None]
"""Does a task from where it stands; a function that other processes can import."""
