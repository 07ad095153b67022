"""Estimate of the hours that runs will take, from records or from a timed step."""

import heapq
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from deeplabv3.config import TrainingConfig
from deeplabv3.machine import available_cpus
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.training.step import ModelWithLoss, make_optimizer, training_step
from walkthrough.experiments.task import Task, device, image_work, step_work, threads_of
from walkthrough.profiles import Profile
from walkthrough.records.catalogue import all_records
from walkthrough.records.environment import environment
from walkthrough.records.naming import reading
from walkthrough.records.run import Run


@dataclass(frozen=True)
class Throughput:
    """Seconds per multiply-add of one run with its share of the machine; ``source`` says where they come from."""

    training: float
    evaluation: float
    source: str

    def seconds(self, task: Task) -> float:
        """Seconds for what is left of a task."""
        training = task.training - task.done()
        return training * self.training + (task.left() - training) * self.evaluation


def recorded_speed(profile: Profile) -> Throughput | None:
    """Mean speed of the profile's recorded runs on this kind of device with this many threads; None without any.

    Records that ship count too where only local ones are read: a step that is timed on a busy machine says less.
    """
    here, threads = environment()["device"], threads_of(profile)
    training, evaluation, runs = [0.0, 0], [0.0, 0], 0
    with reading(""):
        records = all_records(profile.name)
    for record, evaluations in records:
        run = Run(profile, record["settings"])
        if (record["device"], record.get("threads", threads)) != (here, threads):
            continue
        runs += 1
        training[0] += record["seconds"]
        training[1] += run.training.iterations * step_work(run.config, run.training)
        for values in evaluations:
            if values["device"] == here and values.get("threads", threads) == threads:
                settings = type(profile.evaluation)(**values["settings"])
                evaluation[0] += values["seconds"]
                evaluation[1] += values["images"] * image_work(run.config, settings)
    if not training[0]:
        return None
    per_step = training[0] / training[1]
    per_image = evaluation[0] / evaluation[1] if evaluation[0] else per_step
    many = "run" if runs == 1 else "runs"
    return Throughput(per_step, per_image, f"by {runs} recorded {many} of this profile on {here}")


LONGEST_STEP = 1e12
"""Most multiply-adds of a step that is timed on the CPU, some seconds; a larger batch is cut to two images."""


def timed_speed(tasks: Sequence[Task]) -> Throughput:
    """Speed of one training step of the smallest network of ``tasks``, on random images, after one to warm up."""
    run = min((task.run for task in tasks), key=lambda run: step_work(run.config, run.training))
    torch.set_num_threads(threads_of(run.profile))
    training = run.training
    if device().type == "cpu" and step_work(run.config, training) > LONGEST_STEP:
        training = replace(training, batch_size=2, grad_accum_steps=1)
    seconds = min(_step_seconds(run, training))
    speed = seconds / step_work(run.config, training)
    busy = psutil.getloadavg()[0] >= available_cpus()
    source = f"by one training step of {run.config.backbone}, timed here"
    return Throughput(speed, speed, source + (" while other programs were busy: less without them" if busy else ""))


def _step_seconds(run: Run, training: TrainingConfig) -> Iterator[float]:
    where = device()
    model = DeepLabV3(run.config).to(where).to(memory_format=torch.channels_last).train()
    model.freeze_batch_norm(training.freeze_batch_norm).train()
    model_with_loss, optimizer = ModelWithLoss(model, training), make_optimizer(model, training)
    shape = (training.batch_size, training.crop_size, training.crop_size)
    images = torch.randint(256, (*shape, 3), dtype=torch.uint8, device=where)
    labels = torch.randint(run.config.num_classes, shape, dtype=torch.uint8, device=where)
    for step in range(2):
        began = time.monotonic()
        training_step(model_with_loss, optimizer, training, 0, step, images, labels).item()  # waits for a GPU
        yield time.monotonic() - began


def estimate_hours(tasks: Sequence[Task], speed: Throughput, workers: int) -> float:
    """Hours for ``tasks`` if each goes, in their order, to the worker that is free first."""
    free = [0.0] * max(1, workers)
    for task in tasks:
        heapq.heapreplace(free, free[0] + speed.seconds(task))
    return max(free) / 3600


def speed_of(profile: Profile, tasks: Sequence[Task]) -> Throughput:
    """Speed from records if there are any, else timed."""
    return recorded_speed(profile) or timed_speed(tasks)
