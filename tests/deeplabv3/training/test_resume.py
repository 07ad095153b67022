"""Runs that are stopped or killed resume as if nothing had happened; checkpoints that do not fit are refused."""

import random
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import kill_worker
import pytest
import torch
from training_helpers import logged_losses, logged_steps, new_model, same_weights, short_config, signal_at, train

from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint
from deeplabv3.signals import Interrupted
from deeplabv3.training import trainer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_resume_after_signal_is_bit_exact(tmp_path, voc_root, number):
    uninterrupted = kill_worker.run(voc_root, tmp_path / "whole")
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="stopped after step 12 of 40; the same command goes on"):
        kill_worker.run(voc_root, tmp_path / "stopped", report=signal_at(11, number))
    assert signal.getsignal(number) == before
    assert load_checkpoint(tmp_path / "stopped" / "checkpoint.safetensors").step == 12
    with open(tmp_path / "stopped" / "log.csv", "a") as log:
        log.write(
            "12,9.9,0.1\n13,9.9,0.1\n14,9."
        )  # steps after the checkpoint, the last line torn: they are done again
    steps = []
    resumed = kill_worker.run(voc_root, tmp_path / "stopped", report=lambda step, loss, lr: steps.append(step))
    assert steps == list(range(12, 40))
    assert same_weights(resumed, uninterrupted)
    assert logged_steps(tmp_path / "stopped") == list(range(40))
    assert logged_losses(tmp_path / "stopped") == logged_losses(tmp_path / "whole")


def test_resume_after_sigkill_is_bit_exact(tmp_path, voc_root):
    """At a random moment: the checkpoint is whole."""
    folder = tmp_path / "killed"
    checkpoint = folder / "checkpoint.safetensors"
    with subprocess.Popen([sys.executable, kill_worker.__file__, str(voc_root), str(folder)]) as process:
        try:
            deadline = time.monotonic() + 300
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


def test_stop_in_last_step_saves_and_stops(tmp_path, data):
    """No evaluation begins after it; the network is finished."""
    with pytest.raises(Interrupted, match="step 4 of 4"):
        train(new_model(), data, short_config(), tmp_path, report=signal_at(3))
    checkpoint = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert (checkpoint.step, checkpoint.momentum) == (4, {})


def test_finished_run_is_not_trained_again(tmp_path, data, monkeypatch):
    """It took the seconds that its checkpoint says."""
    first = new_model()
    train(first, data, short_config(), tmp_path, {"a": 1})
    checkpoint = load_checkpoint(tmp_path / "checkpoint.safetensors")

    def never(*_):
        raise AssertionError("trained again")

    again = new_model()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: 1000.0))
    seconds = train(again, data, short_config(), tmp_path, {"a": 1}, report=never)
    assert seconds == pytest.approx(checkpoint.seconds) and seconds > 0
    assert same_weights(again, first)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert (checkpoint.step, checkpoint.momentum) == (4, {})


def test_checkpoint_of_another_run_is_refused(tmp_path, data):
    train(new_model(), data, short_config(), tmp_path, {"seed": 1})
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"checkpoint\.safetensors belongs to a run with other settings"):
        train(new_model(), data, short_config(), tmp_path, {"seed": 2})
    assert path.read_bytes() == before


def test_damaged_only_checkpoint_is_refused(tmp_path, data):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors is damaged"):
        train(new_model(), data, short_config(), tmp_path)
    assert path.read_bytes() == b"\0" * 100


def test_damaged_checkpoint_gives_way_to_earlier(tmp_path, data):
    """With a warning that names it; the run still ends with the bits of an undisturbed one."""
    undisturbed, interrupted, resumed = new_model(), new_model(), new_model()
    config, folder = short_config(iterations=6), tmp_path / "damaged"
    train(undisturbed, data, config, tmp_path / "undisturbed")

    def fail(step: int, loss: float, lr: float) -> None:
        if step == 3:
            raise RuntimeError("a power cut")

    with pytest.raises(RuntimeError):
        train(interrupted, data, config, folder, save_every_s=0, report=fail)
    newest = folder / "checkpoint.safetensors"
    assert load_checkpoint(newest).step == 3
    newest.write_bytes(newest.read_bytes()[:1000])
    steps = []
    with pytest.warns(UserWarning, match=r"checkpoint\.safetensors is damaged.*Going on from .*checkpoint-1"):
        train(resumed, data, config, folder, report=lambda step, loss, lr: steps.append(step))
    assert steps == [2, 3, 4, 5]
    assert same_weights(undisturbed, resumed)
    assert logged_steps(folder) == list(range(6))


def test_momentum_resumes_in_channels_last(tmp_path, data, monkeypatch):
    """The fused kernel of a GPU walks through memory: there the order of the values matters."""

    def fused(model, config):
        return torch.optim.SGD(
            [{"params": list(part.parameters())} for part in (model.backbone, model.head)],
            lr=config.lr,
            momentum=config.momentum,
            fused=True,
        )

    monkeypatch.setattr(trainer, "make_optimizer", fused)
    uninterrupted, resumed = new_model(), new_model()
    train(uninterrupted, data, short_config(iterations=6), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(new_model(), data, short_config(iterations=6), tmp_path / "stopped", report=signal_at(2))
    train(resumed, data, short_config(iterations=6), tmp_path / "stopped")
    assert same_weights(resumed, uninterrupted)
