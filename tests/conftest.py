"""What every test gets: a workspace of its own, one thread, and small data, profiles and networks to work on."""

import errno
import itertools
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import psutil
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from deeplabv3.config import VOID, ModelConfig
from deeplabv3.data.voc import VOCData, palette
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough import paths
from walkthrough.profiles import Profile, load_profile

# A shell that starts the tests in the background has Ctrl-C ignored, and every child process inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

CLASSES = {0: "background", 3: "square", 7: "disc"}
"""Label values that differ from the model's classes 0, 1 and 2, so that a forgotten mapping shows."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The random numbers of a test and its fixtures do not depend on the tests before it, which xdist chooses."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests with the marker ``gpu`` where there is no CUDA device."""
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def hidden_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tests with the marker ``gpu`` see one: the others compare bits, or count on one process a core."""
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the processes that they start
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that a test makes stays below its own folder."""
    folder = tmp_path / "workspace"
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", str(folder))
    for name in ("DEEPLABV3_PROFILE", "DEEPLABV3_DATA", "DEEPLABV3_SEEDS"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)
    return folder


def write_voc(root: Path, train: int = 6, val: int = 3, seed: int = 0) -> Path:
    """A data set in VOC's layout: a red square and a green disc with void borders on gray noise, odd sizes."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = [f"image_{number}" for number in range(train + val)]
    for number, name in enumerate(names):
        height, width = ((40, 48), (48, 40), (37, 53))[number % 3]
        image = rng.integers(90, 160, (height, width, 3)).astype(np.uint8)
        label = np.zeros((height, width), dtype=np.uint8)
        y, x = np.mgrid[:height, :width]
        square = np.maximum(abs(y - rng.integers(10, 28)), abs(x - 12))
        disc = np.hypot(y - rng.integers(10, 28), x - 30)
        for distance, value, color in ((square, 3, (220, 30, 30)), (disc, 7, (30, 220, 30))):
            label[distance < 9] = VOID
            label[distance < 8] = value
            image[distance < 8] = color
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
        write_label(root / "SegmentationClass" / f"{name}.png", label)
    for list_name, chosen in (("train", names[:train]), ("val", names[train:]), ("trainval", names)):
        (root / "ImageSets" / "Segmentation" / f"{list_name}.txt").write_text("\n".join(chosen) + "\n")
    return root


def write_label(path: Path, label: np.ndarray) -> None:
    """A palette PNG as VOC has them."""
    image = Image.fromarray(label).convert("P")
    image.putdata(label.flatten().tolist())
    image.putpalette(palette().flatten().tolist())
    image.save(path)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    """A data set of 6 training and 3 validation images."""
    return write_voc(tmp_path / "VOC2012")


@pytest.fixture
def data(voc_root: Path) -> VOCData:
    """Its training images."""
    return VOCData(voc_root, "train", CLASSES, cache=True)


def profile_values(root: Path, classes: dict[int, str]) -> dict:
    """Settings of a profile of three training steps of a small network on the images of ``root``."""
    return {
        "title": "Three steps of a small network",
        "data": {"kind": "voc", "root": str(root), "classes": classes},
        "model": {
            "backbones": {"resnet50": "small_resnet20", "resnet101": "small_resnet20"},
            "rates": {6: 1, 12: 2, 18: 3, 24: 4},
            "head_channels": 16,
        },
        "training": {"iterations": 3, "batch_size": 2, "crop_size": 33, "lr": 0.05, "batch_norm_momentum": 0.1},
        "evaluation": {"crop_size": 65},
    }


@pytest.fixture
def profile_file(tmp_path: Path, voc_root: Path) -> Path:
    """A profile of three training steps on those images."""
    values = profile_values(voc_root, CLASSES)
    path = tmp_path / "tiny-tests.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def profile(profile_file: Path) -> Profile:
    """That profile, loaded."""
    return load_profile(str(profile_file))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that are worked on, which happens in this process."""
    from walkthrough.experiments import local

    names = []

    def in_processes(function, tasks, *_):
        for task in tasks:
            names.append(task.run.name)
            function(task, lambda *_: None)
        return {}

    monkeypatch.setattr(local, "in_processes", in_processes)
    return names


@pytest.fixture
def ship(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """``ship()``: what the workspace has of records ships with a project of the test's own; the folder of these."""
    home = tmp_path / "project"
    paper = paths.home() / "data" / "paper"

    def move() -> Path:
        (home / "data").mkdir(parents=True)
        (home / "data" / "paper").symlink_to(paper)
        monkeypatch.setenv("DEEPLABV3_HOME", str(home))
        return (workspace / "records").rename(home / "data" / "records")

    return move


def small_config(**changes) -> ModelConfig:
    """A network that takes milliseconds."""
    settings = {
        "num_classes": 3,
        "backbone": "small_resnet20",
        "head_channels": 16,
        "atrous_rates": (1, 2, 3),
        "dropout": 0.0,
    }
    return ModelConfig(**(settings | changes))


@pytest.fixture
def make_model() -> Callable[..., DeepLabV3]:
    """``make_model(**changes)``: a small network, the same for the same changes, with every parameter at work."""

    def make(**changes) -> DeepLabV3:
        torch.manual_seed(0)
        return randomize(DeepLabV3(small_config(**changes)), seed=5)  # with 1 one class wins everywhere

    return make


def randomize(model: nn.Module, seed: int = 1) -> nn.Module:
    """Random batch norm statistics and parameters: at their initial values many mistakes would not show.

    Convolutions keep the size of what they are given (by default depthwise ones nearly extinguish it, and the output
    hardly depends on the input); the logits are drawn wide, so that the classes of a prediction are never nearly tied.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: torch.Tensor, low: float, high: float) -> None:
        with torch.no_grad():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            draw(module.weight, 0.5, 1.5)
            draw(module.bias, -0.3, 0.3)
            draw(module.running_mean, -0.3, 0.3)
            draw(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            widest = (6 / module.weight[0].numel()) ** 0.5 if module.bias is None else 0.5
            draw(module.weight, -widest, widest)
            if module.bias is not None:  # the logits: centered, lest one class wins everywhere
                draw(module.bias, -0.5, 0.5)
                module.weight.data -= module.weight.mean(1, keepdim=True).detach()
        elif isinstance(module, nn.Linear):  # a classifier of ImageNet: memory that nobody filled may hold anything
            draw(module.weight, -0.1, 0.1)
            draw(module.bias, -0.1, 0.1)
    return model


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """``full_disk()``: from now on there is no room for any file, however far its writing got."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr("os.fsync", refuse)


FIRST_PORT = 20_000 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
PORTS = itertools.cycle(range(FIRST_PORT, FIRST_PORT + 100))
"""Of this xdist worker, and below those that Linux gives to whoever asks for any."""


def give_own_ports(patch: pytest.MonkeyPatch) -> None:
    """Kernels that this process starts get ports of ``PORTS``.

    Jupyter looks for free ports and leaves them until the kernel has started: another worker's kernel may take them.
    """
    from jupyter_client.connect import LocalPortCache

    def is_free(port: int, ip: str) -> bool:
        with socket.socket() as trial, suppress(OSError):
            trial.bind((ip, port))
            return True
        return False

    patch.setattr(LocalPortCache, "find_available_port", lambda _, ip: next(p for p in PORTS if is_free(p, ip)))


def wait_for_end(pid: int, seconds: float = 60) -> None:
    """Wait until a process has ended, whether or not its parent has noticed."""
    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"process {pid} lives"
            time.sleep(0.05)


def read_until(stream: BinaryIO, mark: bytes, seconds: float = 300) -> None:
    """Read what another process prints until ``mark`` appears."""
    seen, deadline = b"", time.monotonic() + seconds
    while mark not in seen:
        assert select.select([stream], [], [], max(0.0, deadline - time.monotonic()))[0], f"waited in vain: {seen!r}"
        part = os.read(stream.fileno(), 4096)
        assert part, f"ended too early: {seen!r}"
        seen += part
