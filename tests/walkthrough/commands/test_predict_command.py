"""The commands around a trained network: predict, predict-test, export."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, read_until
from PIL import Image

from deeplabv3.config import VOC_CLASSES
from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from walkthrough.cli import main


def save(path: Path, model, classes: dict[int, str]) -> Path:
    """A checkpoint of ``model``."""
    settings = {"model": vars(model.config), "data": {"classes": {str(value): name for value, name in classes.items()}}}
    save_checkpoint(path, Checkpoint(1, 1.0, settings, model.state_dict(), {}))
    return path


@pytest.fixture
def weights(tmp_path, make_model) -> str:
    """A checkpoint of a network for the classes of the tests."""
    return str(save(tmp_path / "checkpoint.safetensors", make_model(), CLASSES))


def make_photo(path: Path, height: int = 60, width: int = 80, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def table(folder: Path) -> list[dict]:
    with open(folder / "shares.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_predict_writes_overlay_labels_and_shares(tmp_path, weights, capsys):
    photo = make_photo(tmp_path / "trip" / "cat.png")
    out = tmp_path / "out"
    assert main(["predict", str(photo), "--weights", weights, "--output", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["cat_classes.png", "cat_overlay.jpg", "shares.csv"]
    labels = np.asarray(Image.open(out / "cat_classes.png"))
    assert labels.shape == (60, 80)
    assert set(np.unique(labels)) <= set(CLASSES) and len(np.unique(labels)) > 1, "the data set's own label values"
    assert Image.open(out / "cat_overlay.jpg").size == (80, 60)
    (row,) = table(out)
    assert (row["file"], row["results"], row["width"], row["height"]) == (str(photo), "cat", "80", "60")
    for value, name in CLASSES.items():
        assert float(row[f"{name} %"]) == pytest.approx(100 * (labels == value).mean(), abs=0.01)
    line = capsys.readouterr().out.splitlines()[0]
    assert re.match(rf"{re.escape(str(photo))}  80 x 60  \d+\.\d\d s  \w+ \d+\.\d %", line)
    shares = [float(share) for share in re.findall(r"([\d.]+) %", line)]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.3)


def test_broken_image_does_not_stop_the_others(tmp_path, weights, capsys):
    folder, out = tmp_path / "photos", tmp_path / "out"
    for number, name in enumerate(("a.png", "b.jpg", "c.webp")):
        make_photo(folder / name, seed=number)
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    assert main(["predict", str(folder), "--weights", weights, "--output", str(out)]) == 1
    assert [row["results"] for row in table(out)] == ["a", "c"]
    assert not list(out.glob("b_*"))
    errors = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.startswith("deeplabv3:")]
    assert len(errors) == 1 and "b.jpg" in errors[0]


def test_no_table_if_all_images_are_broken(tmp_path, weights, capsys):
    (tmp_path / "a.png").write_text("no image")
    assert main(["predict", str(tmp_path / "a.png"), "--weights", weights, "--output", str(tmp_path / "out")]) == 1
    assert not list((tmp_path / "out").iterdir())
    assert "Traceback" not in capsys.readouterr().err


def test_images_of_one_name_have_two_results(tmp_path, weights):
    first, second = make_photo(tmp_path / "a" / "cat.png", 40, 50), make_photo(tmp_path / "b" / "cat.png", 50, 40)
    out = tmp_path / "out"
    assert main(["predict", str(first), str(second), "--weights", weights, "--output", str(out)]) == 0
    assert [Image.open(out / f"{name}_classes.png").size for name in ("cat", "cat_2")] == [(50, 40), (40, 50)]
    assert [row["file"] for row in table(out)] == [str(first), str(second)]


def test_strategy_options_change_the_prediction(tmp_path, weights):
    photo = make_photo(tmp_path / "cat.png")
    found = []
    for number, extra in enumerate(
        [[], ["--output-stride", "16"], ["--flip"], ["--scales", "0.5,2"], ["--multi-scale"], ["--max-size", "40"]]
    ):
        out = tmp_path / str(number)
        assert main(["predict", "--weights", weights, "--output", str(out), *extra, str(photo)]) == 0
        found.append((out / "cat_classes.png").read_bytes())
    assert len(set(found)) == 6


def test_class_named_like_a_column(tmp_path, make_model):
    classes = {0: "file", 1: "width", 2: "results"}
    weights = save(tmp_path / "checkpoint.safetensors", make_model(), classes)
    photo, out = make_photo(tmp_path / "cat.png"), tmp_path / "out"
    assert main(["predict", str(photo), "--weights", str(weights), "--output", str(out)]) == 0
    (row,) = table(out)
    assert (row["file"], row["results"], row["width"]) == (str(photo), "cat", "80")
    assert sum(float(row[f"{name} %"]) for name in classes.values()) == pytest.approx(100, abs=0.03)


def user_file(path: Path) -> tuple[Path, bytes]:
    """A file of the user, which no command may overwrite."""
    make_photo(path, seed=5)
    return path, path.read_bytes()


@pytest.mark.parametrize("inputs", [["."], ["cat.jpg"], ["cat.jpg", "cat_overlay.jpg"], ["*.jpg"]])
def test_output_folder_holds_no_inputs(tmp_path, weights, monkeypatch, capsys, inputs):
    (tmp_path / "trip").mkdir()
    monkeypatch.chdir(tmp_path / "trip")
    files = [user_file(Path("cat.jpg")), user_file(Path("cat_overlay.jpg"))]
    assert main(["predict", *inputs, "--weights", weights, "--output", "."]) == 1
    assert "lies in . itself; name another folder with --output" in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in files)
    assert len(list(Path().iterdir())) == 2


@pytest.mark.parametrize("name", ["cat_overlay.jpg", "cat_classes.png", "shares.csv"])
def test_only_earlier_results_are_overwritten(tmp_path, weights, capsys, name):
    photo, out = make_photo(tmp_path / "trip" / "cat.jpg"), tmp_path / "out"
    out.mkdir()
    path, content = user_file(out / "own.png")
    path = path.rename(out / name)
    command = ["predict", str(photo), "--weights", weights, "--output", str(out)]
    assert main(command) == 1
    assert f"{name} exists and is not from an earlier prediction" in capsys.readouterr().err
    assert path.read_bytes() == content and list(out.iterdir()) == [path]
    path.unlink()
    assert main(command) == 0
    first = (out / "cat_classes.png").read_bytes()
    assert main([*command, "--output-stride", "16"]) == 0
    assert (out / "cat_classes.png").read_bytes() != first


def test_full_disk_leaves_no_partial_file(tmp_path, weights, full_disk, capsys):
    """It stops at the first image: the others would not fit either."""
    for number in range(3):
        make_photo(tmp_path / "trip" / f"{number}.png", seed=number)
    full_disk()
    out = tmp_path / "out"
    assert main(["predict", str(tmp_path / "trip"), "--weights", weights, "--output", str(out)]) == 1
    captured = capsys.readouterr().err
    assert "Traceback" not in captured and captured.count("deeplabv3: ") == 1
    assert "No space left" in captured and "make room" in captured
    assert list(out.iterdir()) == []


def test_weights_by_run_folder_or_name(tmp_path, weights, workspace):
    photo = make_photo(tmp_path / "cat.png")
    folder = workspace / "runs" / "mobile" / "aspp-small-0123abcd"
    folder.mkdir(parents=True)
    Path(weights).rename(folder / "checkpoint.safetensors")
    for number, named in enumerate((str(folder), folder.name, "0123abcd")):
        out = tmp_path / str(number)
        assert main(["predict", str(photo), "--weights", named, "--output", str(out)]) == 0
        assert (out / "shares.csv").is_file()


def test_image_of_twenty_megapixels(tmp_path, weights):
    photo = make_photo(tmp_path / "large.jpg", 3648, 5472)
    assert main(["predict", str(photo), "--weights", weights, "--output", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "large_classes.png").size == (5472, 3648)
    assert Image.open(tmp_path / "out" / "large_overlay.jpg").size == (5472, 3648)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (900, 2)])
def test_images_of_odd_shapes(tmp_path, weights, size):
    photo = make_photo(tmp_path / "odd.png", *size)
    assert main(["predict", str(photo), "--weights", weights, "--output", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "odd_classes.png").size == size[::-1]


def test_ctrl_c_leaves_whole_files_and_table(tmp_path, weights):
    for number in range(200):
        make_photo(tmp_path / "photos" / f"{number:03}.png", 200, 300, number)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "walkthrough", "predict", str(tmp_path / "photos"), "--weights", weights,
               "--output", str(out), "--flip"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"})  # fmt: skip
    try:
        read_until(process.stdout, b"001.png")
        os.killpg(process.pid, signal.SIGINT)
        stderr = process.communicate(timeout=60)[1].decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 130 and "Traceback" not in stderr
    assert re.search(r"interrupted; \d+ of 200 images are done", stderr)
    done = [row["results"] for row in table(out)]
    assert 2 <= len(done) < 200
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    for name in done:
        Image.open(out / f"{name}_overlay.jpg").load()
        assert Image.open(out / f"{name}_classes.png").size == (300, 200)


def test_predict_test_end_to_end(tmp_path, voc_root, make_model, capsys):
    (voc_root / "ImageSets" / "Segmentation" / "test.txt").write_text("image_1\nimage_2\n")
    weights = save(tmp_path / "voc.safetensors", make_model(num_classes=21), dict(enumerate(VOC_CLASSES)))
    command = ["predict-test", "--weights", str(weights), "--data", str(voc_root), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "2 label files" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "results/VOC2012/Segmentation/comp6_test_cls").iterdir())) == 2
    assert main(command) == 0, "the same command again has nothing to do"
    assert main([*command, "--padding", "tight"]) == 1


@pytest.mark.parametrize(("kind", "name"), [("onnx", "network.onnx"), ("torch", "network.pt2")])
def test_export_end_to_end(tmp_path, weights, kind, name, capsys):
    pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    file = tmp_path / name
    assert main(["export", kind, str(file), "--weights", weights, "--output-stride", "8"]) == 0
    out = capsys.readouterr().out
    assert "logits (batch, 3, height, width), output stride 8" in out
    assert float(re.search(r"largest difference .*: ([\d.e-]+) \(", out)[1]) < 1e-3
    assert file.stat().st_size > 1e5


MISTAKES = {
    "empty folder": ["predict", "EMPTY", "--weights", "WEIGHTS"],
    "no match": ["predict", "nothing*.jpg", "--weights", "WEIGHTS"],
    "no such image": ["predict", "nowhere.jpg", "--weights", "WEIGHTS"],
    "no such weights": ["predict", "PHOTO", "--weights", "nowhere.safetensors"],
    "weights damaged": ["predict", "PHOTO", "--weights", "PHOTO"],
    "torchvision's of another kind": ["predict", "PHOTO", "--weights", "torchvision:resnet18"],
    "output stride": ["predict", "PHOTO", "--weights", "WEIGHTS", "--output-stride", "12"],
    "no such run": ["predict", "PHOTO", "--weights", "0123abcd"],
    "scale 0": ["predict", "PHOTO", "--weights", "WEIGHTS", "--scales", "0"],
    "scales apart": ["predict", "PHOTO", "--weights", "WEIGHTS", "--scales", "0.5;1"],
    "max size 0": ["predict", "PHOTO", "--weights", "WEIGHTS", "--max-size", "0"],
    "output is a file": ["predict", "PHOTO", "--weights", "WEIGHTS", "--output", "PHOTO"],
    "no test set": ["predict-test", "--weights", "WEIGHTS", "--data", "VOC"],
    "no devkit": ["predict-test", "--weights", "WEIGHTS", "--data", "EMPTY"],
    "not VOC's classes": ["predict-test", "--weights", "WEIGHTS", "--data", "TEST"],
    "export's name": ["export", "onnx", "network.pt", "--weights", "WEIGHTS"],
    "export's folder": ["export", "torch", "nowhere/network.pt2", "--weights", "WEIGHTS"],
    "export's output stride": ["export", "torch", "network.pt2", "--weights", "WEIGHTS", "--output-stride", "3"],
}


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES)
def test_user_error_is_one_sentence(arguments, tmp_path, voc_root, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    lists = voc_root / "ImageSets" / "Segmentation"
    if "TEST" in arguments:
        (lists / "test.txt").write_text("image_1\n")
    values = {"WEIGHTS": weights, "EMPTY": "empty", "VOC": str(voc_root), "TEST": str(voc_root)}
    values["PHOTO"] = str(make_photo(tmp_path / "photo.png"))
    before = set(tmp_path.rglob("*"))
    assert main([values.get(argument, argument) for argument in arguments]) == 1
    lines = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if line.strip() and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("deeplabv3: ") and len(lines[0]) > 30, lines
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "predictions", tmp_path / "submission"}


def test_torchvision_weights_predict(tmp_path):
    """Random weights in torchvision's file format."""
    from torchvision.models import segmentation

    torch.manual_seed(0)
    state = segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=21, aux_loss=True
    ).state_dict()
    torch.save(state, tmp_path / "deeplab.pth")
    photo = make_photo(tmp_path / "cat.jpg", 50, 70)
    out = tmp_path / "out"
    assert (
        main(["predict", str(photo), "--weights", f"torchvision:{tmp_path / 'deeplab.pth'}", "--output", str(out)]) == 0
    )
    assert list(table(out)[0])[5:] == [f"{name} %" for name in VOC_CLASSES]
