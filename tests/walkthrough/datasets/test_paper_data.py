"""COCO and Cityscapes in miniature: from the export to the row of Table 6, and to Table 12."""

import json
import re
from pathlib import Path

import pytest
import tiny_exports
import yaml
from conftest import profile_values
from tiny_exports import NAMES

from walkthrough.cli import main
from walkthrough.experiments import estimate
from walkthrough.paper import tables
from walkthrough.profiles import load_profile
from walkthrough.records.cells import cell_jobs, waits_for
from walkthrough.records.run import file_hash

COCO_ROW = {"coco": "yes"}
BIRD, STREET = {0: "background", 3: "bird"}, {0: "road", 13: "car"}


def write_profile(path: Path, root: Path, classes: dict[int, str], **changes) -> str:
    """A profile of three training steps on ``classes``, which are fewer than the data's: each has to be there."""
    values = profile_values(root, classes) | changes
    values["data"]["unlisted_labels"] = "ignore"
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.fixture
def coco(tmp_path, voc_root) -> tuple[str, str]:
    """Profiles of a network on COCO, and of one on VOC whose Table 6 starts from it."""
    export, target = tiny_exports.voc_coco(tmp_path / "export", "bird"), tmp_path / "coco"
    assert main(["data", "import", "coco", str(export), str(target), "--classes", "voc", "--min-pixels", "92"]) == 0
    source = write_profile(tmp_path / "tiny_coco.yaml", target, BIRD)
    return source, write_profile(tmp_path / "tiny_voc.yaml", voc_root, BIRD, coco=source)


def value(told: str) -> list[str]:
    """The cells of Table 6's row with COCO."""
    return next(line.split() for line in told.splitlines() if "82.70" in line)


@pytest.fixture
def known_speed(monkeypatch) -> None:
    """No step is timed."""
    monkeypatch.setattr(estimate, "timed_speed", lambda tasks: estimate.Throughput(1e-12, 1e-12, "by a test"))


def test_row_with_coco_is_missing_until_network_is_there(coco, capsys, known_speed):
    source, profile = coco
    assert main(["table", "6", "--profile", profile]) == 0
    told = capsys.readouterr().out
    assert value(told)[-1] == "missing" and "missing: Pre-training on COCO" in told
    assert f"flip coco waits for the network that it starts from: deeplabv3 train --profile {source}\n" in told
    assert main(["sweep", "--profile", profile, "--tables", "6", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "1 runs and 4 evaluations" in told and "flip coco waits for the network" in told


def test_row_with_coco_is_run_from_network(coco, workspace, trained, capsys):
    source, name = coco
    assert main(["train", "--profile", source]) == 0
    assert main(["sweep", "--profile", name, "--tables", "6"]) == 0
    assert "Table 6 complete" in capsys.readouterr().out
    (start,) = (workspace / "runs" / "tiny_coco").iterdir()
    profile = load_profile(name)
    ((run, settings),) = cell_jobs(tables.load(6, profile.extra_data).cell(**COCO_ROW), profile)
    record = run.training_record()
    assert record["started_from"] == start.name and len(trained) == 2
    assert record["settings"]["init_from"] == file_hash("start", str(start / "checkpoint.safetensors"))
    assert record["settings"]["training"]["lr"] == round(0.05 / 70, 6)  # 0.0001 where the paper has 0.007
    assert (settings.output_stride, len(settings.scales), settings.flip) == (8, 6, True)

    assert main(["train", "--profile", name, "--init-from", start.name, "--set", "training.lr=0.000714"]) == 0
    assert f"run {run.name}\n" in capsys.readouterr().out

    (start / "checkpoint.safetensors").unlink()  # the records alone say what the row started from
    assert main(["table", "6", "--profile", name]) == 0
    told = capsys.readouterr().out
    assert float(value(told)[5]) == pytest.approx(run.evaluation_record(settings)["miou"], abs=0.006)
    assert "waits" not in told and "this network: " in told.split("Pre-training on COCO")[0].splitlines()[-1]


def test_network_on_coco_is_half_trained_and_row_waits(coco, workspace):
    source, name = coco
    assert main(["train", "--profile", source]) == 0
    (record,) = (workspace / "records" / "tiny_coco").glob("*/run.json")
    record.unlink()
    profile = load_profile(name)
    cell = tables.load(6, profile.extra_data).cell(**COCO_ROW)
    assert waits_for(cell, profile) == f"deeplabv3 train --profile {source}" and not cell_jobs(cell, profile)


@pytest.mark.parametrize("name", ["offline", "mobile", "mobile_gpu", "voc_coco", "voc_stage2", "cityscapes_coarse"])
def test_other_profiles_run_neither(name):
    profile = load_profile(name)
    assert profile.extra_data == ()
    cells = [tables.load(6).cell(**COCO_ROW), *tables.load(12).cells]
    assert not any(job for cell in cells for job in cell_jobs(cell, profile))


@pytest.fixture
def cityscapes(tmp_path) -> Path:
    root, target = tiny_exports.coarse_cityscapes(tmp_path / "export"), tmp_path / "cityscapes"
    assert main(["data", "import", "cityscapes", str(root), str(target)]) == 0
    return target


def test_table_12_is_filled_on_cityscapes(cityscapes, tmp_path, trained, capsys):
    name = write_profile(tmp_path / "tiny_fine.yaml", cityscapes, STREET, cityscapes=True)
    assert main(["table", "12", "--profile", name, "--run"]) == 0
    told = capsys.readouterr().out
    assert told.count("missing") == 0 and len(trained) == 1 and "On Cityscapes output stride 8" in told
    profile = load_profile(name)
    jobs = [job for cell in tables.load(12, profile.extra_data).cells for job in cell_jobs(cell, profile)]
    assert [(s.output_stride, s.scales, s.flip) for _, s in jobs] == [
        (16, (1.0,), False), (8, (1.0,), False), (8, (0.75, 1.0, 1.25), False), (8, (0.75, 1.0, 1.25), True)
    ]  # fmt: skip
    for run, settings in jobs:
        assert f"{run.evaluation_record(settings)['miou']:.1f}" in told
    assert main(["sweep", "--profile", name]) == 0
    assert "Table 12 complete" in capsys.readouterr().out


def test_second_stage_sees_coarse_labels(cityscapes, tmp_path, workspace, capsys):
    first = write_profile(tmp_path / "tiny_fine.yaml", cityscapes, STREET, cityscapes=True)
    assert main(["train", "--profile", first]) == 0
    (run,) = (workspace / "runs" / "tiny_fine").iterdir()
    second = write_profile(tmp_path / "tiny_coarse.yaml", cityscapes, STREET)
    changes = ["data.train_list=trainval_coarse", "training.freeze_batch_norm=true", "model.output_stride=8"]
    options = [part for change in changes for part in ("--set", change)]
    assert main(["train", "--profile", second, "--init-from", run.name, *options]) == 0
    assert "note: 1 of these 1 images were trained on" in capsys.readouterr().out
    (record,) = (workspace / "records" / "tiny_coarse").glob("*/run.json")
    assert json.loads(record.read_text())["settings"]["data"]["list"] == "trainval_coarse"
    assert NAMES[3] in (cityscapes / "ImageSets/Segmentation/trainval_coarse.txt").read_text()


@pytest.mark.parametrize("name", ["voc_coco", "cityscapes_fine", "cityscapes_coarse"])
def test_dry_run_without_images_prints_steps_and_hours(name, workspace, capsys, known_speed):
    assert main(["train", "--profile", name, "--dry-run"]) == 0
    told = capsys.readouterr().out
    training = load_profile(name).training
    assert f"{training.iterations:,} steps of 16 crops of {training.crop_size} pixels" in told
    assert re.search(r" (h|days), estimated by a test", told) and "does not exist" in told
    assert not (workspace / "runs").exists()


def test_dry_run_counts_steps_that_are_left(coco, workspace, capsys, known_speed):
    source, _ = coco
    assert main(["train", "--profile", source]) == 0
    (run,) = (workspace / "runs" / "tiny_coco").iterdir()
    capsys.readouterr()
    assert main(["train", "--profile", source, "--dry-run", "--set", "training.iterations=7"]) == 0
    assert "7 steps of 2 crops of 33 pixels at output stride 16" in capsys.readouterr().out
    assert main(["train", "--profile", source, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"run {run.name}, seed 0" in told and "0 steps of 2 crops" in told and "recorded run" in told
