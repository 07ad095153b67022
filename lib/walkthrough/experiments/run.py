"""Training and evaluation of a run, with its records: one process at a time, resumed after an interruption."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from deeplabv3.config import EvaluationConfig
from deeplabv3.distributed import SINGLE_PROCESS, ProcessGroup
from deeplabv3.errors import UserError, is_out_of_memory
from deeplabv3.evaluation.inference import confusion_per_image
from deeplabv3.evaluation.metrics import mean_iou
from deeplabv3.files import abandoned
from deeplabv3.model.checkpoint import load_model
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.deploy import optimize_for_inference
from deeplabv3.model.weights import load_backbone_weights
from deeplabv3.signals import sigterm_interrupts
from deeplabv3.training.trainer import Trainer
from walkthrough import paths
from walkthrough.datasets.survey import require_labels, require_learnable, without_repeated_hints
from walkthrough.experiments.task import device, limit_threads, threads_of
from walkthrough.records import start
from walkthrough.records.environment import reset_peak_memory
from walkthrough.records.lock import LOCK, locked
from walkthrough.records.run import Run
from walkthrough.records.store import PartialCounts

COMPILE_FROM = 20_000
"""Images that a GPU has to evaluate in each scale before the minute is made good that ``torch.compile`` takes."""


def train_run(
    run: Run,
    report: Callable[[int, float, float], None] = lambda step, loss, lr: None,
    processes: ProcessGroup = SINGLE_PROCESS,
    validate_every: int = 0,
    wait: bool = True,
) -> None:
    """Train ``run`` to its end and write its training record; what is there already is not done again.

    While another process trains it, this one waits, and then has nothing left to do. Each of ``processes`` calls it.
    With ``validate_every`` steps between validations, the network with the best mIoU on the evaluation list is kept
    beside the last one. Without ``wait``, :class:`~walkthrough.records.lock.Locked` is raised instead of waiting.
    """
    if _trained(run, processes):
        return
    with locked(run.folder / LOCK, f"run {run.name}", processes, wait):
        if _trained(run, processes):
            return
        for leftover in abandoned(run.folder, seconds=0) if processes.is_main else ():  # nobody else writes there
            leftover.unlink(missing_ok=True)
        reset_peak_memory()
        profile = run.profile
        torch.set_num_threads(threads_of(profile))
        data = profile.open_data(profile.data.train_list)
        if profile.data.kind != "synthetic":
            require_learnable(data)
            require_labels(profile.open_data())
        trainer = Trainer(
            initial_model(run),
            data,
            run.training,
            run.folder,
            run.identity,
            runtime=profile.runtime,
            seed=run.seed,
            device=device(),
            processes=processes,
            validate_every=validate_every,
            score=lambda model: _score(run, model, processes),
            report=report,
        )
        seconds = trainer.run()
        if processes.is_main:
            run.write_training_record(seconds)
        processes.barrier()


def _trained(run: Run, processes: ProcessGroup) -> bool:
    """Return whether the run is trained and recorded, as the main process sees it: all have to take the same branch."""
    return processes.all_gather(run.checkpoint.is_file() and run.training_record() is not None)[0]


def initial_model(run: Run) -> DeepLabV3:
    """Network that ``run`` starts from: random by its seed, then with the profile's weights."""
    profile = run.profile
    torch.manual_seed(run.seed)
    model = DeepLabV3(run.config)
    if profile.model.init_from:
        network = start.load(start.find(profile.model.init_from))
        start.initialize(model, network, tuple(profile.data.class_map().values()), profile.model.new_classes)
    elif profile.model.backbone_weights:
        load_backbone_weights(model, profile.model.backbone_weights, paths.workspace() / "weights")
    return model


def _score(run: Run, model: DeepLabV3, processes: ProcessGroup) -> float:
    """mIoU in percent of ``model`` over all images of the evaluation list."""
    data = run.profile.open_data()
    settings = replace(run.profile.evaluation, output_stride=run.config.output_stride)
    share = range(len(data))[processes.rank :: processes.world_size]
    total = np.zeros((run.config.num_classes,) * 2, dtype=np.int64)
    for _, counts in confusion_per_image(model, data, settings, run.profile.runtime.eval_batch_size, share):
        if isinstance(counts, UserError):
            raise counts
        total += counts
    return mean_iou(processes.all_reduce(torch.from_numpy(total).to(device())).cpu().numpy())


class Incomplete(UserError):
    """Some images could not be read. ``values`` is the record of the others, which is not written."""

    def __init__(self, message: str, values: dict):
        super().__init__(message)
        self.values = values

    def __reduce__(self) -> tuple:
        # By default an exception is pickled with the one argument of its base class.
        return type(self), (str(self), self.values)


def evaluate_run(
    run: Run,
    settings: EvaluationConfig,
    report: Callable[[int], None] = lambda done: None,
    checkpoint: Path | None = None,
    save_every_s: float = 30.0,
    processes: ProcessGroup = SINGLE_PROCESS,
    wait: bool = True,
) -> dict:
    """Evaluate ``run`` and return the values of its record, which is written if the network is the last one.

    While another process evaluates the run with these settings, wait for it and return its record. SIGINT, SIGTERM and
    errors save all counts, a process that is killed loses at most ``save_every_s`` seconds, and the next call resumes.
    Images that cannot be read do not stop the evaluation; :class:`Incomplete` names them afterwards.

    Args:
        run: the run, trained at least in part
        settings: the strategy
        report: called with the number of images that are done
        checkpoint: file of the network, by default the one in the run's folder
        save_every_s: seconds between saves
        processes: all processes of the group call this, and each evaluates its share; the counts add up exactly
        wait: False raises :class:`~walkthrough.records.lock.Locked` instead of waiting, and takes an existing record
    """
    checkpoint, name = checkpoint or run.checkpoint, run.evaluation_name(settings)
    with locked(run.record_folder() / f".{name}{LOCK}", f"{name} of run {run.name}", processes, wait) as waited:
        model, state = load_model(checkpoint)
        finished = state.step == run.training.iterations and run.owns(checkpoint)
        if (waited or not wait) and finished and (record := processes.all_gather(run.evaluation_record(settings))[0]):
            return record
        reset_peak_memory()
        limit_threads()
        network = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        partial = run.partial_counts(settings, network, device().type, save_every_s, processes)
        values, confusions = _evaluated(run, settings, model, partial, report, processes)
        if processes.is_main and finished:
            run.write_evaluation_record(settings, values, confusions)
        partial.remove()
        processes.barrier()
        return values


def evaluate_foreign(
    run: Run,
    settings: EvaluationConfig,
    model: DeepLabV3,
    name: str,
    report: Callable[[int], None] = lambda done: None,
    save_every_s: float = 30.0,
) -> dict:
    """Evaluate a network that no run has trained, and return the values of its record, which calls it ``name``.

    ``run`` is its :meth:`Run.foreign`. An existing record is returned, and an interrupted evaluation goes on.
    """
    record = run.evaluation_name(settings)
    with locked(run.record_folder() / f".{record}{LOCK}", f"{record} of {name}"):
        if (existing := run.evaluation_record(settings)) is not None:
            return existing
        reset_peak_memory()
        limit_threads()
        partial = run.partial_counts(settings, run.identity["network"], device().type, save_every_s)
        values, confusions = _evaluated(run, settings, model, partial, report, SINGLE_PROCESS)
        values["network"] = f"{name}, weights {run.identity['network']}"
        values["model"] = run.identity["model"]
        run.write_evaluation_record(settings, values, confusions)
        partial.remove()
        return values


def compiles(run: Run, settings: EvaluationConfig, images: int) -> bool:
    """Return True if ``torch.compile`` gains time and the run has it: on a GPU, with very many images of one size."""
    one_size = settings.padding == "crop" and device().type == "cuda"
    return run.profile.runtime.compile and one_size and images * (1 + settings.flip) >= COMPILE_FROM


def _evaluated(
    run: Run,
    settings: EvaluationConfig,
    model: DeepLabV3,
    partial: PartialCounts,
    report: Callable[[int], None],
    processes: ProcessGroup,
) -> tuple[dict, np.ndarray]:
    """Return a record's values and the confusion matrices ``(images, K, K)``.

    Args:
        run: the run that is evaluated
        settings: the strategy
        model: its network
        partial: counts of an earlier attempt; gets the new ones
        report: called with the number of images that are done
        processes: each evaluates its share of the images
    """
    data = run.profile.open_data()
    signatures = [data.file_signature(index) for index in range(len(data))]
    share = range(len(data))[processes.rank :: processes.world_size]
    todo = [index for index in share if signatures[index] not in partial]
    errors: list[UserError] = []
    done = len(share) - len(todo)
    report(done * processes.world_size)
    compiled = compiles(run, settings, len(todo))
    model = optimize_for_inference(model, compiled, settings.precision).to(device())
    stream = confusion_per_image(model, data, settings, run.profile.runtime.eval_batch_size, todo)
    with sigterm_interrupts(), closing(stream):
        try:
            for index, confusion in stream:
                if isinstance(confusion, UserError):
                    errors.append(confusion)
                else:
                    partial.add(signatures[index], confusion)
                    done += 1
                    report(min(done * processes.world_size, len(data)))
        except BaseException as error:
            partial.save()
            if is_out_of_memory(error):
                where = "the GPU's" if isinstance(error, torch.OutOfMemoryError) else "the computer's"
                raise UserError(
                    f"{where} memory does not hold a batch of images in every scale; lower 'runtime.eval_batch_size' "
                    f"({run.profile.runtime.eval_batch_size}), or give --tile 1025 for large images; what is counted "
                    "stays."
                ) from error
            raise
    counted = {signatures[index]: partial[signatures[index]] for index in share if signatures[index] in partial}
    counts_by_rank, errors_by_rank, seconds = zip(
        *processes.all_gather((counted, errors, partial.seconds)), strict=True
    )
    counts = {signature: counts for part in counts_by_rank for signature, counts in part.items()}
    errors = [error for part in errors_by_rank for error in part]
    confusions = np.array([counts[signature] for signature in signatures if signature in counts])
    if not confusions.any() and not errors:
        raise UserError(
            f"list {data.list_name!r} of {data.root} is void throughout; check its labels and the profile's classes."
        )
    values = run.evaluation_values(settings, confusions, max(seconds)) if confusions.any() else {}
    if errors:
        partial.save()
        sentences = without_repeated_hints(map(str, errors))
        raise Incomplete(
            f"{len(errors)} of {len(data)} images could not be evaluated: {'; '.join(sentences)} The others "
            "are done and need not be evaluated again.",
            values,
        )
    return values, confusions
