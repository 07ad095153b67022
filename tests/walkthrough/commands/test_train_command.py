"""``deeplabv3 train``: begin again, and start from another run's network."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_label
from PIL import Image

from deeplabv3.model.checkpoint import load_checkpoint
from walkthrough import cli
from walkthrough.commands.train import crop_note
from walkthrough.records import run as run_module


@pytest.fixture
def arguments(profile_file) -> list[str]:
    return ["train", "--profile", str(profile_file)]


def runs(workspace: Path) -> list[Path]:
    return sorted((workspace / "runs").glob("*/*"), key=lambda folder: len(folder.name))


def test_archived_run_is_trained_and_evaluated_again(arguments, workspace, capsys):
    """The records of the earlier weights are archived with them."""
    assert cli.main(arguments) == 0
    (record,) = (workspace / "records").glob("*/*/eval-*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"miou": 99.99}))
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "mIoU 99.99" in capsys.readouterr().out
    assert cli.main([*arguments, "--no-resume"]) == 0
    assert "mIoU 99.99" not in capsys.readouterr().out
    run, archive = runs(workspace)
    assert (run / "checkpoint.safetensors").is_file()
    assert (archive / "checkpoint.safetensors").is_file()
    assert json.loads((archive / "records" / record.name).read_text())["miou"] == 99.99


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_changed_labels_are_told_beside_old_record(arguments, voc_root, workspace, capsys, command):
    assert cli.main(arguments) == 0
    (run,), (old,) = runs(workspace), (workspace / "records").glob("*/*/eval-*.json")
    again = arguments if command == "train" else ["evaluate", str(run), *arguments[1:]]
    assert cli.main(again) == 0
    assert "have changed" not in capsys.readouterr().out
    label = voc_root / "SegmentationClass" / "image_6.png"
    write_label(label, np.where(np.asarray(Image.open(label)) == 3, 7, 0).astype(np.uint8))
    run_module._fingerprint.cache_clear()
    assert cli.main(again) == 0
    told = capsys.readouterr().out
    assert f"note: images or labels of list 'val' have changed since {old.name} was written (mIoU " in told
    assert old.is_file() and len([*old.parent.glob("eval-*.json")]) == 2


def test_restart_by_torchrun_resumes(arguments, workspace, monkeypatch):
    """Else --no-resume would begin again at each restart."""
    assert cli.main([*arguments, "--no-resume"]) == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert cli.main([*arguments, "--no-resume"]) == 0
    assert len(runs(workspace)) == 1


def test_second_stage_starts_from_first_weights(arguments, workspace, monkeypatch):
    """With a learning rate of 0 it ends with them, too; batch norm is frozen, as in the paper."""
    assert cli.main(arguments) == 0
    (first,) = runs(workspace)
    start = first / "checkpoint.safetensors"
    frozen = ["--set", "training.lr=0.0", "--set", "training.freeze_batch_norm=true"]
    assert cli.main([*arguments, "--init-from", str(start), *frozen]) == 0
    (second,) = set(runs(workspace)) - {first}
    before, after = (load_checkpoint(folder / "checkpoint.safetensors").model for folder in (first, second))
    assert all(value.equal(after[name]) for name, value in before.items())


@pytest.mark.parametrize("head", ["aspp", "cascade", "v2"])
def test_new_classes_replace_the_last_layer_alone(arguments, profile_file, workspace, capsys, head):
    """With a learning rate of 0 everything else ends as it began; without the option the sentence names it."""
    frozen = ["--head", head, "--set", "training.lr=0.0", "--set", "training.iterations=1"]
    frozen += ["--set", "training.freeze_batch_norm=true"]
    assert cli.main([*arguments, *frozen]) == 0
    (first,) = runs(workspace)
    start = ["--init-from", str(first / "checkpoint.safetensors")]
    values = yaml.safe_load(profile_file.read_text())
    values["data"]["classes"] = {0: "background", 7: "disc"}
    values["data"]["unlisted_labels"] = "ignore"
    profile_file.write_text(yaml.safe_dump(values))
    capsys.readouterr()
    assert cli.main([*arguments, *frozen, *start]) == 1
    assert "was trained for other classes (background, square, disc); give --new-classes" in capsys.readouterr().err
    assert cli.main([*arguments, *frozen, *start, "--new-classes"]) == 0
    (second,) = {path.parent for path in (workspace / "runs").rglob("checkpoint.safetensors")} - {first}
    before, after = (load_checkpoint(folder / "checkpoint.safetensors").model for folder in (first, second))
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not value.equal(after[name])}
    assert changed and all(name.startswith("head.classifier") for name in changed)
    assert all(len(after[name]) == 2 for name in changed)


def test_other_names_of_as_many_classes_are_an_error(arguments, workspace, capsys):
    assert cli.main([*arguments, "--set", "training.iterations=1"]) == 0
    (first,) = runs(workspace)
    names = ["--set", "data.classes={0: background, 3: red, 7: green}"]
    capsys.readouterr()
    assert cli.main([*arguments, *names, "--init-from", str(first / "checkpoint.safetensors")]) == 1
    assert "other classes (background, square, disc)" in capsys.readouterr().err


def test_profile_chooses_the_network_and_options_override(arguments, profile_file, workspace, capsys):
    values = yaml.safe_load(profile_file.read_text())
    own = {"head": "cascade", "last_block": 5, "multi_grid": [1, 2, 1], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.4, 0.3]}
    values["model"] |= own
    profile_file.write_text(yaml.safe_dump(values))
    assert cli.main(arguments) == 0
    (first,) = runs(workspace)
    model = load_checkpoint(first / "checkpoint.safetensors").settings["model"]
    assert {name: model[name] for name in own} == own
    start = ["--init-from", str(first / "checkpoint.safetensors")]
    assert cli.main([*arguments, "--multi-grid", "1", "2", "4", *start, "--set", "model.std=null"]) == 0
    (second,) = set(runs(workspace)) - {first}
    model = load_checkpoint(second / "checkpoint.safetensors").settings["model"]
    assert {name: model[name] for name in own} == own | {"multi_grid": [1, 2, 4]}
    assert cli.main([*arguments, "--rates", "6"]) == 1
    assert cli.main([*arguments, "--set", "model.image_pooling=false"]) == 1
    told = capsys.readouterr().err
    assert "--rates (model.atrous_rates) has no effect (head 'cascade' has no ASPP)" in told
    assert "--no-image-pooling (model.image_pooling) has no effect (head 'cascade' has none)" in told


def test_saved_profile_trains_the_same_run(arguments, workspace, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    given = ["--head", "cascade", "--last-block", "5", "--multi-grid", "1", "2", "1", "--seed", "3",
             "--set", "training.scales=[1.0]"]  # fmt: skip
    assert cli.main([*arguments, *given, "--save-profile", str(file)]) == 0
    assert cli.main(["train", "--profile", str(file)]) == 0
    assert len({folder.name for folder in runs(workspace)}) == 1 and len(runs(workspace)) == 2
    text = file.read_text()
    assert cli.main([*arguments, "--save-profile", str(file)]) == 1
    assert "mine.yaml exists and has other settings" in capsys.readouterr().err and file.read_text() == text
    assert cli.main([*arguments, "--head", "v2", "--set", "model.head=aspp"]) == 1
    assert "setting 'model.head' is given by --set and by an option" in capsys.readouterr().err


def test_new_classes_need_a_checkpoint(arguments, capsys):
    assert cli.main([*arguments, "--new-classes"]) == 1
    assert "setting 'new_classes' is True; it takes a checkpoint in 'init_from'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        (None, ["--head", "cascade", "--multi-grid", "1", "1", "1"], "holds another network than the run's"),
        (b"no checkpoint", [], "is damaged"),
    ],
    ids=["another network", "another file"],
)
def test_unusable_initial_checkpoint_is_one_sentence(
    arguments, workspace, tmp_path, capsys, content, options, sentence
):
    start = tmp_path / "start.safetensors"
    if content is None:
        assert cli.main(arguments) == 0
        start.write_bytes((runs(workspace)[0] / "checkpoint.safetensors").read_bytes())
    else:
        start.write_bytes(content)
    capsys.readouterr()
    assert cli.main([*arguments, "--init-from", str(start), *options]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"deeplabv3: checkpoint {start} ")
    assert sentence in message


@pytest.mark.parametrize(("crop", "stride", "next_fitting"), [
    (512, 16, 513), (513, 16, None), (32, 16, 33), (257, 8, None), (256, 8, 257), (321, 32, None), (1, 16, None),
    (500, 32, 513),
])  # fmt: skip
def test_crop_whose_corners_do_not_fit_is_noted(crop, stride, next_fitting):
    """512 is everybody's habit; 513 is the paper's."""
    note = crop_note(crop, stride)
    assert (
        (note == "")
        if next_fitting is None
        else note.endswith(f"training.crop_size={next_fitting} is the next that is")
    )
    assert crop_note(crop, stride, align_corners=False) == ""


def test_recorded_run_with_damaged_checkpoint_is_refused(arguments, workspace, capsys):
    """Its record alone would be printed; without the file the same command goes on from the one before."""
    assert cli.main([*arguments, "--set", "runtime.save_every_s=0"]) == 0
    (run,) = runs(workspace)
    checkpoint = run / "checkpoint.safetensors"
    content = bytearray(checkpoint.read_bytes())
    content[-4000:-3000] = b"\xff" * 1000
    checkpoint.write_bytes(content)
    capsys.readouterr()
    assert cli.main(arguments) == 1
    assert f"checkpoint {checkpoint} is damaged" in capsys.readouterr().err
    checkpoint.unlink()
    assert cli.main(arguments) == 0
    assert load_checkpoint(checkpoint).step == 3


def test_validations_of_finished_run_are_noted(arguments, capsys):
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "--validate-every", "2"]) == 0
    note = "the run is finished, and --validate-every has no effect"
    assert note in capsys.readouterr().out
    assert cli.main([*arguments, "--validate-every", "2", "--no-resume"]) == 0
    assert cli.main([*arguments, "--validate-every", "2"]) == 0
    assert note not in capsys.readouterr().out
