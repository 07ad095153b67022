"""Records are named by everything that determines a run and by nothing else, and are complete or absent."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_label, write_voc
from PIL import Image

from deeplabv3.config import MULTI_SCALE, EvaluationConfig, ModelConfig, TrainingConfig
from deeplabv3.data.voc import fingerprint
from deeplabv3.errors import UserError
from deeplabv3.evaluation.metrics import mean_iou, pixel_accuracy
from walkthrough import paths
from walkthrough.profiles import load_profile, with_data
from walkthrough.records import catalogue, naming, store
from walkthrough.records import run as records
from walkthrough.records.catalogue import all_counts, all_records
from walkthrough.records.run import Run


@pytest.fixture
def run(profile) -> Run:
    return Run.of(profile, profile.model_config())


def write(run: Run, counts: np.ndarray) -> dict:
    """An evaluation's record with the profile's own strategy; its values."""
    values = run.evaluation_values(run.profile.evaluation, counts, 2.0)
    run.write_evaluation_record(run.profile.evaluation, values, counts)
    return values


COUNTS = np.array([[[5, 1, 0], [0, 3, 0], [0, 0, 0]], [[7, 0, 0], [2, 2, 0], [0, 0, 0]]])


def test_name_describes_the_run(run, profile):
    assert run.name.startswith("aspp-small_resnet20-os16-")
    cascade = profile.model_config(head="cascade", last_block=6, output_stride=32)
    assert Run.of(profile, cascade).name.startswith("block6-small_resnet20-os32-")
    assert (run.config, run.training, run.seed) == (profile.model_config(), profile.training, 0)
    assert json.loads(json.dumps(run.identity)) == run.identity


def test_name_depends_on_everything_determining_the_result(run, profile, tmp_path):
    other_data = with_data(profile, write_voc(tmp_path / "other", seed=1))
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"1")
    wider = replace(profile, model=replace(profile.model, dropout=0.2))
    others = [
        Run.of(replace(profile, seed=2), profile.model_config()),
        Run.of(profile, profile.model_config(multi_grid=(1, 1, 1))),
        Run.of(profile, profile.model_config(atrous_rates=(6, 12, 24))),
        Run.of(profile, profile.model_config(head="v2")),
        Run.of(wider, wider.model_config()),
        *(
            Run.of(replace(profile, training=replace(profile.training, **change)), profile.model_config())
            for change in ({"lr": 0.06}, {"iterations": 4}, {"flip": False}, {"scales": (1.0,)}, {"crop_size": 49})
        ),
        Run.of(other_data, profile.model_config()),
        Run.of(replace(profile, data=replace(profile.data, train_list="trainval")), profile.model_config()),
        Run.of(with_data(profile, backbone_weights=weights), profile.model_config()),
    ]
    names = {run.name, *(other.name for other in others)}
    assert len(names) == len(others) + 1
    assert all(other != run for other in others)


def test_corrected_labels_of_equal_size_are_another_run(run, profile, voc_root):
    """Classes exchanged in a label: the file's size is the same, and the result of the old labels is not the new's."""
    changed = False
    for path in sorted((voc_root / "SegmentationClass").iterdir()):
        size = path.stat().st_size
        with Image.open(path) as image:
            values = np.asarray(image)
        write_label(path, np.where(values == 3, 7, np.where(values == 7, 3, values)).astype(np.uint8))
        changed |= path.stat().st_size == size
    assert changed, "at least one label has its size"
    records._fingerprint.cache_clear()
    assert Run.of(profile, profile.model_config()).name != run.name


def test_name_depends_on_nothing_else(run, profile, tmp_path, voc_root):
    moved = tmp_path / "moved"
    voc_root.rename(moved)
    records._fingerprint.cache_clear()
    runtime = replace(profile.runtime, num_workers=3, parallel_runs=0, eval_batch_size=7)
    same = replace(with_data(profile, moved), runtime=runtime, title="x", name="other")
    assert Run.of(same, same.model_config()).name == run.name


def test_name_is_unchanged_by_added_settings(run):
    """Early records do not state the setting; its default is what the code did then."""
    for part, defaults in (("model", ModelConfig()), ("training", TrainingConfig())):
        for key, value in list(run.identity[part].items()):
            if json.loads(json.dumps(getattr(defaults, key))) == value:
                identity = copy.deepcopy(run.identity)
                del identity[part][key]
                assert Run(run.profile, identity).name == run.name


def test_published_run_name_is_unchanged():
    """Committed records are found by name: a change of the naming would orphan them."""
    identity = {
        "results_version": 1,
        "model": {"num_classes": 7, "backbone": "mobilenet_v2", "output_stride": 16, "multi_grid": [1, 2, 4]},
        "training": {"iterations": 5000, "batch_size": 8, "crop_size": 257, "lr": 0.02},
        "data": {"fingerprint": "0123456789abcdef", "list": "trainaug", "classes": {"0": "background"}},
        "backbone_weights": "0123456789abcdef",
        "seed": 0,
    }
    assert Run(None, identity).name == "aspp-mobilenet_v2-os16-f503cff82943"


PUBLISHED = {
    "eval-f20d14dc5ea8": EvaluationConfig(16, padding="tight"),
    "eval-2ff9481c5dc2": EvaluationConfig(8, padding="tight"),
    "eval-f2ab3ed8a00a": EvaluationConfig(8, MULTI_SCALE, padding="tight"),
    "eval-7bbfdb11b6de": EvaluationConfig(8, MULTI_SCALE, True, padding="tight"),
    "eval-e458506e9fb1": EvaluationConfig(16, padding="crop"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_evaluation_names_are_unchanged(name, monkeypatch):
    """A setting that is added later is in the name where it differs from its default alone."""
    monkeypatch.setattr(records, "_fingerprint", lambda root, list_name: "a57482dff88c4909")
    identity = {"model": {}, "training": {}}
    assert Run(load_profile("mobile"), identity).evaluation_name(PUBLISHED[name]) == name
    assert list((paths.home() / "data" / "records" / "mobile").glob(f"*/{name}.npz"))


COMMITTED = sorted((paths.home() / "data" / "records").glob("*/*/run.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_published_values_follow_from_their_counts(path):
    """No record was edited by hand: the mIoU is that of the counts beside it."""
    for beside in sorted(path.parent.glob("eval-*.json")):
        record = store.read_json(beside)
        confusions = store.read_counts(beside, beside.with_suffix(".npz").read_bytes())
        assert len(confusions) == record["images"]
        assert record["miou"] == round(mean_iou(confusions.sum(axis=0)), 3)
        assert record["pixel_accuracy"] == round(pixel_accuracy(confusions.sum(axis=0)), 3)


def test_written_record_is_read_back(run, profile, workspace):
    settings = profile.evaluation
    assert run.training_record() is None
    assert run.evaluation_record(settings) is None
    assert run.confusion_counts(settings) is None
    run.write_training_record(12.34)
    written = json.loads(json.dumps(write(run, COUNTS)))
    assert run.evaluation_record(settings) == written
    assert np.array_equal(run.confusion_counts(settings), COUNTS)
    assert run.confusion_counts(settings).dtype == np.int64
    # class 0: 12 of 12 + 2 + 1, class 1: 5 of 5 + 1 + 2
    assert written["class_iou"] == {"background": 80.0, "square": 62.5, "disc": None}
    assert written["miou"] == pytest.approx(71.25)
    assert written["miou_all_classes"] == pytest.approx(47.5)
    assert written["pixel_accuracy"] == 85.0
    assert (written["images"], written["list"], written["run"]) == (2, "val", run.name)
    training = run.training_record()
    assert (training["seconds"], training["settings"]) == (12.3, run.identity)
    assert training["images_per_second"] == pytest.approx(6 / 12.34, abs=0.01)
    assert {"device", "versions", "commit", "peak_memory_mib", "threads"} <= training.keys()
    assert {"device", "versions", "commit", "peak_memory_mib", "threads"} <= written.keys()
    assert written["images_per_second"] == pytest.approx(1.0)  # two images in two seconds
    assert written["fingerprint"] == fingerprint(profile.data_root(), "val")
    assert run.record_folder() == workspace / "records" / "tiny-tests" / run.name
    assert all_records("tiny-tests") == [(training, [written])]


def test_strategies_have_separate_records(run, profile):
    strategies = [
        EvaluationConfig(crop_size=65),
        EvaluationConfig(crop_size=65, output_stride=8),
        EvaluationConfig(crop_size=65, flip=True),
        EvaluationConfig(crop_size=65, scales=(0.5, 1.0)),
        EvaluationConfig(crop_size=65, padding="tight"),
        EvaluationConfig(crop_size=97),
        EvaluationConfig(crop_size=65, precision="bfloat16"),
    ]
    names = [run.evaluation_name(settings) for settings in strategies]
    assert len(set(names)) == len(names)
    assert run.evaluation_name(EvaluationConfig(crop_size=65, scales=[0.5, 1.0])) == names[3]
    other = Run(replace(profile, data=replace(profile.data, val_list="trainval")), run.identity)
    assert other.evaluation_name(strategies[0]) not in names


@pytest.mark.parametrize("failing", [".npz", ".json"])
def test_interrupted_write_leaves_no_record(run, profile, monkeypatch, failing):
    """A killed writer never leaves a JSON without its counts."""
    write_atomically = records.write_atomically

    def killed(path, content):
        if path.suffix == failing:
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr(records, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        write(run, COUNTS)
    assert run.evaluation_record(profile.evaluation) is None
    monkeypatch.undo()


def test_full_disk_is_a_user_error_without_leftovers(run, full_disk):
    full_disk()
    for write_it in (lambda: run.write_training_record(1.0), lambda: write(run, COUNTS)):
        with pytest.raises(UserError, match=r"\.(json|npz) cannot be written .*No space left.*; make room"):
            write_it()
    assert list(run.record_folder().iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_damaged_record_error_names_the_file(run, profile, content):
    run.write_training_record(1.0)
    write(run, COUNTS)
    for name, read in (
        ("run.json", run.training_record),
        (run.evaluation_name(profile.evaluation) + ".json", lambda: run.evaluation_record(profile.evaluation)),
    ):
        (run.record_folder() / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read()
    assert all_records("tiny-tests") == []
    assert all_counts("tiny-tests", run.name) == {}


@pytest.mark.parametrize("spoil", ["empty", "text", "half", "flipped", "other", "missing"])
def test_damaged_counts_invalidate_the_record(run, profile, capsys, spoil):
    """A record whose counts are damaged is missing, and both are named."""
    write(run, np.random.default_rng(0).integers(0, 9999, (50, 3, 3)))
    settings = profile.evaluation
    path = run.record_folder() / (run.evaluation_name(settings) + ".npz")
    assert run.confusion_counts(settings).shape == (50, 3, 3)
    whole = path.read_bytes()
    if spoil == "other":
        np.savez(path, something=np.zeros(3))
    elif spoil == "missing":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF] * 40) + whole[middle + 40 :]
        path.write_bytes({"empty": b"", "text": b"<html>", "half": whole[:middle], "flipped": flipped}[spoil])
    assert run.confusion_counts(settings) is None
    assert run.evaluation_record(settings) is None
    assert capsys.readouterr().err.splitlines() == [
        f"record {path.with_suffix('.json')} is not used: its counts {path.name} are missing or damaged; evaluating "
        "the run again makes it anew, 'deeplabv3 records prune' deletes it."
    ]
    (record,) = catalogue.run_records("tiny-tests")
    problem = record.evaluations[0].problem
    assert problem.startswith("damaged") and path.name in problem
    assert all_counts("tiny-tests", run.name) == {}
    write(run, COUNTS)
    assert np.array_equal(run.confusion_counts(settings), COUNTS), "measured again, it is there again"


def test_flipped_bit_is_detected(run, profile):
    counts = np.random.default_rng(0).integers(0, 9999, (20, 3, 3))
    write(run, counts)
    path = run.record_folder() / (run.evaluation_name(profile.evaluation) + ".npz")
    whole = path.read_bytes()
    for offset in range(0, len(whole), 5):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 16]) + whole[offset + 1 :])
        assert run.confusion_counts(profile.evaluation) is None


def test_project_and_workspace_records_are_merged(run, profile, tmp_path, monkeypatch):
    """A run that came with the project and was evaluated here: neither place hides what only the other has."""
    (tmp_path / "home" / "data" / "paper").mkdir(parents=True)
    monkeypatch.setenv("DEEPLABV3_HOME", str(tmp_path / "home"))
    run.write_training_record(1.0)
    committed = write(run, COUNTS)
    project = tmp_path / "home" / "data" / "records" / "tiny-tests"
    project.parent.mkdir()
    run.record_folder().parent.rename(project)
    finer = replace(profile.evaluation, output_stride=8)
    here = run.evaluation_values(finer, COUNTS, 3.0)
    run.write_evaluation_record(finer, here, COUNTS)
    assert not (run.record_folder() / "run.json").exists()
    ((training, evaluations),) = all_records("tiny-tests")
    assert training == run.training_record()
    assert sorted(record["settings"]["output_stride"] for record in evaluations) == [8, 16]
    counts = all_counts("tiny-tests", run.name)
    assert set(counts) == {profile.evaluation, finer}
    assert all(np.array_equal(found, COUNTS) for found in counts.values())
    assert all_counts("tiny-tests", "another-run") == {}

    again = committed | {"seconds": 99.0}
    run.write_evaluation_record(profile.evaluation, again, COUNTS)
    ((_, evaluations),) = all_records("tiny-tests")
    assert sorted(record["seconds"] for record in evaluations) == [3.0, 99.0], "the workspace's goes first"
    assert run.evaluation_record(profile.evaluation)["seconds"] == 99.0


def test_unknown_profile_has_no_records():
    assert all_records("no-such-profile") == []


def test_records_made_in_checkout_are_apart_from_shipped(profile, ship, workspace, monkeypatch):
    """Where the workspace is the checkout's ``data/``, as by default, nothing that ships is overwritten."""
    run = Run.of(profile, profile.model_config())
    write(run, COUNTS)
    shipped = ship()
    monkeypatch.setenv("DEEPLABV3_WORKSPACE", str(shipped.parent))
    write(run, COUNTS * 2)
    assert run.record_folder() == shipped.parent / "local_records" / "tiny-tests" / run.name
    assert np.array_equal(run.confusion_counts(profile.evaluation), COUNTS * 2)
    (shipped / "tiny-tests" / run.name / "log.csv").write_text("step,loss\n")
    assert run.log() == shipped / "tiny-tests" / run.name / "log.csv"
    run.folder.mkdir(parents=True)
    (run.folder / "log.csv").write_text("step,loss\n")
    assert run.log() == run.folder / "log.csv"
    for source, factor in (("local", 2), ("shipped", 1)):
        with naming.reading(source):
            assert np.array_equal(run.confusion_counts(profile.evaluation), COUNTS * factor)
    assert len(naming.record_bases("tiny-tests")) == 2
    monkeypatch.setenv("DEEPLABV3_RECORDS", "mine")
    with pytest.raises(UserError, match="DEEPLABV3_RECORDS"):
        naming.record_bases("tiny-tests")
