"""The training loop: its arithmetic written out by hand, and what happens when it is stopped, killed or misled."""

import csv
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import kill_worker
import pytest
import torch
from conftest import small_config
from torch import nn
from torch.nn import functional as F

from deeplabv3.config import VOID, TrainingConfig
from deeplabv3.data.loader import TrainingSamples, batches
from deeplabv3.data.transforms import normalize
from deeplabv3.distributed import ProcessGroup
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.signals import Interrupted
from deeplabv3.training import step as step_module
from deeplabv3.training import trainer
from deeplabv3.training.log import Log
from deeplabv3.training.step import downsample_labels, make_optimizer, segmentation_loss
from deeplabv3.training.trainer import Validation, train


def fresh_model(**changes) -> DeepLabV3:
    torch.manual_seed(0)
    return DeepLabV3(small_config(**changes))


def settings(**changes) -> TrainingConfig:
    defaults = {"iterations": 4, "batch": 2, "crop": 33, "lr": 0.05, "batch_norm_momentum": 0.1}
    return TrainingConfig(**defaults | changes)


def logged_steps(folder: Path) -> list[int]:
    with open(folder / "log.csv") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def same_weights(one: DeepLabV3, other: DeepLabV3) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


# --- the loss


class FixedLogits(nn.Module):
    """Stands in for a network: logits at the features' resolution that the test chooses."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.config = small_config(align_corners=True)

    def features_to_logits(self, images):
        return self.logits


def test_void_pixels_do_not_count():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 5, 5))
    labels[:, 1:3, 2:] = VOID
    logits = torch.randn(2, 3, 5, 5)
    images = torch.zeros(2, 3, 5, 5)
    loss = segmentation_loss(FixedLogits(logits), images, labels)

    by_hand = [
        -math.log(torch.softmax(logits[n, :, y, x].double(), 0)[labels[n, y, x]])
        for n in range(2)
        for y in range(5)
        for x in range(5)
        if labels[n, y, x] != VOID
    ]
    assert loss.item() == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    changed = torch.where((labels == VOID)[:, None], torch.randn(2, 3, 5, 5) * 100, logits)
    assert segmentation_loss(FixedLogits(changed), images, labels).item() == loss.item()


@pytest.mark.parametrize("upsample", [True, False])
def test_a_batch_that_is_void_throughout_has_loss_zero_and_no_gradient(upsample):
    model = FixedLogits(torch.randn(1, 3, 3, 3))
    loss = segmentation_loss(model, torch.zeros(1, 3, 9, 9), torch.full((1, 9, 9), VOID), upsample)
    loss.backward()
    assert loss.item() == 0
    assert not model.logits.grad.any()


def test_shrinking_the_labels_loses_thin_parts():
    """Table 8: the ground truth keeps its size, the logits are upsampled to it."""
    logits = torch.tensor([[4.0, 0.0]]).view(1, 2, 1, 1).repeat(1, 1, 3, 3)  # sure of class 0 everywhere
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[0, 1] = 1  # a line that none of the 3 x 3 nearest label pixels lies on
    images = torch.zeros(1, 3, 9, 9)
    right, wrong = math.log(1 + math.exp(-4)), math.log(1 + math.exp(4))
    upsampled = segmentation_loss(FixedLogits(logits), images, labels)
    shrunk = segmentation_loss(FixedLogits(logits), images, labels, upsample_logits=False)
    assert upsampled.item() == pytest.approx((8 * right + wrong) / 9, rel=1e-5)
    assert shrunk.item() == pytest.approx(right, rel=1e-5)


def test_shrunk_labels_keep_their_void():
    labels = torch.zeros(1, 9, 9, dtype=torch.long)
    labels[:, :5] = VOID
    model = FixedLogits(torch.randn(1, 2, 3, 3))
    segmentation_loss(model, torch.zeros(1, 3, 9, 9), labels, upsample_logits=False).backward()
    touched = model.logits.grad[0].abs().sum(0) > 0
    assert touched.any(1).tolist() == [False, False, True]


@pytest.mark.parametrize("size", [17, 33, 65])
def test_shrunk_labels_are_the_pixels_that_the_logits_stand_for(size):
    labels = torch.arange(size * size).view(1, size, size)
    assert torch.equal(downsample_labels(labels, ((size - 1) // 8 + 1,) * 2), labels[:, ::8, ::8])


# --- the loop


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"power": 2.0, "momentum": 0.5, "weight_decay": 0.1},
        {"backbone_lr_factor": 0.5, "backbone_freeze_steps": 1, "backbone_warmup_steps": 1},
        {"backbone_clip_norm": 0.05},
        {"scales": (1.0,), "flip": False},
        {"freeze_batch_norm": True},
    ],
    ids=lambda changes: ", ".join(changes) or "defaults",
)
def test_training_is_sgd_written_out_by_hand(tmp_path, data, changes):
    chosen = settings(**changes)
    trained = fresh_model()
    train(trained, data, chosen, tmp_path / "run", {}, seed=2)

    model = fresh_model().set_batch_norm_momentum(0.1).train()
    if chosen.freeze_batch_norm:
        model.freeze_batch_norm()
    samples = TrainingSamples(data, 33, 2, 2, chosen.scales, chosen.flip)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    ramp = {1: [0, 0.5, 1, 1], 0: [1, 1, 1, 1]}[chosen.backbone_freeze_steps]
    for step in range(4):
        pairs = [samples[2 * step], samples[2 * step + 1]]
        images = normalize(torch.stack([torch.from_numpy(image.copy()) for image, _ in pairs]))
        labels = torch.stack([torch.from_numpy(label.copy()).long() for _, label in pairs])
        loss = F.cross_entropy(model(images), labels, ignore_index=255)
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        backbone = [gradients[name] for name in parameters if name.startswith("backbone.")]
        norm = sum(gradient.square().sum() for gradient in backbone) ** 0.5
        lr = 0.05 * (1 - step / 4) ** chosen.power
        with torch.no_grad():
            for name, p in parameters.items():
                gradient, rate = gradients[name], lr
                if name.startswith("backbone."):
                    rate = lr * chosen.backbone_lr_factor * ramp[step]
                    if chosen.backbone_clip_norm is not None:
                        assert norm > chosen.backbone_clip_norm
                        gradient = gradient * chosen.backbone_clip_norm / norm
                velocity[name] = chosen.momentum * velocity[name] + gradient + chosen.weight_decay * p
                p -= rate * velocity[name]

    state = model.state_dict()
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert not torch.equal(state["head.classifier.weight"], fresh_model().head.classifier.weight)


def test_settings_reach_the_optimizer():
    model = fresh_model().freeze_batch_norm()
    optimizer = make_optimizer(model, settings(momentum=0.8, weight_decay=0.03))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.8, 0.8]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.03, 0.03]
    wanted = [{id(p) for p in part.parameters() if p.requires_grad} for part in (model.backbone, model.head)]
    assert [{id(p) for p in group["params"]} for group in optimizer.param_groups] == wanted


def test_loss_and_learning_rate_are_logged_and_reported(tmp_path, data):
    reported = []
    train(fresh_model(), data, settings(), tmp_path, {}, report=lambda *values: reported.append(values))
    with open(tmp_path / "log.csv") as file:
        rows = [(int(r["step"]), float(r["loss"]), float(r["lr"])) for r in csv.DictReader(file)]
    assert [row[0] for row in rows] == [0, 1, 2, 3]
    assert rows[0][1] == pytest.approx(math.log(3), abs=0.1)
    assert [row[2] for row in rows] == pytest.approx([0.05 * (1 - step / 4) ** 0.9 for step in range(4)], rel=1e-3)
    for row, report in zip(rows, reported, strict=True):
        assert row == pytest.approx(report, rel=1e-3)


def test_training_learns(tmp_path, data):
    losses = []
    chosen = settings(iterations=40, lr=0.2)
    train(fresh_model(), data, chosen, tmp_path, {}, report=lambda step, loss, lr: losses.append(loss))
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


# --- stopped, killed, resumed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, voc_root, number):
    uninterrupted = kill_worker.run(voc_root, tmp_path / "whole")

    def stop(step: int, loss: float, lr: float) -> None:
        if step == 11:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped after step 12 of 40; the same command goes on"):
        kill_worker.run(voc_root, tmp_path / "stopped", report=stop)
    assert signal.getsignal(number) == before
    assert load_checkpoint(tmp_path / "stopped" / "checkpoint.safetensors").step == 12
    with open(tmp_path / "stopped" / "log.csv", "a") as log:
        log.write("12,9.9,0.1\n13,9.9,0.1\n14,9.")  # steps behind the checkpoint, the last line torn: they come again
    steps = []
    resumed = kill_worker.run(voc_root, tmp_path / "stopped", report=lambda step, loss, lr: steps.append(step))
    assert steps == list(range(12, 40))
    assert same_weights(resumed, uninterrupted)
    assert logged_steps(tmp_path / "stopped") == list(range(40))
    stopped, whole = (
        list(csv.reader((tmp_path / name / "log.csv").read_text().splitlines())) for name in ("stopped", "whole")
    )
    assert [row[:3] for row in stopped] == [row[:3] for row in whole]


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, voc_root):
    """SIGKILL at a random moment: the checkpoint is whole, and the same bits come out in the end."""
    folder = tmp_path / "killed"
    checkpoint = folder / "checkpoint.safetensors"
    with subprocess.Popen([sys.executable, kill_worker.__file__, str(voc_root), str(folder)]) as process:
        try:
            deadline = time.monotonic() + 60
            while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(random.uniform(0, 0.8))
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    step = load_checkpoint(checkpoint).step
    assert 0 < step < 40
    steps = []
    resumed = kill_worker.run(voc_root, folder, report=lambda step, loss, lr: steps.append(step))
    assert steps == list(range(step, 40))
    assert same_weights(resumed, kill_worker.run(voc_root, tmp_path / "whole"))
    steps = logged_steps(folder)
    assert steps == sorted(set(steps))
    assert steps[-1] == 39


def test_the_log_is_as_long_as_the_checkpoint(tmp_path, data, monkeypatch):
    """Else a run that is killed and resumed has a hole in its curve."""
    honest = trainer.save_checkpoint

    def save(path, checkpoint, keep):
        honest(path, checkpoint, keep)
        assert logged_steps(tmp_path) == list(range(checkpoint.step))

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    train(fresh_model(), data, settings(iterations=6), tmp_path, {}, save_every_s=-1)


def test_a_run_that_breaks_down_does_not_hang_on_its_data_workers(tmp_path, voc_root):
    """The traceback keeps the workers alive until Python ends, and Python must be able to end them."""
    command = [sys.executable, kill_worker.__file__, str(voc_root), str(tmp_path / "run"), "breaking"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: out of memory")


def test_a_finished_run_is_not_trained_again(tmp_path, data):
    first = fresh_model()
    seconds = train(first, data, settings(), tmp_path, {"a": 1})

    def never(*_):
        raise AssertionError("trained again")

    again = fresh_model()
    assert train(again, data, settings(), tmp_path, {"a": 1}, report=never) == pytest.approx(seconds, abs=0.5)
    assert same_weights(again, first)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert (checkpoint.step, checkpoint.momentum) == (4, {})


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path, data, monkeypatch):
    honest = segmentation_loss
    calls = []

    def diverging(*arguments):
        calls.append(1)
        return honest(*arguments) * (math.nan if len(calls) == 4 else 1)

    monkeypatch.setattr(step_module, "segmentation_loss", diverging)
    with pytest.raises(UserError, match=r"became nan at step 3; lower 'lr' \(0\.05\)"):
        train(fresh_model(), data, settings(iterations=8), tmp_path, {}, save_every_s=-1)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert checkpoint.step == 3
    assert all(value.isfinite().all() for value in checkpoint.model.values())


def test_a_checkpoint_of_another_run_is_refused(tmp_path, data):
    train(fresh_model(), data, settings(), tmp_path, {"seed": 1})
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"checkpoint\.safetensors belongs to a run with other settings"):
        train(fresh_model(), data, settings(), tmp_path, {"seed": 2})
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, data):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged"):
        train(fresh_model(), data, settings(), tmp_path, {})
    assert path.read_bytes() == b"\0" * 100


def test_a_batch_of_one_is_refused_before_anything_is_learned(tmp_path, data):
    with pytest.raises(UserError, match=r"raise 'batch'"):
        train(fresh_model(), data, settings(batch_size=1), tmp_path, {})
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_workers_change_nothing(tmp_path, data):
    """With data workers and without, a run ends with the same bits."""
    one, other = fresh_model(), fresh_model()
    train(one, data, settings(), tmp_path / "0", {})
    train(other, data, settings(), tmp_path / "1", {}, workers=1)
    assert same_weights(one, other)


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 0},
        {"batch": 0},
        {"crop": -1},
        {"batch": 2.5},
        {"lr": -1.0},
        {"momentum": -0.1},
        {"weight_decay": -1.0},
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": ("a",)},
    ],
)
def test_impossible_settings_are_users_errors(changes):
    (name,) = changes
    with pytest.raises(UserError, match=name):
        settings(**changes)


def test_the_stream_that_is_trained_on_is_the_stream_of_samples(tmp_path, data, monkeypatch):
    """The trainer normalizes what :func:`batches` yields and nothing else reaches the network."""
    seen = []
    honest = segmentation_loss

    def spy(model, normalized, labels, *others):
        seen.append((normalized.clone(), labels.clone()))
        return honest(model, normalized, labels, *others)

    monkeypatch.setattr(step_module, "segmentation_loss", spy)
    train(fresh_model(), data, settings(), tmp_path, {}, seed=9)
    expected = list(batches(TrainingSamples(data, 33, 2, 9), 0, 4, 2))
    assert len(seen) == 4
    for (normalized, labels), (images, wanted) in zip(seen, expected, strict=True):
        assert torch.equal(normalized, normalize(images))
        assert torch.equal(labels, wanted)


# --- checkpoints kept, the best one, what is read when


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, data):
    """With a warning that names it; the run still ends with the bits of one that was left alone."""
    whole, broken = fresh_model(), fresh_model()
    train(whole, data, settings(iterations=6), tmp_path / "whole", {})
    folder = tmp_path / "broken"

    def stop(step: int, loss: float, lr: float) -> None:
        if step == 3:
            raise RuntimeError("a power cut")

    with pytest.raises(RuntimeError):
        train(broken, data, settings(iterations=6), folder, {}, save_every_s=-1, report=stop)
    newest = folder / "checkpoint.safetensors"
    assert load_checkpoint(newest).step == 3
    newest.write_bytes(newest.read_bytes()[:1000])
    steps, resumed = [], fresh_model()
    with pytest.warns(UserWarning, match=r"checkpoint\.safetensors is damaged.*Going on from .*checkpoint-1"):
        train(resumed, data, settings(iterations=6), folder, {}, report=lambda step, loss, lr: steps.append(step))
    assert steps == [2, 3, 4, 5]
    assert same_weights(whole, resumed)
    assert logged_steps(folder) == list(range(6))


def test_the_best_network_is_kept_and_validation_changes_nothing(tmp_path, data):
    scores, seen = iter([10.0, 30.0, 20.0]), []

    def score(model: DeepLabV3) -> float:
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    chosen = settings(iterations=6)
    model, alone = fresh_model(), fresh_model()
    train(model, data, chosen, tmp_path / "scored", {}, validation=Validation(2, score))
    train(alone, data, chosen, tmp_path / "alone", {})
    assert same_weights(model, alone)
    best = load_checkpoint(tmp_path / "scored" / "best.safetensors")
    assert (best.step, best.score, len(seen)) == (4, 30.0, 3)
    assert all(torch.equal(value, seen[1][name]) for name, value in best.model.items())


def test_a_best_network_from_before_an_interruption_is_not_replaced_by_a_worse_one(tmp_path, data):
    def interrupt(step: int, loss: float, lr: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    chosen = settings(iterations=6)
    with pytest.raises(Interrupted):
        train(fresh_model(), data, chosen, tmp_path, {}, validation=Validation(2, lambda _: 50.0), report=interrupt)
    train(fresh_model(), data, chosen, tmp_path, {}, validation=Validation(2, lambda _: 40.0))
    assert load_checkpoint(tmp_path / "best.safetensors").step == 2


def test_a_damaged_best_network_is_replaced(tmp_path, data):
    (tmp_path / "best.safetensors").write_bytes(b"half")
    train(fresh_model(), data, settings(), tmp_path, {}, validation=Validation(2, lambda _: 40.0))
    assert load_checkpoint(tmp_path / "best.safetensors").step == 2


def test_losses_that_are_read_later_are_the_same(tmp_path, data, monkeypatch):
    """On a GPU losses are read every few steps; every one is logged all the same, the last ones too."""
    train(fresh_model(), data, settings(iterations=7), tmp_path / "each", {})
    monkeypatch.setitem(trainer.READ_EVERY, "cpu", 3)
    reported = []
    train(fresh_model(), data, settings(iterations=7), tmp_path / "third", {}, report=lambda *v: reported.append(v))
    each, third = (
        [row[:3] for row in csv.reader((tmp_path / name / "log.csv").read_text().splitlines())]
        for name in ("each", "third")
    )
    assert third == each
    assert [step for step, _, _ in reported] == list(range(7))


def test_a_loss_that_is_not_finite_is_never_saved_though_it_is_read_late(tmp_path, data, monkeypatch):
    honest, calls = step_module.segmentation_loss, []

    def diverging(*arguments):
        calls.append(1)
        return honest(*arguments) * (math.nan if len(calls) == 5 else 1)

    monkeypatch.setattr(step_module, "segmentation_loss", diverging)
    monkeypatch.setitem(trainer.READ_EVERY, "cpu", 3)
    with pytest.raises(UserError, match="became nan at step 4"):
        train(fresh_model(), data, settings(iterations=9), tmp_path, {}, save_every_s=-1)
    assert load_checkpoint(tmp_path / "checkpoint.safetensors").step == 3


def test_a_full_disk_ends_in_one_sentence(tmp_path, data, monkeypatch):
    honest = Log.write

    def write(self, *values):
        honest(self, *values)
        self._file = open("/dev/full", "w")  # noqa: SIM115
        self._file.write("x")

    monkeypatch.setattr(Log, "write", write)
    with pytest.raises(UserError, match=r"log\.csv cannot be written .*No space left.*; make room"):
        train(fresh_model(), data, settings(), tmp_path, {})


def test_tensorboard_gets_what_the_log_gets(tmp_path, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(fresh_model(), data, settings(), tmp_path, {}, validation=Validation(4, lambda _: 12.5))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (int(row["step"]), pytest.approx(float(row["loss"]), abs=1e-5)) for row in rows
    ]
    assert [(e.step, e.value) for e in events.Scalars("mIoU")] == [(4, 12.5)]


def test_a_batch_that_processes_or_parts_do_not_divide_is_refused(tmp_path, data):
    with pytest.raises(UserError, match="'batch_size' is 4; 3 processes with 1 parts each do not divide it evenly"):
        train(fresh_model(), data, settings(batch_size=4), tmp_path, {}, processes=ProcessGroup(0, 3))


def test_momentum_comes_back_in_the_layout_of_the_weights(tmp_path, data, monkeypatch):
    """One kernel for all parameters, which a GPU has, walks through memory: there the order of the numbers matters."""

    def fused(model, chosen):
        return torch.optim.SGD(
            [{"params": list(part.parameters())} for part in (model.backbone, model.head)],
            lr=chosen.lr,
            momentum=chosen.momentum,
            fused=True,
        )

    def stop(step: int, loss: float, lr: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, "make_optimizer", fused)
    whole, resumed = fresh_model(), fresh_model()
    train(whole, data, settings(iterations=6), tmp_path / "whole", {})
    with pytest.raises(Interrupted):
        train(fresh_model(), data, settings(iterations=6), tmp_path / "stopped", {}, report=stop)
    train(resumed, data, settings(iterations=6), tmp_path / "stopped", {})
    assert same_weights(resumed, whole)


def test_a_resumed_run_that_is_killed_keeps_its_log(tmp_path, data):
    def kill(step: int, loss: float, lr: float) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(fresh_model(), data, settings(iterations=6), tmp_path, {}, report=kill)
    seen = []
    train(
        fresh_model(),
        data,
        settings(iterations=6),
        tmp_path,
        {},
        report=lambda *_: seen.append(logged_steps(tmp_path)),  # what a kill would leave
    )
    assert seen[0][:4] == [0, 1, 2, 3]
    assert logged_steps(tmp_path) == list(range(6))


def test_a_stop_in_the_last_step_is_a_stop(tmp_path, data):
    """Whoever asked for it does not want an evaluation to begin; what is trained is finished."""

    def stop(step: int, loss: float, lr: float) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="step 4 of 4"):
        train(fresh_model(), data, settings(), tmp_path, {}, report=stop)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert (checkpoint.step, checkpoint.momentum) == (4, {})


def test_a_dead_data_worker_ends_in_one_sentence_wherever_the_program_is(tmp_path, data):
    """PyTorch raises it in the middle of whatever the trainer does."""

    def kill(step: int, loss: float, lr: float) -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(5)

    with pytest.raises(UserError, match=r"a data worker died, .*lower 'workers'"):
        train(fresh_model(), data, settings(iterations=50), tmp_path, {}, workers=1, report=kill)


def test_a_gpu_that_is_too_small_is_told_what_to_lower(tmp_path, data, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(step_module, "segmentation_loss", full)
    with pytest.raises(UserError, match=r"raise 'training\.accumulate' \(1\), or lower 'training\.batch' \(2\)"):
        train(fresh_model(), data, settings(), tmp_path, {})


def test_validation_is_no_training_time(tmp_path, data):
    def score(_: DeepLabV3) -> float:
        time.sleep(3)
        return 10.0

    assert train(fresh_model(), data, settings(), tmp_path, {}, validation=Validation(4, score)) < 3
