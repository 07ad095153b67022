"""Migration of records and checkpoints to the fingerprints that look into the files."""

import importlib.util
import json

import numpy as np
import pytest

from deeplabv3.data.voc import VOCData, fingerprint
from deeplabv3.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from walkthrough import paths
from walkthrough.records import catalogue
from walkthrough.records.run import Run

COUNTS = np.array([[[5, 1, 0], [0, 3, 0], [0, 0, 0]], [[7, 0, 0], [2, 2, 0], [0, 0, 0]]])


@pytest.fixture
def migrate():
    spec = importlib.util.spec_from_file_location("migrate", paths.home() / "data" / "records" / "migrate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def old(profile, migrate, monkeypatch) -> Run:
    """A run as before: named by the sizes of files, with records, checkpoints, and an archived folder beside it."""
    earlier = {
        name: migrate.earlier_fingerprint(VOCData(profile.data_root(), name, {0: "a"})) for name in ("train", "val")
    }
    with monkeypatch.context() as patch:
        patch.setattr("walkthrough.records.run._fingerprint", lambda root, list_name: earlier[list_name])
        run = Run.of(profile, profile.model_config())
        run.write_training_record(3.0)
        run.write_evaluation_record(profile.evaluation, run.evaluation_values(profile.evaluation, COUNTS, 2.0), COUNTS)
    state = DeepLabV3(run.config).state_dict()
    for folder in (run.folder, run.folder.with_name(f"{run.name}.20261126-120000")):
        for name in ("checkpoint", "best"):
            save_checkpoint(folder / f"{name}.safetensors", Checkpoint(3, 1.5, run.identity, state, {}, 7.5))
    return run


def test_run_is_found_under_its_new_name(old, profile, migrate, voc_root):
    folders = [str(old.folder.parent), str(old.record_folder().parent)]
    new = Run(profile, old.identity | {"data": old.identity["data"] | {"fingerprint": fingerprint(voc_root, "train")}})
    for _ in range(2):  # the second time there is nothing to do
        migrate.main(["--data", str(voc_root.parent), *folders])
        found = [path.name for path in sorted(old.folder.parent.iterdir())]
        assert found == [new.name, f"{new.name}.20261126-120000"] and new.name != old.name
        (record,) = catalogue.run_records(profile.name)
        assert record.name == new.name and not record.has_problem and len(record.evaluations) == 1
        assert record.values["settings"] == new.identity
        assert record.evaluations[0].values["fingerprint"] == fingerprint(voc_root, "val")
        assert (new.confusion_counts(profile.evaluation) == COUNTS).all()
    for name in ("checkpoint", "best"):
        checkpoint = load_checkpoint(new.folder / f"{name}.safetensors")
        assert checkpoint.settings == new.identity
        assert (checkpoint.step, checkpoint.seconds, checkpoint.score) == (3, 1.5, 7.5)


def test_records_of_other_data_keep_their_names(old, migrate, tmp_path):
    values = (old.record_folder() / "run.json").read_bytes()
    migrate.main([str(old.record_folder().parent)])
    assert (old.record_folder() / "run.json").read_bytes() == values
    assert json.loads(values)["run"] == old.name
