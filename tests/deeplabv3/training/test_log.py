"""The log: losses and learning rates of every step, never shorter than the checkpoint."""

import csv
import math
import sys
import warnings

import pytest
from training_helpers import logged_steps, new_model, short_config, signal_at, train

from deeplabv3.errors import UserError
from deeplabv3.signals import Interrupted
from deeplabv3.training import log, trainer


def test_log_equals_the_reported_values(tmp_path, data):
    reported = []
    train(new_model(), data, short_config(), tmp_path, report=lambda *values: reported.append(values))
    with open(tmp_path / "log.csv") as file:
        rows = [(int(r["step"]), float(r["loss"]), float(r["lr"])) for r in csv.DictReader(file)]
    assert [row[0] for row in rows] == [0, 1, 2, 3]
    assert rows[0][1] == pytest.approx(math.log(3), abs=0.1)
    assert [row[2] for row in rows] == pytest.approx([0.05 * (1 - step / 4) ** 0.9 for step in range(4)], rel=1e-3)
    for row, report in zip(rows, reported, strict=True):
        assert row == pytest.approx(report, rel=1e-3)


def test_log_is_as_long_as_the_checkpoint(tmp_path, data, monkeypatch):
    """Else a run that is killed and resumed has a hole in its curve."""
    save_checkpoint = trainer.save_checkpoint

    def save(path, checkpoint, keep):
        save_checkpoint(path, checkpoint, keep)
        assert logged_steps(tmp_path) == list(range(checkpoint.step))

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    train(new_model(), data, short_config(iterations=6), tmp_path, save_every_s=0)


def test_resumed_run_keeps_its_earlier_log(tmp_path, data):
    with pytest.raises(Interrupted):
        train(new_model(), data, short_config(iterations=6), tmp_path, report=signal_at(3))
    left_by_a_kill = []
    train(
        new_model(),
        data,
        short_config(iterations=6),
        tmp_path,
        report=lambda *_: left_by_a_kill.append(logged_steps(tmp_path)),
    )
    assert left_by_a_kill[0][:4] == [0, 1, 2, 3]
    assert logged_steps(tmp_path) == list(range(6))


def test_full_disk_is_one_sentence(tmp_path, data, full_disk):
    with pytest.raises(UserError, match=r"log\.csv cannot be written .*No space left.*; make room"):
        train(new_model(), data, short_config(), tmp_path, report=lambda *_: full_disk())


def test_tensorboard_equals_the_log(tmp_path, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(new_model(), data, short_config(), tmp_path, validate_every=4, score=lambda _: 12.5)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [
        (int(row["step"]), pytest.approx(float(row["loss"]), abs=1e-5)) for row in rows
    ]
    assert [(e.step, e.value) for e in events.Scalars("mIoU")] == [(4, 12.5)]


class Broken:
    """TensorBoard's writer that fails in one of its methods."""

    fails = ""

    def __init__(self, *_, **__):
        self._do("__init__")

    def add_scalar(self, *_):
        self._do("add_scalar")

    def close(self):
        self._do("close")

    def _do(self, name: str) -> None:
        if name == self.fails:
            raise TypeError("Descriptors cannot be created directly.")


@pytest.mark.parametrize("fails", ["import", "__init__", "add_scalar", "close"])
def test_broken_tensorboard_does_not_stop_training(tmp_path, data, monkeypatch, fails):
    if fails == "import":
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    else:
        monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", type("Writer", (Broken,), {"fails": fails}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(new_model(), data, short_config(iterations=2), tmp_path)
    assert logged_steps(tmp_path) == [0, 1]
    told = [str(warning.message) for warning in caught if "TensorBoard" in str(warning.message)]
    assert len(told) == (fails != "close") and all("log.csv has all values" in text for text in told)


def test_missing_tensorboard_is_no_word(tmp_path, data, monkeypatch):
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    train(new_model(), data, short_config(iterations=2), tmp_path)
    assert logged_steps(tmp_path) == [0, 1] and not (tmp_path / "tensorboard").exists()
