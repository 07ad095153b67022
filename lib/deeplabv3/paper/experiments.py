"""Makes the runs and evaluations that tables ask for: what has no record yet, side by side, with a progress bar."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from deeplabv3.evaluation.inference import EvaluationSettings, evaluate
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.weights import load_backbone_weights
from deeplabv3.paper import tables
from deeplabv3.paper.records import Run
from deeplabv3.profiles import Profile
from deeplabv3.training.checkpoint import load_model
from deeplabv3.training.trainer import train

Report = Callable[[int], None]
"""Told how many pictures are evaluated so far."""


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train_run(run: Run, report: Callable[[int, float, float], None] = lambda step, loss, lr: None) -> None:
    """Train ``run`` to its end and write its training record; what is there already is not done again."""
    if run.checkpoint.is_file() and run.training_record() is not None:
        return
    profile = run.profile
    torch.manual_seed(run.seed)
    model = DeepLabV3(run.config)
    if profile.backbone_weights:
        load_backbone_weights(model, profile.backbone_weights)
    seconds = train(
        model,
        profile.open_data(profile.data.train_list),
        run.training,
        run.folder,
        run.identity,
        seed=run.seed,
        workers=profile.workers,
        device=device(),
        report=report,
    )
    run.write_training_record(seconds)


def evaluate_run(
    run: Run, settings: EvaluationSettings, report: Report = lambda done: None, checkpoint: Path | None = None
) -> dict:
    """Evaluate ``run`` from its checkpoint, by default the one in its folder; the record's values.

    The record is written unless the checkpoint is one on the way: that is not the run's result.
    """
    model, state = load_model(checkpoint or run.checkpoint)
    model.to(device(), memory_format=torch.channels_last)
    began = time.monotonic()
    confusions = evaluate(model, run.profile.open_data(), settings, run.profile.evaluation_batch, report)
    values = run.evaluation_values(settings, confusions, time.monotonic() - began)
    if state.step == run.training.iterations:
        run.write_evaluation_record(settings, values, confusions)
    return values


Job = tuple[Run, EvaluationSettings]


def missing(jobs: Iterable[Job]) -> list[Job]:
    """The jobs without a record, each once, in order."""
    return [job for job in dict.fromkeys(jobs) if job[0].evaluation_record(job[1]) is None]


def ensure(jobs: Iterable[Job], title: str = "runs") -> None:
    """Train and evaluate whatever of ``jobs`` has no record yet; instant when all have one.

    The profile's ``side_by_side`` runs share the cores, one process each. A job that fails does not hold the others up;
    afterwards the first failure is raised. Interrupted runs go on from their checkpoints in the next call.
    """
    todo = missing(jobs)
    if not todo:
        return
    by_run: dict[Run, list[EvaluationSettings]] = {}
    for run, settings in todo:
        by_run.setdefault(run, []).append(settings)
    profile = todo[0][0].profile
    profile.data_root()  # drawn once here rather than by every process
    cores = os.cpu_count() or 1
    processes = min(profile.side_by_side or cores, len(by_run))
    steps = sum(0 if run.training_record() and run.checkpoint.is_file() else run.training.iterations for run in by_run)
    bar = tqdm(total=steps, desc=f"{title}, {len(by_run)} runs", unit="step", mininterval=1, leave=False)
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    done = context.Queue()
    pool = ProcessPoolExecutor(processes, context, _start_worker, (done, max(1, cores // processes)))
    with bar, pool:
        listener = threading.Thread(target=_show, args=(done, bar), daemon=True)
        listener.start()
        futures = [pool.submit(_work, run, settings) for run, settings in by_run.items()]
        try:
            failures = [error for future in as_completed(futures) if (error := future.exception()) is not None]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()  # SIGTERM: the trainer saves and stops
            raise
        finally:
            done.put(None)
            listener.join()
    if failures:
        raise failures[0]


def run_table(number: int, profile: Profile) -> None:
    """Make whatever table ``number`` still lacks under ``profile``."""
    ensure(tables.jobs(tables.load(number), profile), f"Table {number}")


_queue = None


def _start_worker(queue, threads: int) -> None:
    global _queue
    _queue = queue
    torch.set_num_threads(threads)
    # Ctrl-C goes to the whole process group; the parent decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _work(run: Run, evaluations: list[EvaluationSettings]) -> None:
    train_run(run, lambda step, loss, lr: _queue.put(loss))
    for settings in evaluations:
        evaluate_run(run, settings)


def _show(queue, bar: tqdm) -> None:
    while (loss := queue.get()) is not None:
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        bar.update()
