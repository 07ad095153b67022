"""The benchmark of a training step: equal work, options that are on, memory of each variant, and the record."""

import json
from itertools import pairwise

import pytest
import torch
from conftest import small_config
from torch import nn
from torch.nn import functional as F
from torchvision.models import segmentation

from deeplabv3.config import VOID, TrainingConfig
from deeplabv3.data.transforms import normalize
from deeplabv3.errors import UserError
from deeplabv3.model.weights import from_torchvision
from deeplabv3.training.step import ModelWithLoss
from walkthrough.bench import train as bench
from walkthrough.bench.timing import Variant
from walkthrough.bench.train import (
    BARE,
    CHANNELS_LAST,
    OURS,
    TORCHVISION,
    TrainBench,
    reference_loss,
    render,
    summary,
    torchvision_network,
)
from walkthrough.cli import main
from walkthrough.commands import bench as command


class SmallTorchvision(nn.Module):
    """A network with the parts and outputs of torchvision's DeepLabV3."""

    def __init__(self, auxiliary: bool):
        super().__init__()
        self.backbone = nn.Conv2d(3, 8, 3, padding=1)
        self.classifier, self.aux_classifier = nn.Conv2d(8, 21, 1), nn.Conv2d(8, 21, 1) if auxiliary else None

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.backbone(images)
        heads = {"out": self.classifier, "aux": self.aux_classifier}
        return {name: head(features) for name, head in heads.items() if head is not None}


@pytest.fixture
def small_networks(monkeypatch):
    """Networks that take milliseconds in place of the ResNets."""
    monkeypatch.setattr(
        bench, "torchvision_network", lambda backbone, output_stride, auxiliary=True: SmallTorchvision(auxiliary)
    )
    monkeypatch.setattr(TrainBench, "config", small_config(num_classes=21, atrous_rates=(6, 12, 18)))


TINY = {"backbone": "resnet50", "crop_size": 33, "batch_size": 2, "rounds": 3, "steps": 1}


@pytest.mark.parametrize("output_stride", [8, 16])
def test_equal_weights_give_equal_loss(output_stride):
    """Our loss, as the trainer computes it from uint8 images, and the script's without the auxiliary head."""
    reference = torchvision_network("resnet50", output_stride).eval()
    nn.init.normal_(reference.classifier[4].bias)
    ours = from_torchvision(reference.state_dict()).set_output_stride(output_stride)
    images, labels = TrainBench(**TINY | {"crop_size": 65}).random_batch()
    with torch.no_grad():
        expected = F.cross_entropy(reference(normalize(images))["out"], labels.long(), ignore_index=VOID)
        found = ModelWithLoss(ours, TrainingConfig(batch_size=2, crop_size=65))(images, labels)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_network_equals_torchvisions_builder():
    built = segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=True).eval()
    parts = torchvision_network("resnet50", 8).eval()
    parts.load_state_dict(built.state_dict())
    images = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        expected, found = built(images), parts(images)
    assert list(found) == list(expected) == ["out", "aux"]
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_reference_loss_has_half_auxiliary_loss():
    logits = {"out": torch.zeros(1, 4, 2, 2), "aux": torch.zeros(1, 4, 2, 2)}
    logits["aux"][:, 0] = 2.0
    labels = torch.tensor([[[0, 0], [0, VOID]]])
    aux = torch.log(torch.exp(torch.tensor(2.0)) + 3) - 2
    assert reference_loss(logits, labels).item() == pytest.approx(torch.log(torch.tensor(4.0)) + 0.5 * aux)
    assert reference_loss({"out": logits["out"]}, labels).item() == pytest.approx(torch.log(torch.tensor(4.0)))


@pytest.mark.parametrize("name", OURS)
def test_row_has_its_options_on(monkeypatch, name):
    seen = {}

    def training_step(model_with_loss, optimizer, settings, seed, step, images, labels):
        seen.update(
            model_with_loss=model_with_loss, optimizer=optimizer, settings=settings, images=images, labels=labels
        )
        return torch.zeros(())

    monkeypatch.setattr(bench, "training_step", training_step)
    tiny, switches = TrainBench(**TINY), OURS[name]
    images, labels = tiny.random_batch()
    tiny.our_step(images, labels, switches)()
    assert torch.equal(seen["images"], images) and torch.equal(seen["labels"], labels)
    assert hasattr(seen["model_with_loss"], "_orig_mod") is bool(switches.compile_mode)
    model_with_loss = getattr(seen["model_with_loss"], "_orig_mod", seen["model_with_loss"])
    weight = model_with_loss.model.backbone.block1[0].conv2.weight
    normalized = normalize(seen["images"])
    for tensor in (weight, normalized):
        assert tensor.is_contiguous(memory_format=torch.channels_last) is switches.channels_last
        assert tensor.is_contiguous() is not switches.channels_last
    assert seen["settings"].precision == switches.precision
    assert {group["fused"] for group in seen["optimizer"].param_groups} == {switches.fused or None}
    # None leaves the choice to PyTorch, which takes "foreach" on a GPU; False would be its loop over parameters.
    assert {group["foreach"] for group in seen["optimizer"].param_groups} == {None}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_row_has_its_variant(monkeypatch, small_networks, name):
    seen = {}

    def reference_loss(outputs, labels):
        seen.update(outputs)
        return outputs["out"].sum()

    monkeypatch.setattr(bench, "reference_loss", reference_loss)
    script = TORCHVISION[name]
    TrainBench(**TINY).torchvision_step(*TrainBench(**TINY).random_batch(), script)()
    assert ("aux" in seen) is script.auxiliary
    assert seen["out"].dtype is (torch.bfloat16 if script.precision == "bfloat16" else torch.float32)
    assert seen["out"].is_contiguous(memory_format=torch.channels_last) is script.channels_last


def test_row_adds_one_option():
    rows = [vars(switches) for switches in OURS.values()]
    for row, following in pairwise(rows):
        assert sum(row[name] != following[name] for name in row) == 1


def test_command_writes_measurements(small_networks, tmp_path, capsys):
    file = tmp_path / "bench.json"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    assert main(["bench", "train", *options, "--no-compile", "--json", str(file)]) == 0
    printed, result = capsys.readouterr().out, json.loads(file.read_text())
    assert render(result) in printed and "goal on two cores" in printed
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == [*TORCHVISION, *list(OURS)[:-1]]
    reference = sorted(result["rows"][0]["seconds"])[1]
    for row in rows.values():
        median = sorted(row["seconds"])[1]
        assert row["seconds_per_step"] == pytest.approx(median)
        assert row["images_per_second"] == pytest.approx(2 / median)
        assert row["speed"] == pytest.approx(reference / median)
        assert row["peak_memory"] is None
    assert all(
        rows[name]["first_loss"] == pytest.approx(rows["ours"]["first_loss"], rel=1e-2) for name in OURS if name in rows
    )
    assert result["multiply_adds"].keys() == {"torchvision", "ours"}


def test_torchvision_network_costs_more():
    costs = TrainBench(**TINY)._multiply_adds()
    assert costs["torchvision"] > costs["ours"] > 0


def test_hours_follow_from_step_time():
    row = {"seconds_per_step": 0.03, "images_per_second": 533.3, "speed": 1.5, "first_loss": 3.0, "first": 60.0}
    result = {
        "settings": vars(TrainBench()),
        "machine": {},
        "multiply_adds": {"torchvision": 1, "ours": 1},
        "rows": [row | {"name": "+ torch.compile", "peak_memory": 3 * 2**30}],
    }
    (line,) = [line for line in render(result).splitlines() if line.startswith("+ torch.compile")]
    assert line.split()[2:8] == ["30.0", "533.30", "1.50x", "0.25", "3.00", "3.0000"]


def test_summary_compares_fastest_row_with_channels_last():
    seconds = {CHANNELS_LAST: 0.045, BARE: 0.036, "ours": 0.09, "+ fused optimizer": 0.03, "+ torch.compile": 0.04}
    rows = [{"name": name, "seconds_per_step": value} for name, value in seconds.items()]
    assert summary({"rows": rows}) == (
        f"ours at its fastest ('+ fused optimizer'): 30.0 ms a step, 1.50x '{CHANNELS_LAST}', 1.20x '{BARE}'"
    )


def test_peak_memory_excludes_other_variants(monkeypatch):
    """1000 bytes of others; 100 for weights, 50 that stay after the first step, 30 that come and go."""
    memory = {"now": 1000, "peak": 1000}

    def take(size):
        memory["now"] += size
        memory["peak"] = max(memory["peak"], memory["now"])

    def make():
        take(100)
        steps = iter([50, 0, 0])

        def step():
            take(next(steps))
            take(30)
            take(-30)
            return torch.zeros(())

        return step

    for name, call in {
        "memory_allocated": lambda: memory["now"],
        "max_memory_allocated": lambda: memory["peak"],
        "reset_peak_memory_stats": lambda: memory.update(peak=memory["now"]),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, call)
    variant = Variant(make, 1, "cuda")
    take(500)  # the next variant is built
    variant()
    take(200)
    variant()
    variant()
    assert variant.peak_memory == 180


def test_gpu_out_of_memory_is_named(small_networks, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench, "time_interleaved", full)
    before = torch.backends.cudnn.benchmark
    with pytest.raises(UserError, match="lower --batch-size or --crop-size"):
        TrainBench(**TINY, compiled=False).run()
    assert torch.backends.cudnn.benchmark == before


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"backbone": "mobilenet_v2"}, "backbone"),
        ({"output_stride": 64}, "output_stride"),
        ({"crop_size": 32}, "crop_size"),
        ({"batch_size": 1}, "batch_size"),
        ({"rounds": 2}, "rounds"),
        ({"steps": 0}, "steps"),
        ({"threads": -1}, "threads"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_wrong_setting_is_named(changes, word):
    with pytest.raises(UserError, match=word):
        TrainBench(**changes)


@pytest.mark.parametrize(("place", "words"), [("none/bench.json", "make it first"), ("", "cannot be written")])
def test_unwritable_file_is_named_before_measuring(tmp_path, capsys, place, words):
    assert main(["bench", "train", "--json", str(tmp_path / place)]) == 1
    assert words in capsys.readouterr().err
    assert main(["bench", "all", "--json-folder", str(tmp_path / "none")]) == 1
    assert "make it first" in capsys.readouterr().err


def test_bench_all_continues_after_failure(monkeypatch, tmp_path, capsys):
    measured = {}

    def measure(make, render, file):
        found = make()
        measured[file.name] = found
        if file.name.startswith("evaluate"):
            raise UserError("no images.")

    monkeypatch.setattr(command, "_measure", measure)
    options = ["--crop-size", "65", "--batch-size", "4", "--images", "3", "--json-folder", str(tmp_path)]
    assert main(["bench", "all", *options]) == 1
    assert capsys.readouterr().err == "bench evaluate: no images.\n\n"
    assert list(measured) == [f"{name}-cpu.json" for name in ("model", "train", "evaluate", "pipeline")]
    model, train, evaluate, pipeline = measured.values()
    assert (model.size, train.crop_size, pipeline.crop_size) == (65, 65, 65)
    assert {bench.batch_size for bench in measured.values()} == {4}
    assert evaluate.images == 3
