"""The benchmark of the network: interleaved timings, equal logits, and the record."""

import json

import pytest
import torch

from deeplabv3.config import ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.model.cost import multiply_adds
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough.bench import timing
from walkthrough.bench.model import REST, SMP, ModelBench, render, time_by_part
from walkthrough.cli import main


@pytest.fixture
def by_hand(monkeypatch):
    """A clock that moves only when a variant says so."""
    now = [0.0]
    monkeypatch.setattr(timing, "clock", lambda device: now[0])

    def work(seconds):
        now[0] += seconds

    return work


def test_timings_are_interleaved_without_first_call(by_hand):
    calls = []
    slow_start = iter([100.0, 4.0, 2.0, 3.0])

    def reference():
        calls.append("reference")
        by_hand(2.0)

    def ours():
        calls.append("ours")
        by_hand(next(slow_start))

    rows = timing.time_interleaved("test", {"reference": reference, "ours": ours}, rounds=3, device="cpu")
    assert calls == ["reference", "ours"] * 4
    assert rows[1].first == 100.0
    assert rows[1].seconds == [4.0, 2.0, 3.0]
    assert rows[1].as_json(rows[0])["ratio"] == 1.5  # median 3 beside 2


def test_number_of_threads_is_restored():
    before = torch.get_num_threads()
    with timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_parts_sum_to_all_multiply_adds():
    config = ModelConfig(5, "small_resnet20", head_channels=16)
    parts = time_by_part(DeepLabV3(config), torch.randn(2, 3, 65, 65), rounds=1)
    assert sum(part["multiply_adds"] for part in parts) == 2 * multiply_adds(config, 65, 65)
    names = [part["part"] for part in parts]
    assert len(set(names)) == len(names)
    assert {"backbone.block4", "head.branches.3", "head.image_pooling", REST} <= set(names)
    costs = {part["part"]: part["multiply_adds"] for part in parts}
    assert costs[REST] == 0
    assert all(costs[name] > 0 for name in names if name != REST)


def test_command_compares_equal_networks(make_model, monkeypatch, tmp_path, capsys):
    """Logits equal torchvision's and the JSON file is what is printed; the training rows have small networks."""
    training = ModelBench._training

    def train_small(bench, reference, ours):
        assert reference is not ours
        return training(bench, make_model(num_classes=21), make_model(num_classes=21))

    monkeypatch.setattr(ModelBench, "_training", train_small)
    file = tmp_path / "bench.json"
    assert main(["bench", "model", "--size", "33", "--rounds", "3", "--no-compile", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    result = json.loads(file.read_text())
    assert render(result) in printed
    for key in ("forward", "training"):
        names = [row["name"] for row in result[key]]
        assert names[0] == "torchvision" and {"ours", "ours, channels last"} <= set(names)
        assert result[key][0]["ratio"] == 1
        assert all(len(row["seconds"]) == 3 and min(row["seconds"]) > 0 for row in result[key])
    for row in result["forward"]:
        assert (row["difference"] is None) == (row["name"] == SMP)
        if row["difference"] is not None:
            assert row["difference"] < 1e-4
    assert result["machine"]["threads"] == torch.get_num_threads()
    assert (SMP in printed) or ("pip install" in printed)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"backbone": "vgg16"}, "backbone"),
        ({"size": 16}, "size"),
        ({"batch_size": 0}, "batch_size"),
        ({"rounds": 1}, "rounds"),
        ({"threads": -1}, "threads"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_wrong_setting_is_named(changes, word):
    with pytest.raises(UserError, match=word):
        ModelBench(**changes)


def test_missing_folder_is_named_before_measuring(tmp_path, capsys):
    assert main(["bench", "model", "--json", str(tmp_path / "none" / "bench.json")]) == 1
    assert "make it first" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_named(capsys):
    assert main(["bench", "model", "--device", "cuda"]) == 1
    assert "choose --device cpu" in capsys.readouterr().err
