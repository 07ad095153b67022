"""The comparison of kills.py sees what a kill could cost, and nothing else."""

import json

import numpy as np
import pytest
import torch
from kill_contents import contents, differences
from kills import CASES

from deeplabv3.files import atomic_path
from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from walkthrough.records.store import pack_counts


def write(folder, weight=0.1, count=5, share="41.2", seconds=1.0, partial=""):
    """A run's network, its record, and a table of predictions."""
    folder.mkdir()
    weights = {"layer.weight": torch.tensor([weight, 0.2])}
    save_checkpoint(folder / "checkpoint.safetensors", Checkpoint(4, seconds, {"seed": 0}, weights, {}))
    (folder / "run.json").write_text(json.dumps({"seconds": seconds, "settings": {"seed": 0}}))
    (folder / "eval-1.npz").write_bytes(pack_counts(np.full((2, 3, 3), count)))
    (folder / "shares.csv").write_text(f"file,seconds,cat %\na.jpg,{seconds},{share}\n")
    (folder / ".lock").write_text(str(seconds))
    if partial:
        (folder / partial).touch()
    return contents(folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"seconds": 2.0}, []),
        ({"weight": 0.1000001}, ["checkpoint.safetensors differs"]),
        ({"count": 6}, ["eval-1.npz differs"]),
        ({"share": "41.3"}, ["shares.csv differs"]),
        ({"partial": ".shares.1f.partial.csv"}, [".shares.1f.partial.csv is left over"]),
    ],
)
def test_only_losses_are_differences(tmp_path, changes, found):
    assert list(differences(write(tmp_path / "whole"), write(tmp_path / "resumed", **changes))) == found


def test_missing_file_is_a_difference(tmp_path):
    whole = write(tmp_path / "whole")
    (tmp_path / "whole" / "run.json").unlink()
    assert list(differences(whole, contents(tmp_path / "whole"))) == ["run.json is missing"]


def test_unfinished_file_of_every_writer_would_be_seen(tmp_path):
    with atomic_path(tmp_path / "label.png") as partial:
        partial.touch()
        assert len(contents(tmp_path)) == 1


def test_campaign_has_200_kills():
    assert sum(case.kills for case in CASES.values()) >= 200
