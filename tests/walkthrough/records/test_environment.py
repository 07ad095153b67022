"""What a record says of its machine, with a GPU and without; records that say less stay readable."""

import json
import subprocess
from types import SimpleNamespace

import pytest
import torch
from record_helpers import recorded, run_of

from walkthrough.records import environment as module
from walkthrough.records.catalogue import find
from walkthrough.records.compare import differences, environment_of
from walkthrough.records.environment import environment


@pytest.fixture
def gpu(monkeypatch) -> None:
    """A GPU, and a program nvidia-smi that knows it."""
    monkeypatch.setattr(module, "_commit", lambda: "0123456789ab")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92600)

    def nvidia_smi(command: list[str], **_) -> SimpleNamespace:
        assert command[:2] == ["nvidia-smi", "--id=GPU-1-2"]
        return SimpleNamespace(stdout="580.65.06, 345 MHz, 1980 MHz, 700.00 W\n")

    monkeypatch.setattr(subprocess, "run", nvidia_smi)


def test_environment_on_cpu_names_processor_and_cores(monkeypatch):
    monkeypatch.setattr(module, "available_cpus", lambda: 3)
    found = environment()
    assert found["device"] == "CPU (3 cores)"
    assert found["cpu"] == module.processor() != ""
    assert found["threads"] == 1
    assert not {"cuda", "cudnn", "tf32", "driver_version"} & found.keys()


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_environment_on_gpu_names_its_software(gpu, monkeypatch, precision, tf32):
    """TF32 as the run had it, not as it is outside of the run."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    found = environment(precision)
    assert (found["device"], found["cuda"], found["cudnn"]) == ("NVIDIA H200", "13.2", 92600)
    assert found["driver_version"] == "580.65.06"
    assert found["tf32"] is tf32
    assert json.dumps(found)


def test_environment_without_nvidia_smi_lacks_driver(gpu, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    found = environment()
    assert found["cuda"] == "13.2" and "driver_version" not in found


def test_record_says_whether_its_run_was_compiled(profile):
    run = run_of(profile)
    recorded(run)
    assert run.training_record()["compile"] is False
    assert run.evaluation_record(profile.evaluation)["cpu"] == module.processor()


def test_older_record_is_compared_by_what_it_says(profile):
    run = run_of(profile)
    recorded(run)
    newer = find(profile.name, run.name)

    def forget(values: dict) -> None:
        del values["cpu"], values["compile"]

    recorded(run, training=forget)
    older = find(profile.name, run.name)
    assert older.problem == ""
    rows = differences(environment_of(older), environment_of(newer))
    assert rows == [("cpu", None, module.processor()), ("compile", None, False)]
