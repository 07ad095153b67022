"""``deeplabv3 train``: begin again, and start from another run's network."""

import json
from pathlib import Path

import pytest

from deeplabv3.model.checkpoint import load_checkpoint
from walkthrough import cli


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
