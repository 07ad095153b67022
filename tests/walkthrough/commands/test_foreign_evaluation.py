"""``deeplabv3 evaluate`` on networks that no run of the profile has trained."""

import argparse
import json

import pytest
import torch
import yaml
from conftest import small_config

from deeplabv3.config import ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from walkthrough import cli
from walkthrough.commands import options
from walkthrough.records import start
from walkthrough.records.run import Run


@pytest.fixture
def evaluate(profile_file):
    return lambda *arguments: cli.main(["evaluate", *map(str, arguments), "--profile", str(profile_file)])


@pytest.fixture
def weights(tmp_path, make_model):
    """``weights(classes)``: a file of a network that says its classes and no more."""

    def write(classes, **settings):
        model = make_model(num_classes=len(classes))
        settings |= {"model": vars(model.config), "data": {"classes": classes}}
        save_checkpoint(tmp_path / "elsewhere.safetensors", Checkpoint(0, 0.0, settings, model.state_dict(), {}))
        return tmp_path / "elsewhere.safetensors"

    return write


def test_foreign_network_is_evaluated_and_recorded_once(evaluate, weights, workspace, capsys):
    file = weights({"0": "background", "1": "tree", "3": "square", "7": "disc"})
    assert evaluate(file) == 0
    told = capsys.readouterr().out
    assert "network elsewhere.safetensors, which no run of profile 'tiny-tests' has trained" in told
    assert "note: its outputs for tree are left out" in told and "mIoU" in told
    (record,) = (workspace / "records").glob("*/*/eval-*.json")
    values = json.loads(record.read_text())
    assert values["network"].startswith("elsewhere.safetensors, weights ")
    assert [*values["class_iou"]] == ["background", "square", "disc"] and values["images"] == 3
    record.write_text(json.dumps(values | {"miou": 99.99}))
    assert evaluate(file) == 0
    told = capsys.readouterr().out
    assert "recorded before:" in told and "mIoU 99.99" in told


def test_records_of_foreign_networks_disturb_no_others(evaluate, weights, profile, profile_file, workspace, capsys):
    assert evaluate(weights({"0": "background", "3": "square", "7": "disc"})) == 0
    assert cli.main(["train", "--profile", str(profile_file)]) == 0
    capsys.readouterr()
    for command in (["records", "list"], ["records"], ["table", "5"]):
        assert cli.main([*command, "--profile", str(profile_file)]) == 0
    told = capsys.readouterr()
    assert (
        Run.of(profile, small_config()).name not in told.err and told.out.count("elsewhere.safetensors, weights") == 2
    )
    (record,) = (
        path.parent.name for path in (workspace / "records").glob("*/*/eval-*.json") if "network" in path.read_text()
    )
    assert cli.main(["records", "show", record, "--profile", str(profile_file)]) == 0
    assert "network elsewhere.safetensors" in capsys.readouterr().out
    assert cli.main(["records", "card", record, "--profile", str(profile_file)]) == 1
    assert f"run {record} has no training record, so it has no card" in capsys.readouterr().err


def test_network_without_a_class_is_one_sentence(evaluate, weights, workspace, capsys):
    assert evaluate(weights({"0": "background", "3": "square", "9": "cat"})) == 1
    error = capsys.readouterr().err
    assert "does not know disc; its classes are background, square, cat" in error and error.count("\n") == 1
    assert not [*workspace.rglob("eval-*")]


def test_run_of_other_classes_is_evaluated_as_foreign(evaluate, profile_file, workspace, capsys):
    assert cli.main(["train", "--profile", str(profile_file)]) == 0
    (run,) = (workspace / "runs").glob("*/*")
    values = yaml.safe_load(profile_file.read_text())
    values["data"] |= {"classes": {0: "background", 3: "square"}, "unlisted_labels": "ignore"}
    profile_file.write_text(yaml.safe_dump(values))
    assert evaluate(run) == 0
    assert f"network {run.name}, which no run" in capsys.readouterr().out


@pytest.mark.parametrize("head", ["aspp", "cascade", "v2"])
@torch.no_grad()
def test_chosen_classes_keep_their_logits(make_model, head):
    model = make_model(num_classes=4, head=head).eval()
    images = torch.randn(1, 3, 33, 33)
    chosen = start.with_classes(model, ("a", "b", "c", "d"), ("d", "b"), "net")
    torch.testing.assert_close(chosen(images), model(images)[:, [3, 1]], rtol=1e-4, atol=1e-4)
    assert chosen.config == ModelConfig(**{**vars(model.config), "num_classes": 2})
    with pytest.raises(UserError, match="net does not know e"):
        start.with_classes(model, ("a", "b", "c", "d"), ("e",), "net")


def test_class_names_without_their_network_are_refused(evaluate, weights, capsys):
    assert evaluate(weights({"0": "background"}), "--classes", "a,b") == 1
    assert evaluate("pretrained", "torchvision:net.pth", "--classes", "a,b") == 1
    assert capsys.readouterr().err.count("--classes, --mean and --std are for a network in torchvision:FILE") == 2


def test_foreign_file_is_told_how_to_be_named(evaluate, tmp_path, capsys):
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pth")
    assert evaluate(tmp_path / "net.pth") == 1
    assert f"name torchvision's as torchvision:{tmp_path / 'net.pth'}" in capsys.readouterr().err


def test_foreign_network_gets_its_normalization_by_options(make_model, monkeypatch):
    monkeypatch.setattr("deeplabv3.evaluation.predict.load_weights", lambda source, names: (make_model(), {0: "a"}))
    given = argparse.Namespace(classes=None, mean="0.5,0.25,0.75", std=None)
    model, _ = options.load_network("torchvision:net.pth", given)
    assert model.config.mean == (0.5, 0.25, 0.75) and model.config.std == ModelConfig().std
    for weights in ("torchvision", None, "pretrained"):
        with pytest.raises(UserError, match="--mean is for a network in torchvision:FILE"):
            options.load_network(weights, given)
    given.std = "0.5,high"
    with pytest.raises(UserError, match=r"--std '0\.5,high' should be numbers"):
        options.load_network("torchvision:net.pth", given)
