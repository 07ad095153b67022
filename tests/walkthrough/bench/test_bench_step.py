"""The benchmarks of our step alone: its rows and profile, and the convolutions' times and errors."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.model.heads import resize
from deeplabv3.training import step as training
from walkthrough.bench import convolutions, step, timing
from walkthrough.bench.convolutions import ConvolutionBench
from walkthrough.bench.step import EAGER, INTERPOLATED
from walkthrough.cli import main

TINY = ["--backbone", "small_resnet20", "--crop-size", "33", "--batch-size", "2", "--rounds", "3", "--steps", "1"]


def test_step_command_measures_rows_and_profile(tmp_path, monkeypatch, capsys):
    upsample, interpolated = training.upsample, []
    monkeypatch.setattr(step, "resize", lambda *values: interpolated.append(values) or resize(*values))
    file = tmp_path / "step.json"
    assert main(["bench", "step", *TINY, "--json", str(file), "--no-compile"]) == 0
    result = json.loads(file.read_text())
    assert step.render(result) in capsys.readouterr().out
    assert result["bench"] == "step" and [row["name"] for row in result["rows"]] == [EAGER, INTERPOLATED]
    assert len(interpolated) == 4 and training.upsample is upsample
    first, second = (row["first_loss"] for row in result["rows"])
    assert first == pytest.approx(second, rel=1e-3)
    assert list(result["profiles"]) == [EAGER] and "convolution" in result["profiles"][EAGER]


def test_compile_modes_have_rows():
    images, labels = torch.zeros(1), torch.zeros(1)
    makers = step.StepBench(modes=("default", "reduce-overhead"))._makers(images, labels)
    assert list(makers) == [EAGER, INTERPOLATED, "torch.compile, default", "torch.compile, reduce-overhead"]


@pytest.mark.gpu
def test_wait_for_gpu_is_found_at_its_line():
    value = torch.ones(1, device="cuda")
    assert step.waits(lambda: value + value) == {}
    assert [place.split(":")[0] for place in step.waits(lambda: value.item())] == [Path(__file__).name]


def test_convolutions_are_counted_and_measured(tmp_path, capsys):
    file = tmp_path / "convolutions.json"
    assert main(["bench", "convolutions", *TINY, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert convolutions.render(result) in capsys.readouterr().out
    bench = ConvolutionBench(backbone="small_resnet20", crop_size=33, batch_size=2)
    layers = [layer for layer in DeepLabV3(bench.config).modules() if isinstance(layer, torch.nn.Conv2d)]
    assert sum(row["count"] for row in result["rows"]) == len(layers)
    assert {tuple(row["weight"]) for row in result["rows"]} == {tuple(layer.weight.shape) for layer in layers}
    for row in result["rows"]:
        assert row["seconds"].keys() == row["errors"].keys() == set(convolutions.PASSES)
        assert all(1e-5 < error < 5e-3 for error in row["errors"].values())


def test_wrong_convolution_is_a_fault(monkeypatch):
    exact = F.conv2d

    def faulty(image, *values):
        return exact(image, *values) * (1.03 if image.dtype is torch.bfloat16 else 1)

    monkeypatch.setattr(F, "conv2d", faulty)
    bench = ConvolutionBench(backbone="small_resnet20", crop_size=33, batch_size=2, rounds=3, steps=1)
    row = bench._row((2, 8, 9, 9), (8, 8, 3, 3), (1, 1), (2, 2), (2, 2), 1)
    assert row["errors"]["forward"] == pytest.approx(0.03, rel=0.2)
    assert max(row["errors"]["input gradient"], row["errors"]["weight gradient"]) < 5e-3
    summary = convolutions.summary({"rows": [{"count": 3, **row}, {"count": 1, **row}]})
    assert "2 above 0.01" in summary
    assert f"forward {4000 * row['seconds']['forward']:.1f} ms" in summary


def test_machine_has_state_of_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(timing, "gpu_environment", lambda: {"cudnn": 91900})
    assert timing.describe_machine("cuda", ())["cudnn"] == 91900
    assert "cudnn" not in timing.describe_machine("cpu", ())
