"""``deeplabv3 bench gpu``: everything that only a GPU can show, in the order of its value, as far as the minutes go.

The steps stand in ``gpu.yaml``. Each has a folder below ``gpu/`` in the workspace with its results, log and state. A
step that is done is not done again, so the same command goes on where an earlier one stopped. The page ``report.md``
is written anew after every step, from these files alone.
"""

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml

from deeplabv3.config import VOC_CLASSES, ModelConfig
from deeplabv3.errors import UserError, require
from deeplabv3.files import CHECKPOINT, write_atomically
from deeplabv3.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.signals import sigterm_interrupts
from walkthrough import paths
from walkthrough.bench import convolutions, step, train
from walkthrough.bench.evaluate import enlarged
from walkthrough.bench.model import randomize_statistics

PLAN = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
STEPS: dict[str, dict[str, Any]] = PLAN["steps"]

MODULES = ("filelock", "PIL", "psutil", "safetensors", "scipy", "tqdm", "torchvision", "pytest")
"""Packages that the steps import besides torch, numpy and yaml."""

REPORT = "report.md"
SMALL = (".json", ".txt", ".csv", ".npz")
"""Files of a step that are copied to ``output``, as one archive."""


@dataclass(frozen=True)
class GPUBench:
    """Settings; ``toy`` tries every step on the CPU, with tiny networks."""

    minutes: float = 30.0
    output: str = ""  # a folder that gets the report, the weights and an archive of the rest; empty: none
    backbone_weights: str = ""  # a file of ImageNet weights for the trainings; empty: the profile's
    toy: bool = False
    steps: tuple[str, ...] = ()  # those to do, in the order of gpu.yaml; empty: all

    def __post_init__(self):
        require(self.minutes > 0, "minutes", self.minutes, "a number above 0")
        require(STEPS.keys() >= {*self.steps}, "steps", self.steps, f"some of {', '.join(STEPS)}")
        if not self.toy and not torch.cuda.is_available():
            raise UserError("no GPU is there; --toy tries every step on the CPU.")

    @property
    def folder(self) -> Path:
        """Folder of the steps' folders and of the report."""
        return paths.workspace().resolve() / ("gpu-toy" if self.toy else "gpu")

    def run(self) -> dict[str, str]:
        """Do the steps that are not done and fit into the minutes, and return the state of each."""
        end, values = time.monotonic() + 60 * self.minutes, self._values()
        with sigterm_interrupts():
            try:
                for name, each in STEPS.items():
                    if state_of(self.folder / name) != "done" and not self._obstacle(name, end):
                        print(f"{name} ...", flush=True)
                        commands = [command.format_map(values) for command in each["commands"]]
                        state = run_step(self.folder / name, commands, min(end, time.monotonic() + 60 * each["limit"]))
                        print(f"{name}: {state}", flush=True)
                        self._write(end)
            finally:
                self._write(end)
        return {name: state_of(self.folder / name) for name in STEPS}

    def _obstacle(self, name: str, end: float) -> str:
        """Reason why a step is not begun now; empty if it is."""
        each = STEPS[name]
        if self.steps and name not in self.steps:
            return "not among the steps that were asked for"
        if each.get("needs_data") and not self.toy and not os.environ.get("DEEPLABV3_DATA"):
            return "set DEEPLABV3_DATA to the folder of the images"
        return f"takes about {each['minutes']} minutes" if 60 * each["minutes"] > end - time.monotonic() else ""

    def _values(self) -> dict[str, str]:
        """Values of the names in braces, besides the sizes."""
        # Other test files may import what is not installed.
        tests = (file for file in (paths.home() / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text())
        values = PLAN["toy" if self.toy else "sizes"] | {
            "python": f"exec {shlex.quote(sys.executable)} -m",
            "home": shlex.quote(str(paths.home())),
            "tests": shlex.join(map(str, sorted(tests))) or "tests/deeplabv3",
            "weights": "",
        }
        if self.backbone_weights:
            values["weights"] = f"--backbone-weights {shlex.quote(str(Path(self.backbone_weights).resolve()))}"
        training = "{python} walkthrough train --profile {profile} {weights} --multi-grid 1 1 1"
        return values | {"training": training.format_map(values)}

    def _write(self, end: float) -> None:
        """Write the report, and copy it with the steps' small files and the weights to ``output``."""
        obstacles = {name: self._obstacle(name, end) for name in STEPS}
        write_atomically(self.folder / REPORT, report(self.folder, obstacles))
        if not self.output:
            return
        output = Path(self.output)
        output.mkdir(parents=True, exist_ok=True)
        for file in (self.folder / REPORT, *self.folder.glob("*/weights.safetensors")):
            shutil.copy(file, output)
        with tarfile.open(output / "results.tar.gz", "w:gz") as archive:
            for file in sorted(self.folder.rglob("*.*")):
                if file.suffix in SMALL:
                    archive.add(file, file.relative_to(self.folder))


def run_step(folder: Path, commands: list[str], end: float) -> str:
    """Run shell commands in ``folder`` until ``end`` (of the monotonic clock). Write and return the state.

    It is done, failed, or stopped: at ``end``, or by an interruption of this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state, began = "stopped", time.monotonic()
    library = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"DEEPLABV3_WORKSPACE": str(folder), "PYTHONPATH": library, "PYTHONUNBUFFERED": "1"}
    try:
        with open(folder / "log.txt", "a") as log:
            for command in commands:
                print(f"$ {command}", file=log, flush=True)
                shell = ["bash", "-c", command]
                process = subprocess.Popen(
                    shell, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
                )
                try:
                    code = process.wait(max(0.0, end - time.monotonic()))
                finally:
                    _end(process)
                if code:
                    state = "failed"
                    break
            else:
                state = "done"
    except subprocess.TimeoutExpired:
        pass
    finally:
        values = {"state": state, "minutes": round((time.monotonic() - began) / 60, 2), "commands": commands}
        write_atomically(folder / "state.json", json.dumps(values, indent=1) + "\n")
    return state


def _end(process: subprocess.Popen) -> None:
    """Let a process save what it has, and end it with all that it started."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def state_of(folder: Path) -> str:
    """The state of a step, by its folder; "left" if it never began."""
    file = folder / "state.json"
    return json.loads(file.read_text())["state"] if file.is_file() else "left"


def report(folder: Path, obstacles: dict[str, str]) -> str:
    """The page: machine, figures beside the goal for every step that ran, and what is left and why."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*/result.json"))]
    machine = ", ".join(f"{name} {value}" for name, value in results[0]["machine"].items()) if results else "no result"
    missing = ", ".join(name for name in MODULES if importlib.util.find_spec(name) is None) or "nothing that is needed"
    shared = f"{shutil.disk_usage('/dev/shm').free / 2**30:.1f} GiB free in /dev/shm"
    ran, left = [], []
    for name, each in STEPS.items():
        state = state_of(folder / name)
        if state != "left":
            minutes = json.loads((folder / name / "state.json").read_text())["minutes"]
            ran.append(f"| {name} | {state} | {minutes} | {_figures(folder / name)} | {each.get('goal', '')} |")
        if state != "done":
            left.append(f"- {name}: {obstacles[name] or 'the same command tries it again'}")
    lines = [
        "# What `deeplabv3 bench gpu` measured",
        "",
        f"{time.strftime('%Y-%m-%d %H:%M')}. {machine}; {shared}; not installed: {missing}.",
        "",
        "| step | state | minutes | figures | goal |",
        "|---|---|---|---|---|",
        *ran,
        "",
        "Left:" if left else "Nothing is left.",
        *left,
    ]
    return "\n".join(lines) + "\n"


def _figures(folder: Path) -> str:
    """Result of a step, or the end of its log."""
    figures: dict[str, Callable[[], str]] = {
        "convolutions": lambda: convolutions.summary(_result(folder)),
        "step": lambda: step.summary(_result(folder)),
        "mobile-step": lambda: step.summary(_result(folder)),
        "train": lambda: train.summary(_result(folder)),
        "evaluate-crop": lambda: _evaluation(_result(folder)),
        "evaluate-tight": lambda: _evaluation(_result(folder)),
        "animals": lambda: "; ".join(_records(folder)),
        "equal-runs": lambda: "; ".join(_spread(folder, kind) for kind in ("equal", "deterministic")),
        "autotune": lambda: step.summary(_result(folder)),
    }
    with suppress(OSError, LookupError):
        if folder.name in figures:
            return figures[folder.name]()
    lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return lines[-1].rsplit("\r", 1)[-1].strip().replace("|", "/")


def _result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def _evaluation(result: dict) -> str:
    rows = (f"{row['name']} {row['images_per_second']:.0f} images/s ({row['speed']:.2f}x)" for row in result["rows"])
    return ", ".join(rows)


def _records(folder: Path) -> list[str]:
    """Speed of each training below ``folder``, and mIoU of each evaluation."""
    figures = []
    for file in sorted(folder.rglob("run.json")):
        run = json.loads(file.read_text())
        figures.append(f"{run['settings']['training']['iterations']} steps, {run['images_per_second']} images/s")
    for file in sorted(folder.rglob("eval-*.json")):
        record = json.loads(file.read_text())
        used = record["settings"]
        kind = f"{used['padding']}, {len(used['scales'])} scales{', flip' if used['flip'] else ''}"
        figures.append(f"mIoU {record['miou']} at output stride {used['output_stride']} ({kind})")
    return figures


def _spread(folder: Path, kind: str) -> str:
    """Of equal runs: how many different networks they ended with, and the mIoU of each."""
    files = sorted(folder.glob(f"{kind}-*/runs/*/*/{CHECKPOINT}"))
    states = [load_checkpoint(file).model for file in files]
    networks = {sha256(b"".join(value.numpy().tobytes() for value in state.values())).digest() for state in states}
    scores = [json.loads(file.read_text())["miou"] for file in sorted(folder.glob(f"{kind}-*/records/*/*/eval-*.json"))]
    return f"{kind}: {len(files)} runs end with {len(networks)} networks, mIoU {scores}"


def make_evaluation(images: int, backbone: str) -> None:
    """Write images of VOC's sizes and a network with random weights, for ``bench evaluate``, into this folder."""
    folder = Path()
    if not (folder / CHECKPOINT).exists():
        enlarged(folder, images)
        model = DeepLabV3(ModelConfig(len(VOC_CLASSES), backbone, stride_unit="first"))
        randomize_statistics(model)
        settings = {"model": asdict(model.config), "data": {"classes": dict(enumerate(VOC_CLASSES))}}
        save_checkpoint(folder / CHECKPOINT, Checkpoint(0, 0.0, settings, model.state_dict(), {}))


if __name__ == "__main__":
    make_evaluation(int(sys.argv[1]), sys.argv[2])
