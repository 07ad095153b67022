"""Tasks: a run with its evaluations, and its work in multiply-adds, which progress bars and estimates count.

Steps of different networks take very different times, and evaluation in six scales at output stride 8 takes longer than
many steps: counts of steps or runs would say little about the time left.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from deeplabv3.config import EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.data.voc import find_root, read_list
from deeplabv3.machine import available_cpus
from deeplabv3.model.checkpoint import checkpoint_step
from deeplabv3.model.cost import multiply_adds
from walkthrough.profiles import Profile
from walkthrough.records.cells import Job
from walkthrough.records.run import Run

BACKWARD = 3
"""Cost of a training step in forward passes: the gradients of the features and of the weights cost one each."""


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
    """A run to train, unless it is trained, and its evaluations on a list of so many ``images``."""

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
        """Multiply-adds of training and evaluations, done or not."""
        return self.training + sum(map(self.evaluation, self.evaluations))

    def steps_done(self) -> int:
        """Return the step at which training resumes, the last one if it is finished."""
        if self.run.checkpoint.is_file() and self.run.training_record() is not None:
            return self.run.training.iterations
        return min(checkpoint_step(self.run.checkpoint), self.run.training.iterations)

    def done(self) -> int:
        """Multiply-adds of the training that are done."""
        return self.steps_done() * step_work(self.run.config, self.run.training)

    def left(self) -> int:
        """Multiply-adds that are still to be done."""
        return self.total - self.done()


def tasks_of(jobs: Iterable[Job]) -> list[Task]:
    """Return the jobs as one task a run, the longest first: at the end, a long one would leave other processes idle."""
    by_run: dict[Run, list[EvaluationConfig]] = {}
    for run, settings in dict.fromkeys(jobs):
        by_run.setdefault(run, []).append(settings)
    tasks = [Task(run, tuple(settings), _images(run)) for run, settings in by_run.items()]
    return sorted(tasks, key=Task.left, reverse=True)


def _images(run: Run) -> int:
    profile = run.profile
    if profile.data.kind == "synthetic":  # which need not be drawn for it
        return profile.data.val
    return len(read_list(find_root(profile.data_root()), profile.data.val_list))


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


MOST_RUNS_A_GPU = 8
"""Runs of small networks that share a GPU, where the profile leaves their number open."""

MEMORY_A_RUN = 2 * 2**30
"""Bytes of a GPU's memory for each of them, CUDA's own included."""


def parallel_runs(profile: Profile) -> int:
    """Number of runs that train at once on this machine."""
    if gpus := torch.cuda.device_count():
        memory = torch.cuda.get_device_properties(0).total_memory
        return gpus * runs_a_gpu(profile, min(available_cpus() / gpus, memory / MEMORY_A_RUN))
    return profile.runtime.parallel_runs or available_cpus()


def runs_a_gpu(profile: Profile, room: float) -> int:
    """Number of runs that train at once on a GPU whose cores, and memory if known, have room for so many small ones."""
    return profile.runtime.parallel_runs or max(1, min(MOST_RUNS_A_GPU, int(room)))


def threads_of(profile: Profile) -> int:
    """Number of threads of a run's process, its share of the cores, whether or not other runs train at the same time.

    It is fixed because the number of threads changes the order of summation, and so the result. ``OMP_NUM_THREADS`` is
    an upper bound; torchrun sets it to 1 where it is not set.
    """
    processes = max(parallel_runs(profile), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))  # of a sweep, or torchrun's
    share = max(1, available_cpus() // processes)
    bound = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(share, int(bound)) if bound.isdecimal() and int(bound) else share


def limit_threads() -> None:
    """Set PyTorch's threads to the cores of this process where it has more: it knows nothing of a container's quota."""
    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))


def missing(jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs without a record, each once, in order."""
    return [job for job in dict.fromkeys(jobs) if job[0].evaluation_record(job[1]) is None]


Report = Callable[..., None]
"""``report(position, loss)``: a task's position in multiply-adds, and the loss of its last step while it trains."""

TaskFunction = Callable[[Task, Report], None]
"""A function that does what is left of a task; other processes can import it."""
