"""Makes the runs and evaluations that tables ask for: trains, evaluates, and does what has no record yet."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deeplabv3.config import EvaluationConfig
from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup
from deeplabv3.errors import UserError
from deeplabv3.evaluation.inference import confusion_per_image
from deeplabv3.evaluation.metrics import mean_iou
from deeplabv3.model.checkpoint import load_checkpoint, load_model
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference
from deeplabv3.model.weights import load_backbone_weights
from deeplabv3.signals import sigterm_interrupts
from deeplabv3.training.trainer import Validation, train
from walkthrough import paths
from walkthrough.experiments.task import device, threads_of
from walkthrough.records.environment import reset_peak_memory
from walkthrough.records.lock import LOCK, locked
from walkthrough.records.run import Run
from walkthrough.records.store import PartialCounts

Report = Callable[[int], None]
"""Told how many images are evaluated so far."""


def train_run(
    run: Run,
    report: Callable[[int, float, float], None] = lambda step, loss, lr: None,
    processes: ProcessGroup = SINGLE_PROCESS,
    validate_every: int = 0,
) -> None:
    """Train ``run`` to its end and write its training record; what is there already is not done again.

    While another process trains it, this one waits, and then has nothing left to do. Every process of ``team`` calls
    it. With ``validate_every``, the mIoU on the evaluation list is taken so often, and the best network is kept beside
    the last one.
    """
    if _trained(run, processes):
        return
    with locked(run.folder / LOCK, f"run {run.name}", processes):
        if _trained(run, processes):
            return
        reset_peak_memory()
        profile = run.profile
        torch.set_num_threads(max(1, threads_of(profile) // processes.world_size))
        seconds = train(
            initial_model(run),
            profile.open_data(profile.data.train_list),
            run.training,
            run.folder,
            run.identity,
            seed=run.seed,
            workers=profile.runtime.num_workers,
            device=device(),
            compiled=profile.runtime.compile,
            processes=processes,
            validation=Validation(validate_every, lambda model: _score(run, model, processes))
            if validate_every
            else None,
            keep=profile.runtime.keep_checkpoints,
            report=report,
        )
        if processes.is_main:
            run.write_training_record(seconds)
        processes.barrier()


def _trained(run: Run, processes: ProcessGroup) -> bool:
    """Whether the run is trained and recorded, as the team's leader sees it: all have to go the same way."""
    return processes.all_gather(run.checkpoint.is_file() and run.training_record() is not None)[0]


def initial_model(run: Run) -> DeepLabV3:
    """The network that ``run`` starts from: drawn from its seed, with the profile's weights in it."""
    profile = run.profile
    torch.manual_seed(run.seed)
    model = DeepLabV3(run.config)
    if profile.model.init_from:
        state = load_checkpoint(Path(profile.model.init_from)).model
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"checkpoint {profile.model.init_from} holds another network than the run's; choose the same head, rates and "
                "classes."
            ) from error
    elif profile.model.backbone_weights:
        load_backbone_weights(model, profile.model.backbone_weights, paths.workspace() / "weights")
    return model


def _score(run: Run, model: DeepLabV3, processes: ProcessGroup) -> float:
    """The mIoU in percent of ``model`` as it stands, over all images of the evaluation list."""
    data = run.profile.open_data()
    settings = replace(run.profile.evaluation, output_stride=run.config.output_stride)
    share = range(len(data))[processes.rank :: processes.world_size]
    total = np.zeros((run.config.num_classes,) * 2, dtype=np.int64)
    for _, found in confusion_per_image(model, data, settings, run.profile.runtime.eval_batch_size, share):
        if isinstance(found, UserError):
            raise found
        total += found
    return mean_iou(processes.all_reduce(torch.from_numpy(total).to(device())).cpu().numpy())


class Incomplete(UserError):
    """Some images could not be read. ``values`` is what the others have given, in the form of a record."""

    def __init__(self, message: str, values: dict):
        super().__init__(message)
        self.values = values

    def __reduce__(self) -> tuple:
        # Between processes, an exception by itself travels with the one argument that its base class was given.
        return type(self), (str(self), self.values)


def evaluate_run(
    run: Run,
    settings: EvaluationConfig,
    report: Report = lambda done: None,
    checkpoint: Path | None = None,
    save_every_s: float = 30.0,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> dict:
    """Evaluate ``run`` from its checkpoint, by default the one in its folder; the record's values.

    The record is written unless the checkpoint is one on the way: that is not the run's result. SIGINT, SIGTERM and any
    error keep what is counted so far, a process that is killed outright loses at most ``save_every_s`` seconds of it,
    and the next call goes on from there. Images that cannot be read do not hold the others up; afterwards they are
    named by :class:`Incomplete`. Every process of ``team`` calls it and evaluates its share; counts add up exactly.
    While another process evaluates the run so, this one waits, and then returns the other's record.
    """
    checkpoint, name = checkpoint or run.checkpoint, run.evaluation_name(settings)
    with locked(run.record_folder() / f".{name}{LOCK}", f"{name} of run {run.name}", processes) as waited:
        model, state = load_model(checkpoint)
        finished = state.step == run.training.iterations
        if waited and finished and (found := processes.all_gather(run.evaluation_record(settings))[0]):
            return found
        reset_peak_memory()
        partial = run.partial_counts(settings, checkpoint, device().type, save_every_s, processes)
        values, confusions = _evaluated(run, settings, model, partial, report, processes)
        if processes.is_main and finished:
            run.write_evaluation_record(settings, values, confusions)
        partial.remove()
        processes.barrier()
        return values


def _evaluated(
    run: Run,
    settings: EvaluationConfig,
    model: DeepLabV3,
    partial: PartialCounts,
    report: Report,
    processes: ProcessGroup,
) -> tuple[dict, np.ndarray]:
    """What :func:`evaluate_run` finds: a record's values, and the confusion matrices ``(images, K, K)``."""
    model = optimize_for_inference(model).to(device())
    data = run.profile.open_data()
    stamps = [data.file_signature(index) for index in range(len(data))]
    share = range(len(data))[processes.rank :: processes.world_size]
    todo = [index for index in share if stamps[index] not in partial]
    errors: list[UserError] = []
    done = len(share) - len(todo)
    report(done * processes.world_size)
    stream = confusion_per_image(model, data, settings, run.profile.runtime.eval_batch_size, todo)
    with sigterm_interrupts(), closing(stream):
        try:
            for index, found in stream:
                if isinstance(found, UserError):
                    errors.append(found)
                else:
                    partial.add(stamps[index], found)
                    done += 1
                    report(min(done * processes.world_size, len(data)))
        except BaseException as error:
            partial.save()
            if isinstance(error, torch.OutOfMemoryError):
                raise UserError(
                    "the GPU's memory does not hold a batch of images in every scale; lower 'runtime.eval_batch_size' "
                    f"({run.profile.runtime.eval_batch_size}), what is counted stays."
                ) from error
            raise
    counts, seconds = {}, 0.0
    kept = {stamps[index]: partial[stamps[index]] for index in share if stamps[index] in partial}
    gathered = processes.all_gather((kept, errors, partial.seconds))
    for theirs, _, spent in gathered:
        counts |= theirs
        seconds = max(seconds, spent)
    errors = [error for _, theirs, _ in gathered for error in theirs]
    confusions = np.array([counts[stamp] for stamp in stamps if stamp in counts])
    if not confusions.any() and not errors:
        raise UserError(
            f"list {data.list_name!r} of {data.root} is void throughout; check its labels and the profile's classes."
        )
    values = run.evaluation_values(settings, confusions, seconds) if confusions.any() else {}
    if errors:
        partial.save()
        raise Incomplete(
            f"{len(errors)} of {len(data)} images could not be evaluated: {'; '.join(map(str, errors))} The others "
            "are done and need not be evaluated again.",
            values,
        )
    return values, confusions
