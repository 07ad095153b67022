"""The commands around a trained network: predict, predict-test, export."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CLASSES, read_until
from PIL import Image

from deeplabv3.config import VOC_CLASSES
from deeplabv3.errors import UserError
from deeplabv3.files import CHECKPOINT
from deeplabv3.model.checkpoint import Checkpoint, save_checkpoint
from walkthrough.cli import main
from walkthrough.commands import predict as module


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


def test_results_of_another_image_are_not_replaced(tmp_path, weights, capsys):
    """Cameras give many images one name, and all go to one folder by default."""
    out = ["--weights", weights, "--output", str(tmp_path / "out")]
    first, second = (make_photo(tmp_path / trip / "IMG_1.png", seed=number) for number, trip in enumerate("ab"))
    assert main(["predict", str(first), *out]) == main(["predict", str(first), *out]) == 0
    before = (tmp_path / "out" / "IMG_1_classes.png").read_bytes()
    assert main(["predict", str(second), *out]) == 1
    assert f"has results of {first}, which has {second}'s name" in capsys.readouterr().err
    assert (tmp_path / "out" / "IMG_1_classes.png").read_bytes() == before
    first.unlink()  # moved away, so that its results may go
    assert main(["predict", str(second), *out]) == 0


def test_names_that_are_long_or_not_utf_8(tmp_path, weights):
    photos, out = tmp_path / "photos", tmp_path / "out"
    make_photo(photos / "a.png")
    for name in (b"bad\xff.png", b"L" * 249 + b".png", "ß".encode() * 120 + b".png"):
        shutil.copy(photos / "a.png", os.fsencode(photos) + b"/" + name)
    assert main(["predict", str(photos), "--weights", weights, "--output", str(out)]) == 0
    with open(out / "shares.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(Path(row["file"]).is_file() for row in rows)
    assert len(list(out.glob("*_classes.png"))) == 4


def test_later_image_keeps_rows_of_earlier_results(tmp_path, weights, make_model):
    """Also those of other classes; without their files they go."""
    out, trip = tmp_path / "out", tmp_path / "trip"
    for number, name in enumerate("abc"):
        make_photo(trip / f"{name}.png", seed=number)
    assert main(["predict", str(trip), "--weights", weights, "--output", str(out)]) == 0
    before = table(out)
    (out / "a_overlay.jpg").unlink()
    assert main(["predict", str(trip / "b.png"), "--weights", weights, "--output", str(out)]) == 0
    assert [row["results"] for row in table(out)] == ["c", "b"]
    assert table(out)[0] == before[2]
    other = str(save(tmp_path / "other.safetensors", make_model(), {0: "background", 1: "disc", 2: "cat"}))
    assert main(["predict", str(trip / "a.png"), "--weights", other, "--output", str(out)]) == 0
    rows = table(out)
    assert [(row["results"], row["square %"] == "", row["cat %"] == "") for row in rows] == [
        ("c", False, True),
        ("b", False, True),
        ("a", True, False),
    ]
    assert {name: share for name, share in rows[0].items() if share} == before[2]


@pytest.mark.parametrize(("options", "expected"), [([], 385), (["--max-size", "129"], 129), (["--weights"], 513)])
def test_photographs_are_reduced_to_the_networks_size(tmp_path, weights, monkeypatch, options, expected):
    """The network in the library has a size of its own."""
    sizes = []

    def spy(path, name, network, max_size):
        sizes.append(max_size)
        raise UserError("seen")

    monkeypatch.setattr(module, "_predict", spy)
    named = [str(weights)] if options == ["--weights"] else []
    photo = make_photo(tmp_path / "photo.png")
    assert main(["predict", str(photo), *options, *named, "--output", str(tmp_path / "out")]) == 1
    assert sizes == [expected]


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


def lines_of(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def predicted(monkeypatch) -> list[str]:
    """Names of the images that are segmented from now on."""
    names, original = [], module._predict

    def note(path, name, *others):
        result = original(path, name, *others)
        names.append(name)
        return result

    monkeypatch.setattr(module, "_predict", note)
    return names


WAITING = """
import time
from walkthrough import cli
from walkthrough.commands import predict
def wait(path, name, *others, original=predict._predict):
    while name == "20" and not cli._stdout_is_closed():
        time.sleep(0.05)
    return original(path, name, *others)
predict._predict = wait
cli.script()
"""
"""The command that segments no image 20 before its standard output is closed: it does not end before the test acts."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_prediction_leaves_table_and_goes_on(tmp_path, weights, capsys, predicted, number):
    count = 40
    for image in range(count):
        make_photo(tmp_path / "photos" / f"{image:02}.png", 200, 300, image)
    out = tmp_path / "out"
    arguments = ["predict", str(tmp_path / "photos"), "--weights", weights, "--output", str(out), "--flip"]
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        read_until(process.stdout, b"19.png")
        os.killpg(process.pid, number)
        stderr = process.communicate(timeout=60)[1].decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 1, signal.SIGKILL: -9}[number]
    lines = lines_of(out / "shares.unfinished.csv")
    done = [line["results"] for line in lines if len(line["made from"] or "") == 12]
    assert len(done) == 20 and "Traceback" not in stderr
    if number != signal.SIGKILL:
        told = f"deeplabv3: interrupted; {len(done)} of {count} images are done, and the same command goes on."
        assert stderr.rstrip().splitlines()[-1] == told
        assert [row["results"] for row in table(out)] == done
        assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    for name in done:
        Image.open(out / f"{name}_overlay.jpg").load()
        assert Image.open(out / f"{name}_classes.png").size == (300, 200)

    capsys.readouterr()
    assert main(arguments) == 0
    assert f"{len(done)} of {count} images were done before" in capsys.readouterr().out
    assert len(predicted) == count - len(done) and not set(predicted) & set(done)
    assert [row["results"] for row in table(out)] == [f"{image:02}" for image in range(count)]
    for row, line in zip(table(out), lines, strict=False):
        assert row == {name: line[name] for name in row}
    assert not (out / "shares.unfinished.csv").exists()


@pytest.fixture
def half_done(tmp_path, weights, capsys) -> list[str]:
    """The command of a prediction that went well for a and c, and not for b, which is mended."""
    for number, name in enumerate("abc"):
        make_photo(tmp_path / "photos" / f"{name}.png", seed=number)
    broken = tmp_path / "photos" / "b.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    command = ["predict", str(tmp_path / "photos"), "--weights", weights, "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert [line["results"] for line in lines_of(tmp_path / "out" / "shares.unfinished.csv")] == ["a", "c"]
    broken.write_bytes(whole)
    capsys.readouterr()
    return command


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("nothing", "b"),
        ("another stride", "abc"),
        ("another network", "abc"),
        ("another image", "bc"),
        ("results gone", "ab"),
        ("line broken off", "bc"),
        ("table damaged", "abc"),
    ],
)
def test_only_what_is_done_with_these_inputs_is_kept(half_done, tmp_path, make_model, predicted, change, again):
    out, unfinished = tmp_path / "out", tmp_path / "out" / "shares.unfinished.csv"
    if change == "another stride":
        half_done += ["--output-stride", "16"]
    elif change == "another network":
        model = make_model()
        model.head.classifier.bias.data[1] += 9
        save(tmp_path / "checkpoint.safetensors", model, CLASSES)
    elif change == "another image":
        make_photo(tmp_path / "photos" / "c.png", seed=9)
    elif change == "results gone":
        (out / "a_overlay.jpg").unlink()
    elif change == "line broken off":
        unfinished.write_bytes(unfinished.read_bytes()[:-4])
    elif change == "table damaged":
        unfinished.write_bytes(b"file,results,width,height,seconds\xff\xfe\n\x00")
    assert main(half_done) == 0
    assert "".join(predicted) == again
    assert [row["results"] for row in table(out)] == ["a", "b", "c"]
    files = [f"{name}_{kind}" for name in "abc" for kind in ("classes.png", "overlay.jpg")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "shares.csv"])


def test_full_disk_on_the_way_leaves_what_is_done(tmp_path, weights, monkeypatch, full_disk, capsys, predicted):
    for number in range(4):
        make_photo(tmp_path / "photos" / f"{number}.png", seed=number)
    original = module._predict
    monkeypatch.setattr(module, "_predict", lambda *values: (len(predicted) == 2 and full_disk(), original(*values))[1])
    command = ["predict", str(tmp_path / "photos"), "--weights", weights, "--output", str(tmp_path / "out")]
    assert main(command) == 1
    assert "No space left" in capsys.readouterr().err
    assert [line["results"] for line in lines_of(tmp_path / "out" / "shares.unfinished.csv")] == ["0", "1"]
    monkeypatch.undo()
    assert main(command) == 0
    assert "2 of 4 images were done before" in capsys.readouterr().out
    assert [row["results"] for row in table(tmp_path / "out")] == ["0", "1", "2", "3"]


def test_closed_pipe_keeps_what_is_done(tmp_path, weights):
    """``predict … | head -1``."""
    for number in range(30):
        make_photo(tmp_path / "photos" / f"{number:02}.png", 200, 300, number)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, "predict", str(tmp_path / "photos"), "--weights", weights, "--output",
         str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert b"00.png" in process.stdout.readline()
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(timeout=60) == 141 and b"Error" not in stderr
    assert 1 <= len(table(out)) <= 21


def test_leftovers_of_killed_predictions_are_removed(tmp_path, weights):
    photo, out = make_photo(tmp_path / "cat.png"), tmp_path / "out"
    command = ["predict", str(photo), "--weights", weights, "--output", str(out)]
    assert main(command) == 0
    names = (".cat_overlay.0123abcd.partial.jpg", ".cat_classes.0123abcd.partial.png", ".shares.0123abcd.partial.csv")
    old, fresh, own = [out / name for name in names], out / ".dog_overlay.89abcdef.partial.jpg", out / ".own.jpg"
    for path in (*old, fresh, own):
        path.touch()
    for path in (*old, own):
        os.utime(path, (1, 1))
    assert main(command) == 0
    assert not any(path.exists() for path in old) and fresh.exists() and own.exists()


@pytest.fixture
def foreign(tmp_path, make_model, monkeypatch) -> Callable[[int], list[str]]:
    """``foreign(count)``: a command on a file that is taken for torchvision's network for so many classes."""

    def command(count: int) -> list[str]:
        from deeplabv3.evaluation import predict

        torch.save({"a": torch.zeros(1)}, tmp_path / "theirs.pth")
        monkeypatch.setattr(predict, "from_torchvision", lambda state, name: make_model(num_classes=count).eval())
        photo = make_photo(tmp_path / "cat.png")
        file = f"torchvision:{tmp_path / 'theirs.pth'}"
        return ["predict", str(photo), "--weights", file, "--output", str(tmp_path / "out")]

    return command


@pytest.mark.parametrize(
    ("count", "named", "note", "first"),
    [
        (21, None, "its 21 classes are, and they are taken for VOC's; --classes names them", "background"),
        (3, None, "its 3 classes are, and they have numbers for names; --classes names them", "0"),
        (3, "wall, crack,leaf", "", "wall"),
        (21, ",".join(f"class {number}" for number in range(21)), "", "class 0"),
    ],
)
def test_classes_of_foreign_network_are_given_or_a_guess(tmp_path, capsys, foreign, count, named, note, first):
    assert main([*foreign(count), *(["--classes", named] if named else [])]) == 0
    printed = capsys.readouterr().out
    assert ("note: " in printed) is bool(note) and note in printed
    assert list(table(tmp_path / "out")[0])[5] == f"{first} %"


@pytest.mark.parametrize("named", ["wall,crack", "wall,crack,leaf,sky", "wall,crack,crack", "wall,,leaf", ""])
def test_classes_that_do_not_fit_are_an_error(capsys, foreign, named):
    assert main([*foreign(3), "--classes", named]) == 1
    assert "have 3 classes, which" in capsys.readouterr().err


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


def test_export_keeps_the_checkpoint_of_a_run(weights, workspace, capsys):
    checkpoint = workspace / "runs" / "offline" / "aspp-0123456789ab" / CHECKPOINT
    checkpoint.parent.mkdir(parents=True)
    shutil.copy(weights, checkpoint)
    assert main(["export", "weights", str(checkpoint), "--weights", str(checkpoint)]) == 1
    assert "belongs to a run" in capsys.readouterr().err
    assert checkpoint.read_bytes() == Path(weights).read_bytes()


def test_images_to_convert_are_named_once(tmp_path, weights, capsys):
    make_photo(tmp_path / "trip" / "cat.png")
    for name in ("IMG_1.HEIC", "IMG_2.HEIC", "._cat.png"):
        (tmp_path / "trip" / name).write_bytes(b"\0\0\0\x20ftypheic")
    assert main(["predict", str(tmp_path / "trip"), "--weights", weights, "--output", str(tmp_path / "out")]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "HEIC" in line]
    assert "deeplabv3: 2 images of a kind that cannot be read (.HEIC) are left out; convert such files" in line
    assert [row["results"] for row in table(tmp_path / "out")] == ["cat"]


def test_classes_without_background_and_letters(tmp_path, make_model, capsys, monkeypatch):
    """Chinese names, with 255 among the values; no class is a background."""
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", [])
    classes = {0: "路面", 7: "car", 255: "裂缝"}
    weights = save(tmp_path / "checkpoint.safetensors", make_model(), classes)
    photo, out = make_photo(tmp_path / "road.png"), tmp_path / "out"
    assert main(["predict", str(photo), "--weights", str(weights), "--output", str(out)]) == 0
    told = capsys.readouterr()
    assert "no font here can write '路面'; overlays show its value 0" in told.err
    assert "no font here can write '裂缝'; overlays show its value 255" in told.err
    labels = np.asarray(Image.open(out / "road_classes.png"))
    assert set(np.unique(labels)) <= set(classes) and 255 in labels
    (row,) = table(out)
    for value, name in classes.items():
        assert float(row[f"{name} %"]) == pytest.approx(100 * (labels == value).mean(), abs=0.01)
    shown, image = (
        np.asarray(Image.open(out / "road_overlay.jpg")).astype(int),
        np.asarray(Image.open(photo)).astype(int),
    )
    assert (np.abs(shown - image).max(axis=2) > 8).mean() > 0.9, "every class is painted"


MISTAKES = {
    "empty folder": ["predict", "EMPTY", "--weights", "WEIGHTS"],
    "no match": ["predict", "nothing*.jpg", "--weights", "WEIGHTS"],
    "no such image": ["predict", "nowhere.jpg", "--weights", "WEIGHTS"],
    "no such weights": ["predict", "PHOTO", "--weights", "nowhere.safetensors"],
    "classes of one's own": ["predict", "PHOTO", "--weights", "WEIGHTS", "--classes", "a,b,c"],
    "classes of the network in the box": ["predict", "PHOTO", "--classes", "a,b,c"],
    "torchvision's without its name": ["predict", "PHOTO", "--weights", "theirs.pth"],
    "weights damaged": ["predict", "PHOTO", "--weights", "PHOTO"],
    "torchvision's of another kind": ["predict", "PHOTO", "--weights", "torchvision:resnet18"],
    "output stride": ["predict", "PHOTO", "--weights", "WEIGHTS", "--output-stride", "12"],
    "no such run": ["predict", "PHOTO", "--weights", "0123abcd"],
    "scale 0": ["predict", "PHOTO", "--weights", "WEIGHTS", "--scales", "0"],
    "scales apart": ["predict", "PHOTO", "--weights", "WEIGHTS", "--scales", "0.5;1"],
    "max size 0": ["predict", "PHOTO", "--weights", "WEIGHTS", "--max-size", "0"],
    "max size with tiles": ["predict", "PHOTO", "--weights", "WEIGHTS", "--tile", "257", "--max-size", "300"],
    "tile too small": ["predict", "PHOTO", "--weights", "WEIGHTS", "--tile", "128"],
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
