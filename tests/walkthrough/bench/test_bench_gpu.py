"""The steps for a GPU: their commands, what is done, stopped and left, and the report."""

import argparse
import json
import os
import re
import shlex
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
import torch
from conftest import wait_for_end

from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from walkthrough.bench import gpu
from walkthrough.bench.gpu import PLAN, STEPS, GPUBench, make_evaluation, report, run_step, state_of
from walkthrough.cli import main
from walkthrough.profiles import load_profile


@pytest.fixture
def plan(monkeypatch):
    """Steps in place of the real ones."""

    def use(**commands: str) -> None:
        steps = {name: {"minutes": 1, "limit": 2, "commands": [command]} for name, command in commands.items()}
        monkeypatch.setattr(gpu, "STEPS", steps)

    return use


@pytest.fixture
def end():
    return time.monotonic() + 60


@pytest.mark.parametrize("size", ["sizes", "toy"])
def test_every_command_is_understood(monkeypatch, workspace, size):
    bench = GPUBench(toy=True, backbone_weights="the weights.safetensors")
    monkeypatch.setitem(PLAN, "toy", PLAN[size])
    parse, seen = argparse.ArgumentParser.parse_args, []

    def only_parse(parser, arguments=None, namespace=None):
        options = parse(parser, arguments, namespace)
        seen.append(options)
        options.command = lambda options: 0
        return options

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    values = bench._values()
    words = [shlex.split(command.format_map(values)) for each in STEPS.values() for command in each["commands"]]
    commands = [command[command.index("walkthrough") + 1 :] for command in words if "walkthrough" in command]
    assert len(commands) > 15
    for command in commands:
        assert main(command) == 0
    profiles = {options.profile for options in seen if hasattr(options, "profile")}
    assert profiles == {PLAN[size]["profile"]} and load_profile(profiles.pop())
    weights = {options.backbone_weights for options in seen if getattr(options, "backbone_weights", None)}
    assert weights == {str(Path("the weights.safetensors").resolve())}


def test_finished_step_is_skipped_and_failed_one_repeated(plan, workspace, capsys):
    plan(good="echo once >> ../count", bad="echo again >> ../count; echo no room; exit 3")
    for _ in range(2):
        assert main(["bench", "gpu", "--toy"]) == 1
    folder = workspace / "gpu-toy"
    assert (folder / "count").read_text().split() == ["once", "again", "again"]
    assert (state_of(folder / "good"), state_of(folder / "bad")) == ("done", "failed")
    text = (folder / "report.md").read_text()
    assert text in capsys.readouterr().out
    assert re.search(r"^\| bad \| failed \| \d+\.\d+ \| no room \|  \|$", text, re.MULTILINE)
    assert "- bad: the same command tries it again" in text and "- good" not in text


def test_commands_stop_at_first_failure(tmp_path, end):
    assert run_step(tmp_path / "step", ["echo $DEEPLABV3_WORKSPACE > a", "exit 1", "touch b"], end) == "failed"
    assert (tmp_path / "step" / "a").read_text().strip() == str(tmp_path / "step")
    assert not (tmp_path / "step" / "b").exists()


def test_step_that_does_not_fit_is_left(plan, workspace):
    plan(short="true", long="true")
    gpu.STEPS["long"]["minutes"] = 5
    assert GPUBench(minutes=3, toy=True).run() == {"short": "done", "long": "left"}
    assert "- long: takes about 5 minutes" in (workspace / "gpu-toy" / "report.md").read_text()
    assert GPUBench(minutes=6, toy=True).run()["long"] == "done"


def test_steps_can_be_chosen(plan, workspace, capsys):
    plan(first="true", second="true", third="true")
    assert main(["bench", "gpu", "--toy", "--steps", "third", "first"]) == 0
    folder = workspace / "gpu-toy"
    assert [state_of(folder / name) for name in gpu.STEPS] == ["done", "left", "done"]
    assert "- second: not among the steps that were asked for" in (folder / "report.md").read_text()
    assert main(["bench", "gpu", "--toy", "--steps", "fourth"]) == 1
    assert "fourth" in capsys.readouterr().err


def test_interrupted_step_saves_and_leaves_no_process(tmp_path, monkeypatch, end):
    wait = subprocess.Popen.wait

    def wait_audibly(process, timeout=None):
        (tmp_path / "waiting").touch()
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait_audibly)
    save = "trap 'echo saved > saved; exit 1' TERM; sleep 60 & echo $! > child"
    interrupt = f"until [ -e waiting ]; do sleep 0.02; done; kill -INT {os.getpid()}"
    with pytest.raises(KeyboardInterrupt):
        run_step(tmp_path, [f"{save}; {interrupt}; wait"], end)
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert state_of(tmp_path) == "stopped"
    wait_for_end(int((tmp_path / "child").read_text()))


def test_step_has_its_own_limit(plan):
    plan(slow="sleep 60", next="true")
    gpu.STEPS["slow"]["limit"] = 0.005
    assert GPUBench(toy=True).run() == {"slow": "stopped", "next": "done"}


def test_interruption_keeps_state_and_report(plan, workspace, capsys):
    plan(first="true", second=f"kill -INT {os.getpid()}; sleep 5", third="true")
    assert main(["bench", "gpu", "--toy"]) == 130
    folder = workspace / "gpu-toy"
    assert [state_of(folder / name) for name in gpu.STEPS] == ["done", "stopped", "left"]
    assert "| second | stopped |" in (folder / "report.md").read_text()


def test_steps_without_their_images_are_left(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    bench, end = GPUBench(), time.monotonic() + 6000
    assert "DEEPLABV3_DATA" in bench._obstacle("animals", end)
    assert bench._obstacle("train", end) == ""
    monkeypatch.setenv("DEEPLABV3_DATA", "/images")
    assert bench._obstacle("animals", end) == ""


def test_output_gets_report_weights_and_small_files(plan, tmp_path):
    plan(step="echo 0 > a.json; mkdir runs; echo 1 > runs/log.csv; echo 2 > weights.safetensors; echo 3 > b.jpg")
    GPUBench(output=str(tmp_path / "out"), toy=True).run()
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "report.md", "results.tar.gz", "weights.safetensors",
    ]  # fmt: skip
    with tarfile.open(tmp_path / "out" / "results.tar.gz") as archive:
        assert archive.getnames() == ["step/a.json", "step/log.txt", "step/runs/log.csv", "step/state.json"]


def test_report_has_figures_of_trainings(tmp_path, make_model):
    """mIoU of each evaluation; of three equal runs two end with the same bits."""
    record = {"settings": {"training": {"iterations": 6000}}, "images_per_second": 700.5}
    strategy = {"output_stride": 8, "scales": [0.5, 1.0], "flip": True, "padding": "crop"}
    evaluation = {"miou": 80.25, "settings": strategy}
    model = make_model()
    for number, name in enumerate(("animals", "equal-runs/equal-0", "equal-runs/equal-1", "equal-runs/equal-2")):
        folder = tmp_path / name / "records" / "mobile_gpu" / "run"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "eval-1.json").write_text(json.dumps(evaluation | {"miou": evaluation["miou"] + number}))
        if number == 3:
            next(model.parameters()).data[0] += 1e-7
        file = tmp_path / name / "runs" / "mobile_gpu" / "run" / "checkpoint.safetensors"
        save_checkpoint(file, Checkpoint(6, float(number), {}, model.state_dict(), {}))
    for name in ("animals", "equal-runs"):
        (tmp_path / name / "log.txt").write_text("a line\n")
        (tmp_path / name / "state.json").write_text(json.dumps({"state": "done", "minutes": 1.5}))
    text = report(tmp_path, dict.fromkeys(STEPS, "no time"))
    figures = "6000 steps, 700.5 images/s; mIoU 80.25 at output stride 8 (crop, 2 scales, flip)"
    assert f"| animals | done | 1.5 | {figures} | {STEPS['animals']['goal']} |" in text
    assert "equal: 3 runs end with 2 networks, mIoU [81.25, 82.25, 83.25]; deterministic: 0 runs" in text
    assert "- train: no time" in text and "- animals" not in text


def test_evaluation_is_prepared_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        make_evaluation(2, "small_resnet20")
    assert len(list((tmp_path / "enlarged" / "JPEGImages").iterdir())) == 2
    assert load_checkpoint(tmp_path / "checkpoint.safetensors").settings["model"]["backbone"] == "small_resnet20"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_missing_gpu_is_named():
    with pytest.raises(UserError, match="--toy tries every step on the CPU"):
        GPUBench()
