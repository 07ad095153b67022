"""Networks that a run starts from: ours, the library's own network, torchvision's and VainF's."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import randomize, small_config
from safetensors.torch import save_file

from deeplabv3.config import VOC_CLASSES, ModelConfig
from deeplabv3.errors import UserError
from deeplabv3.model import pretrained
from deeplabv3.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough.cli import main
from walkthrough.records import start

FOREIGN = ModelConfig(
    num_classes=21, backbone="mobilenet_v2", output_stride=8, multi_grid=(1, 1, 1), dropout=0.5, stride_unit="first",
    align_corners=False, extra_convolution=True,
)  # fmt: skip


def vainf(model: DeepLabV3) -> dict[str, torch.Tensor]:
    """A state dict of ours by the names of VainF's ``deeplabv3_mobilenet``."""
    rules = (
        (r"^head\.branches\.", "classifier.classifier.0.convs."),
        (r"^head\.image_pooling\.project\.(\d+)", lambda m: f"classifier.classifier.0.convs.4.{int(m[1]) + 1}"),
        (r"^head\.project\.", "classifier.classifier.0.project."),
        (r"^head\.extra\.(\d+)", lambda m: f"classifier.classifier.{int(m[1]) + 1}"),
        (r"^head\.classifier\.", "classifier.classifier.4."),
        (r"^backbone\.features\.([0-3])\.", r"backbone.low_level_features.\1."),
        (r"^backbone\.features\.(\d+)\.", lambda m: f"backbone.high_level_features.{int(m[1]) - 4}."),
    )
    state = {}
    for name, value in model.state_dict().items():
        for pattern, new in rules:
            name, found = re.subn(pattern, new, name)
            if found:
                break
        state[name] = value
    return state


@pytest.fixture(scope="module")
def vainf_file(tmp_path_factory):
    """As its script saves it, and the network in it."""
    model = randomize(DeepLabV3(FOREIGN), seed=3)
    path = tmp_path_factory.mktemp("weights") / "best_deeplabv3_mobilenet_voc_os16.pth"
    torch.save({"cur_itrs": 30_000, "model_state": vainf(model), "best_score": np.float64(0.701)}, path)
    return path, model


def test_mobilenet_of_vainf_is_mapped_by_name(vainf_file):
    path, model = vainf_file
    found = start.load(path)
    assert found.config == model.config and found.classes == VOC_CLASSES
    assert found.state.keys() == model.state_dict().keys()
    assert all(value.equal(found.state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("key", "name"), [
    ("classifier.classifier.0.convs.1.0.weight", "classifier.0.convs.1.0.weight"),
    ("backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv1.weight"),
    ("backbone.high_level_features.13.conv.0.0.weight", "backbone.features.17.conv.0.0.weight"),
])  # fmt: skip
def test_names_of_vainf_become_those_of_torchvision(key, name):
    assert start._torchvision_name(key) == name


def test_training_starts_from_foreign_network(vainf_file, profile_file, workspace, capsys):
    """Its own layers and rates replace the profile's."""
    path, model = vainf_file
    values = yaml.safe_load(profile_file.read_text())
    values["data"]["classes"] = {0: "background", 3: "cat", 7: "disc"}
    profile_file.write_text(yaml.safe_dump(values))
    still = ["--set", "training.lr=0.0", "--set", "training.iterations=1", "--set", "training.freeze_batch_norm=true"]
    command = ["train", "--profile", str(profile_file), "--init-from", str(path), *still]
    assert main(command) == 1
    assert "trained for other classes (background, aeroplane" in capsys.readouterr().err
    assert main([*command, "--new-classes"]) == 0
    told = capsys.readouterr().out
    assert f"starts from {path} (mobilenet_v2, aspp, multi-grid 1 1 1, rates 6 12 18)" in told
    assert "new in the last layer: disc\n  kept from it: background, cat; all other layers" in told
    (path,) = (workspace / "runs").glob("*/*/checkpoint.safetensors")
    checkpoint = load_checkpoint(path)
    wanted = replace(FOREIGN, num_classes=3, output_stride=16, dropout=0.1)
    assert ModelConfig(**checkpoint.settings["model"]) == wanted
    before, after = model.state_dict(), checkpoint.model
    assert all(value.equal(after[name]) for name, value in before.items() if not name.startswith("head.classifier"))
    for name in ("head.classifier.weight", "head.classifier.bias"):
        assert after[name][:2].equal(before[name][[0, VOC_CLASSES.index("cat")]])


def test_run_starts_from_another_by_name(profile_file, workspace, capsys):
    """And keeps its grid and rates, which no weight shows."""
    quick = ["--profile", str(profile_file), "--set", "training.iterations=1"]
    assert main(["train", *quick, "--multi-grid", "1", "1", "2", "--rates", "6", "12"]) == 0
    (first,) = (workspace / "runs").glob("*/*")
    capsys.readouterr()
    assert main(["train", *quick, "--init-from", first.name]) == 0
    assert "multi-grid 1 1 2, rates 1 2)" in capsys.readouterr().out
    (second,) = set((workspace / "runs").glob("*/*")) - {first}
    assert main(["train", *quick, "--init-from", str(first), "--multi-grid", "1", "1", "1"]) == 0
    assert "multi-grid 1 1 1, rates 1 2)" in capsys.readouterr().out
    configs = [load_checkpoint(run / "checkpoint.safetensors").settings["model"] for run in (first, second)]
    assert configs[0] == configs[1]


@pytest.mark.parametrize("head", ["aspp", "cascade", "v2"])
def test_classes_of_equal_name_keep_their_rows(tmp_path, head):
    torch.manual_seed(0)
    config = small_config(head=head, num_classes=4)
    state = DeepLabV3(config).state_dict()
    known = start.Start(tmp_path / "x", config, state, ("background", "cat", "cow", "dog"))
    model = DeepLabV3(small_config(head=head, num_classes=3))
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    start.initialize(model, known, ("dog", "crack", "background"), new_classes=True)
    last = [name for name in state if name.startswith("head.classifier")]
    assert last
    for name, value in model.state_dict().items():
        if name in last:
            assert value[0].equal(state[name][3]) and value[2].equal(state[name][0])
            assert value[1].equal(fresh[name][1])
        else:
            assert value.equal(state[name])


def test_record_names_the_run_it_started_from(profile_file, workspace):
    quick = ["train", "--profile", str(profile_file), "--set", "training.iterations=1"]
    assert main(quick) == 0
    (first,) = (workspace / "runs").glob("*/*")
    assert main([*quick, "--init-from", str(first / "checkpoint.safetensors")]) == 0
    records = [json.loads(path.read_text()) for path in workspace.glob("records/*/*/run.json")]
    assert [one["started_from"] for one in records if "started_from" in one] == [first.name], "no path of a machine"


def test_names_stand_for_files(workspace, tmp_path, monkeypatch):
    assert start.find("pretrained") == pretrained.FILE
    assert start.find("torchvision:/some/file.pth") == start.Path("/some/file.pth")
    file = workspace / "weights" / "deeplabv3_resnet50_coco-cd0a2569.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    assert start.find("torchvision:resnet50") == file  # not downloaded again
    downloads = []
    monkeypatch.setattr(start, "download", lambda *arguments: downloads.append(arguments[-1]))
    assert start.find("torchvision").name == "deeplabv3_resnet101_coco-586e9e4e.pth"
    assert downloads == [workspace / "weights"]


def test_network_in_the_box_has_its_classes():
    found = start.load(start.find("pretrained"))
    assert found.classes == ("background", "cat", "cow", "dog", "horse", "person", "sheep")
    assert (found.config.multi_grid, found.config.atrous_rates) == ((1, 1, 1), (3, 6, 9))


@pytest.mark.parametrize("case", ["other tensors", "no file", "unknown run", "damaged", "no settings"])
def test_unusable_starts_are_one_sentence(tmp_path, profile_file, capsys, case):
    path, sentence = {
        "other tensors": ("a.safetensors", "are not those of torchvision's"),
        "no file": ("b.safetensors", "does not exist"),
        "unknown run": ("nothing", "is neither a file nor a run"),
        "damaged": ("c.safetensors", "is damaged or none"),
        "no settings": ("d.safetensors", "does not say what network it holds"),
    }[case]
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"no tensors")
    save_checkpoint(tmp_path / "d.safetensors", Checkpoint(1, 1.0, {}, {}, {}))
    named = path if case == "unknown run" else str(tmp_path / path)
    assert main(["train", "--profile", str(profile_file), "--init-from", named]) == 1
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert named in message and sentence in message


def test_other_network_is_refused(tmp_path):
    config = small_config(num_classes=2)
    known = start.Start(tmp_path / "x", config, DeepLabV3(config).state_dict(), ())
    with pytest.raises(UserError, match=r"holds another network than the run's; .* or give --new-classes"):
        start.initialize(DeepLabV3(small_config(num_classes=3)), known, ("a", "b", "c"), new_classes=False)
    with pytest.raises(UserError, match=r"choose the same head and rates\."):
        start.initialize(DeepLabV3(small_config(head="v2", num_classes=3)), known, ("a", "b", "c"), new_classes=True)
