"""The trainer: its arithmetic written out by hand, losses that are read late, validation, and errors."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import kill_worker
import pytest
import torch
from torch.nn import functional as F
from training_helpers import logged_losses, new_model, same_weights, short_config, signal_at, train

from deeplabv3.data.loader import TrainingSamples, batches
from deeplabv3.data.transforms import normalize
from deeplabv3.distributed import ProcessGroup
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.signals import Interrupted
from deeplabv3.training import step as step_module
from deeplabv3.training import trainer
from deeplabv3.training.step import segmentation_loss
from walkthrough.commands.errors import explain


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
def test_training_equals_sgd_by_hand(tmp_path, data, changes):
    config = short_config(**changes)
    trained = new_model()
    train(trained, data, config, tmp_path / "run", seed=2)

    model = new_model().set_batch_norm_momentum(0.1).train()
    if config.freeze_batch_norm:
        model.freeze_batch_norm()
    samples = TrainingSamples(data, config, 2)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    velocity = {name: torch.zeros_like(p) for name, p in parameters.items()}
    warmup = {1: [0, 0.5, 1, 1], 0: [1, 1, 1, 1]}[config.backbone_freeze_steps]
    for step in range(4):
        pairs = [samples[2 * step], samples[2 * step + 1]]
        images = normalize(torch.stack([torch.from_numpy(image.copy()) for image, _ in pairs]))
        labels = torch.stack([torch.from_numpy(label.copy()).long() for _, label in pairs])
        loss = F.cross_entropy(model(images), labels, ignore_index=255)
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        backbone = [gradients[name] for name in parameters if name.startswith("backbone.")]
        norm = sum(gradient.square().sum() for gradient in backbone) ** 0.5
        head_lr = 0.05 * (1 - step / 4) ** config.power
        with torch.no_grad():
            for name, p in parameters.items():
                gradient, lr = gradients[name], head_lr
                if name.startswith("backbone."):
                    lr = head_lr * config.backbone_lr_factor * warmup[step]
                    if config.backbone_clip_norm is not None:
                        assert norm > config.backbone_clip_norm
                        gradient = gradient * config.backbone_clip_norm / norm
                velocity[name] = config.momentum * velocity[name] + gradient + config.weight_decay * p
                p -= lr * velocity[name]

    state = model.state_dict()
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")
    assert not torch.equal(state["head.classifier.weight"], new_model().head.classifier.weight)


def test_training_lowers_the_loss(tmp_path, data):
    losses = []
    config = short_config(iterations=60, lr=0.1)
    train(new_model(), data, config, tmp_path, report=lambda step, loss, lr: losses.append(loss))
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


@pytest.mark.parametrize("changes", [{}, {"mean": (0.5, 0.25, 0.75), "std": (0.5, 0.4, 0.25)}], ids=["default", "own"])
def test_network_sees_the_normalized_samples(tmp_path, data, monkeypatch, changes):
    seen = []

    def spy(model, normalized, labels, *others):
        seen.append((normalized.clone(), labels.clone()))
        return segmentation_loss(model, normalized, labels, *others)

    monkeypatch.setattr(step_module, "segmentation_loss", spy)
    model = new_model(**changes)
    config = short_config(scales=(0.25,))
    train(model, data, config, tmp_path, seed=9)
    samples = TrainingSamples(data, config, 9, model.config.mean_pixel)
    expected = list(batches(samples, 0, 4))
    corner = torch.tensor(model.config.mean_pixel, dtype=torch.uint8)
    assert all((images[:, -1, -1] == corner).all() or (images[:, -1, 0] == corner).all() for images, _ in expected)
    assert len(seen) == 4
    for (normalized, labels), (images, expected_labels) in zip(seen, expected, strict=True):
        assert torch.equal(normalized, normalize(images, model.config.mean, model.config.std))
        assert torch.equal(labels, expected_labels)


def test_data_workers_change_no_bit(tmp_path, data):
    model, other = new_model(), new_model()
    train(model, data, short_config(), tmp_path / "0")
    train(other, data, short_config(), tmp_path / "1", num_workers=1)
    assert same_weights(model, other)


# --- losses that are read late, as on a GPU


def test_losses_read_late_are_the_same(tmp_path, data, monkeypatch):
    """Every loss is logged, the last ones too."""
    train(new_model(), data, short_config(iterations=7), tmp_path / "each")
    monkeypatch.setitem(trainer.READ_EVERY, "cpu", 3)
    reported = []
    train(new_model(), data, short_config(iterations=7), tmp_path / "third", report=lambda *v: reported.append(v))
    assert logged_losses(tmp_path / "third") == logged_losses(tmp_path / "each")
    assert [step for step, _, _ in reported] == list(range(7))


@pytest.mark.parametrize(("read_every", "bad_step"), [(1, 3), (3, 4)])
def test_nonfinite_loss_stops_before_a_checkpoint(tmp_path, data, monkeypatch, read_every, bad_step):
    calls = []

    def diverging(*arguments):
        calls.append(1)
        return segmentation_loss(*arguments) * (math.nan if len(calls) == bad_step + 1 else 1)

    monkeypatch.setattr(step_module, "segmentation_loss", diverging)
    monkeypatch.setitem(trainer.READ_EVERY, "cpu", read_every)
    with pytest.raises(UserError, match=rf"became nan at step {bad_step}; lower 'lr' \(0\.05\)"):
        train(new_model(), data, short_config(iterations=9), tmp_path, save_every_s=0)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert checkpoint.step == 3
    assert all(value.isfinite().all() for value in checkpoint.model.values())


# --- validation


def test_validation_keeps_the_best_network(tmp_path, data):
    """It changes nothing else."""
    scores, seen = iter([10.0, 30.0, 20.0]), []

    def score(model: DeepLabV3) -> float:
        assert not model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    config = short_config(iterations=6)
    model, unvalidated = new_model(), new_model()
    train(model, data, config, tmp_path / "validated", validate_every=2, score=score)
    train(unvalidated, data, config, tmp_path / "unvalidated")
    assert same_weights(model, unvalidated)
    best = load_checkpoint(tmp_path / "validated" / "best.safetensors")
    assert (best.step, best.score, len(seen)) == (4, 30.0, 3)
    assert all(torch.equal(value, seen[1][name]) for name, value in best.model.items())


def test_resumed_run_keeps_a_better_network(tmp_path, data):
    config = short_config(iterations=6)
    with pytest.raises(Interrupted):
        train(new_model(), data, config, tmp_path, validate_every=2, score=lambda _: 50.0, report=signal_at(2))
    train(new_model(), data, config, tmp_path, validate_every=2, score=lambda _: 40.0)
    assert load_checkpoint(tmp_path / "best.safetensors").step == 2


def test_damaged_best_network_is_replaced(tmp_path, data):
    (tmp_path / "best.safetensors").write_bytes(b"half")
    train(new_model(), data, short_config(), tmp_path, validate_every=2, score=lambda _: 40.0)
    assert load_checkpoint(tmp_path / "best.safetensors").step == 2


def test_validation_is_not_training_time(tmp_path, data, monkeypatch):
    later = [0.0]
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + later[0]))

    def score(_: DeepLabV3) -> float:
        later[0] += 100_000
        return 10.0

    assert 0 < train(new_model(), data, short_config(), tmp_path, validate_every=4, score=score) < 100_000


# --- errors


def test_batch_size_one_is_refused(tmp_path, data):
    with pytest.raises(UserError, match=r"raise 'batch_size'"):
        train(new_model(), data, short_config(batch_size=1), tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_indivisible_batch_is_refused(tmp_path, data):
    with pytest.raises(UserError, match="'batch_size' is 4; 3 processes with 1 parts each do not divide it evenly"):
        train(new_model(), data, short_config(batch_size=4), tmp_path, processes=ProcessGroup(0, 3))


def test_compiled_step_is_one_graph(tmp_path, data, monkeypatch):
    """Also with parts of a batch, and after a validation at another output stride."""
    graphs, compile_ = [], torch.compile

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda module, **options: compile_(module, backend=backend, **options))
    config = short_config(batch_size=4, grad_accum_steps=2)

    def score(model: DeepLabV3) -> float:
        model.set_output_stride(8).set_output_stride(16)
        return 0.0

    plain, compiled = new_model(head="v2"), new_model(head="v2")
    train(plain, data, config, tmp_path / "plain")
    train(compiled, data, config, tmp_path / "compiled", compile=True, validate_every=2, score=score)
    assert len(graphs) == 1
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=lambda text, n=name: f"{n}: {text}")


def test_checkpoint_is_written_beside_the_loop(tmp_path, data, monkeypatch):
    """The writer gets the network of its step, and the next step does not wait for it."""
    second_step, written = threading.Event(), []
    model, at_step = new_model(), []

    def slow(path, checkpoint, keep):
        went_on = second_step.wait(60)
        written.append((checkpoint.step, went_on, checkpoint.model["head.classifier.weight"].clone()))

    def report(step: int, loss: float, lr: float) -> None:
        at_step.append(model.head.classifier.weight.detach().clone())
        if step == 1:
            second_step.set()

    monkeypatch.setattr(trainer, "save_checkpoint", slow)
    train(model, data, short_config(), tmp_path, save_every_s=0, report=report)
    assert [(step, went_on) for step, went_on, _ in written] == [(1, True), (2, True), (3, True), (4, True)]
    for (_, _, weight), expected in zip(written, at_step, strict=True):
        assert torch.equal(weight, expected)


def test_unwritten_checkpoint_ends_the_run(tmp_path, data, monkeypatch):
    """With the sentence of the writer, though that is another thread, and soon."""
    steps = []

    def full(*_):
        raise UserError("no space left")

    monkeypatch.setattr(trainer, "save_checkpoint", full)
    with pytest.raises(UserError, match="no space left"):
        train(new_model(), data, short_config(), tmp_path, save_every_s=0, report=lambda step, *_: steps.append(step))
    assert steps == [0, 1]


def test_data_workers_start_before_anything_else(tmp_path, data, monkeypatch):
    """CUDA's and TensorBoard's threads could hold locks that a forked process waits for."""
    children, others = [], {*multiprocessing.active_children()}
    setup = trainer.Trainer.setup

    def spy(self):
        children.append(len({*multiprocessing.active_children()} - others))
        assert not hasattr(self, "log")
        setup(self)

    monkeypatch.setattr(trainer.Trainer, "setup", spy)
    train(new_model(), data, short_config(), tmp_path, num_workers=2)
    assert children == [2]


@pytest.mark.parametrize("deterministic", [False, True])
def test_switches_of_the_device_hold_while_training(tmp_path, data, deterministic):
    def switches(*_) -> tuple[bool, bool, bool]:
        cudnn = torch.backends.cudnn
        return cudnn.benchmark, cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled()

    seen, before = set(), switches()
    config = short_config(precision="tf32")
    train(new_model(), data, config, tmp_path, deterministic=deterministic, report=lambda *_: seen.add(switches()))
    assert seen == {(not deterministic, True, deterministic)}
    assert switches() == before


def test_gpu_out_of_memory_is_explained(tmp_path, data, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(step_module, "segmentation_loss", full)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        train(new_model(), data, short_config(), tmp_path)
    sentence = explain(caught.value)
    assert "raise 'training.grad_accum_steps', or lower 'training.batch_size' or 'training.crop_size'" in sentence


def test_dead_data_worker_is_explained(tmp_path, data):
    """PyTorch raises the error in the middle of whatever the trainer does."""

    def kill(step: int, loss: float, lr: float) -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(5)

    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        train(new_model(), data, short_config(iterations=50), tmp_path, num_workers=1, report=kill)
    sentence = explain(caught.value)
    assert sentence.startswith("a data worker died, often for want of memory")
    assert "--shm-size=2g" in sentence and "lower 'runtime.num_workers'" in sentence


def test_failure_does_not_wait_for_data_workers(tmp_path, voc_root):
    """The traceback keeps the workers alive until Python ends, and Python must be able to end them."""
    command = [sys.executable, kill_worker.__file__, str(voc_root), str(tmp_path / "run"), "breaking"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: out of memory")
