"""The benchmark of the data pipeline: its sources, its arithmetic, its record."""

import json

import numpy as np
import pytest
from conftest import write_voc

from deeplabv3.data import voc
from deeplabv3.errors import UserError
from walkthrough.bench import pipeline as bench
from walkthrough.bench.pipeline import PipelineBench, all_workers, render
from walkthrough.cli import main

TINY = ["--crop-size", "33", "--batch-size", "2", "--batches", "2", "--rounds", "3"]


def test_command_measures_files_and_memory(voc_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(voc, "allowance", lambda: 10**9)
    file = tmp_path / "bench.json"
    options = ["--data", str(voc_root), "--workers", "0", "1", "--target-rate", "100", "--json", str(file)]
    assert main(["bench", "pipeline", *TINY, *options]) == 0
    printed, result = capsys.readouterr().out, json.loads(file.read_text())
    assert render(result) in printed
    assert str(tmp_path) not in json.dumps(result)
    assert result["images"] == 6 and result["decoded_bytes"] > 4 * 6 * 37 * 40
    assert [(row["source"], row["workers"]) for row in result["rows"]] == [
        ("files", 0), ("memory", 0), ("files", 1), ("memory", 1),
    ]  # fmt: skip
    for row in result["rows"]:
        assert len(row["seconds"]) == 3
        assert row["crops_per_second"] == pytest.approx(1 / np.median(row["seconds"]))
        assert row["cores_needed"] == pytest.approx(130 * row["core_seconds_per_crop"])
    assert min(result["parts"].values()) >= 0 < result["parts"]["read and decode"]


def test_images_beyond_memory_are_not_cached(voc_root, monkeypatch, capsys):
    monkeypatch.setattr(voc, "allowance", lambda: 0)
    assert main(["bench", "pipeline", *TINY, "--data", str(voc_root), "--workers", "0"]) == 0
    printed = capsys.readouterr().out
    assert "do not fit into a quarter of the free memory" in printed
    assert "\nmemory" not in printed


def test_worker_startup_is_not_counted(monkeypatch, tmp_path):
    """Workers that take 10 s of the cores to start, and 0.5 s a batch."""
    cpu = [0.0]

    def batches(samples, first, last, workers):
        cpu[0] += 10
        for _ in range(first, last):
            cpu[0] += 0.5
            yield

    monkeypatch.setattr(bench, "batches", batches)
    monkeypatch.setattr(bench, "_cpu_seconds", lambda: cpu[0])
    tiny = PipelineBench(str(write_voc(tmp_path / "images")), batch_size=2, batches=5)
    _, seconds = tiny._time_crop(None, workers=4)
    assert seconds == pytest.approx(0.25)


def test_synthetic_images_are_the_default(capsys):
    assert main(["bench", "pipeline", *TINY, "--workers", "0", "--images", "2"]) == 0
    assert "of 2 images (synthetic, enlarged" in capsys.readouterr().out


def test_workers_go_up_to_core_count(monkeypatch):
    for cores, expected in ((1, (0, 1)), (2, (0, 1, 2)), (6, (0, 1, 2, 4, 6)), (16, (0, 1, 2, 4, 8, 16))):
        monkeypatch.setattr(bench, "available_cpus", lambda cores=cores: cores)
        assert all_workers() == expected


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"images": 0}, "images"),
        ({"crop_size": 0}, "crop_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"batches": 0}, "batches"),
        ({"rounds": 2}, "rounds"),
        ({"workers": (0, -1)}, "workers"),
        ({"target_rate": 0}, "target_rate"),
        ({"data": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_wrong_setting_is_named(changes, word):
    with pytest.raises(UserError, match=word):
        PipelineBench(**changes).run()
