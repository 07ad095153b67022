"""An interrupted evaluation resumes where it was, and only with counts that are its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_until, write_label
from kill_evaluation import run_of
from PIL import Image

from deeplabv3.config import VOID, EvaluationConfig, RuntimeConfig
from deeplabv3.errors import UserError
from deeplabv3.evaluation import inference
from deeplabv3.model.checkpoint import load_checkpoint, save_checkpoint
from deeplabv3.signals import Terminated
from walkthrough.cli import main
from walkthrough.experiments import run as experiments
from walkthrough.experiments.run import Incomplete, evaluate_run, train_run
from walkthrough.records.run import Run
from walkthrough.records.store import PartialCounts


@pytest.fixture
def run(profile_file, workspace, tmp_path_factory) -> Run:
    """A trained run that is evaluated on nine images; it is trained once for all tests."""
    run, trained = run_of(str(profile_file))[1], tmp_path_factory.getbasetemp() / "trained"
    if trained.exists():
        shutil.copytree(trained, workspace)
    else:
        train_run(run)
        shutil.copytree(workspace, trained)
    assert run.training_record() is not None
    return run


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """Indices of the images that went through the network."""
    indices, confusion_per_image = [], experiments.confusion_per_image

    def spy(model, data, settings, batch_size, todo):
        for index, counts in confusion_per_image(model, data, settings, batch_size, todo):
            indices.append(index)
            yield index, counts

    monkeypatch.setattr(experiments, "confusion_per_image", spy)
    return indices


def partials(run: Run) -> list[Path]:
    return list(run.record_folder().glob("partial-*"))


def interrupted_at(number: int):
    """A report that is interrupted after so many images, as Ctrl-C does."""

    def report(done: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return report


def interrupt(run: Run, number: int = 4) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, run.profile.evaluation, interrupted_at(number))
    assert len(partials(run)) == 1


def uninterrupted(run: Run) -> np.ndarray:
    """Counts of an evaluation without interruption, which leaves no record."""
    data = run.profile.open_data()
    model = experiments.optimize_for_inference(experiments.load_model(run.checkpoint)[0])
    return inference.evaluate(model, data, run.profile.evaluation)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["kill -9", "SIGTERM", "Ctrl-C"])
def test_killed_evaluation_resumes_where_it_was(run, profile_file, counted, kill):
    """kill -9 loses what was counted since the last save, the others nothing; the result is that of one go."""
    seconds = "0" if kill == signal.SIGKILL else "1000"
    script = Path(__file__).with_name("kill_evaluation.py")
    command = [sys.executable, str(script), str(profile_file), seconds]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        read_until(process.stdout, b"done 4")
        process.send_signal(kill)
        stderr = process.communicate(timeout=60)[1].decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    expected = {
        signal.SIGKILL: "",
        signal.SIGTERM: "Terminated: stopped on the way",
        signal.SIGINT: "KeyboardInterrupt",
    }
    assert process.returncode != 0
    assert expected[kill] in stderr
    assert run.evaluation_record(run.profile.evaluation) is None
    assert len(partials(run)) == 1

    reported = []
    record = evaluate_run(run, run.profile.evaluation, reported.append)
    assert reported == list(range(4, 10))
    assert counted == list(range(4, 9))
    assert record["images"] == 9
    assert record["seconds"] >= 0.4  # four waits of the first attempt
    assert np.array_equal(run.confusion_counts(run.profile.evaluation), uninterrupted(run))
    assert partials(run) == []


def test_error_keeps_counts(run, counted):
    def report(done: int) -> None:
        if done == 5:
            raise ValueError("a fault of the code")

    with pytest.raises(ValueError, match="a fault of the code"):
        evaluate_run(run, run.profile.evaluation, report)
    counted.clear()
    evaluate_run(run, run.profile.evaluation)
    assert counted == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the GPU's"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the computer's"),
        (MemoryError(), "the computer's"),
    ],
    ids=["gpu", "torch", "numpy"],
)
def test_out_of_memory_names_the_settings(run, error, whose):
    def report(done: int) -> None:
        if done == 3:
            raise error

    with pytest.raises(UserError, match=rf"{whose} memory .* lower 'runtime\.eval_batch_size' .* give --tile 1025"):
        evaluate_run(run, run.profile.evaluation, report)
    assert len(partials(run)) == 1


def other_weights(run: Run) -> None:
    checkpoint = load_checkpoint(run.checkpoint)
    next(iter(checkpoint.model.values())).mul_(1.5)
    save_checkpoint(run.checkpoint, checkpoint)


OTHERS = {
    "other weights": lambda run, settings: (other_weights(run), settings)[1],
    "output stride": lambda run, settings: replace(settings, output_stride=8),
    "scales": lambda run, settings: replace(settings, scales=(0.5, 1.0)),
    "flip": lambda run, settings: replace(settings, flip=True),
    "padding": lambda run, settings: replace(settings, padding="tight"),
    "precision": lambda run, settings: replace(settings, precision="bfloat16"),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_counts_of_another_evaluation_are_ignored(run, counted, change):
    interrupt(run)
    settings = change(run, run.profile.evaluation)
    counted.clear()
    evaluate_run(run, settings)
    assert sorted(counted) == list(range(9))


def test_counts_of_another_device_or_version_are_ignored(run, monkeypatch):
    settings = run.profile.evaluation

    def is_used(device: str) -> bool:
        partial = run.partial_counts(settings, "a hash", device, 30)
        return "image 1 2" in partial

    partial = run.partial_counts(settings, "a hash", "cpu", 30)
    partial.add("image 1 2", np.eye(3, dtype=np.int64))
    partial.save()
    assert is_used("cpu")
    assert not is_used("cuda")
    monkeypatch.setattr("walkthrough.records.run.RESULTS_VERSION", 99)
    assert not is_used("cpu")


def test_replaced_image_is_counted_again(run, voc_root, counted):
    """Counts belong to images: one that is another file now is counted again, and the rest is kept."""
    interrupt(run, 4)
    path = voc_root / "JPEGImages" / "image_2.jpg"
    image = np.asarray(Image.open(path))
    Image.fromarray(255 - image).save(path, quality=50)
    names = (voc_root / "ImageSets" / "Segmentation" / "trainval.txt").read_text().split()
    (voc_root / "ImageSets" / "Segmentation" / "trainval.txt").write_text("\n".join(reversed(names)))
    counted.clear()
    evaluate_run(run, run.profile.evaluation)
    assert [names[::-1][index] for index in counted] == [*(f"image_{n}" for n in (8, 7, 6, 5, 4)), "image_2"]


@pytest.mark.parametrize("content", [b"", b"damaged", None], ids=["empty", "damaged", "cut off"])
def test_damaged_partial_counts_are_ignored(run, counted, content):
    interrupt(run)
    (path,) = partials(run)
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    counted.clear()
    evaluate_run(run, run.profile.evaluation)
    assert counted == list(range(9))
    assert partials(run) == []


def test_partial_counts_are_saved_periodically(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("walkthrough.records.store.time.monotonic", lambda: now[0])
    path = tmp_path / "records" / "partial.npz"
    partial = PartialCounts(path, {"checkpoint": "1"}, 2)
    for number, (seconds, saved) in enumerate([(29, False), (31, True), (60, True)]):
        now[0] = seconds
        partial.add(str(number), np.full((2, 2), number))
        assert path.exists() == saved
    assert "2" not in PartialCounts(path, {"checkpoint": "1"}, 2)  # 29 seconds after the last time
    now[0] = 62
    partial.add("3", np.full((2, 2), 3))
    again = PartialCounts(path, {"checkpoint": "1"}, 2)
    assert all(str(number) in again and (again[str(number)] == number).all() for number in range(4))
    assert again.seconds == 62
    assert "3" not in PartialCounts(path, {"checkpoint": "2"}, 2)


def test_full_disk_keeps_saved_counts(run, counted, full_disk, profile_file, capsys):
    interrupt(run, 4)
    (path,) = partials(run)
    before = path.read_bytes()
    full_disk()
    command = ["evaluate", "--profile", str(profile_file), "--set", "data.val_list=trainval", str(run.checkpoint)]
    assert main(command) == 1
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    assert captured.count("deeplabv3: ") == 1 and "No space left" in captured and "make room" in captured
    left = {file.name for file in run.record_folder().iterdir()}
    assert left == {"run.json", path.name}
    assert path.read_bytes() == before


def break_images(root: Path, *numbers: int) -> dict[Path, bytes]:
    paths = [root / "JPEGImages" / f"image_{number}.jpg" for number in numbers]
    contents = {path: path.read_bytes() for path in paths}
    for path, content in contents.items():
        path.write_bytes(content[:200])
    return contents


def test_unreadable_images_are_named_and_others_counted(run, voc_root, profile_file, counted, capsys):
    """Exit code 1, one sentence with every file, the mIoU of the others; once mended, only those are left."""
    contents = break_images(voc_root, 1, 5)
    command = ["evaluate", "--profile", str(profile_file), "--set", "data.val_list=trainval", str(run.checkpoint)]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert sorted(counted) == list(range(9))
    assert "classes, 7 images of list 'trainval', output stride 16" in printed.out
    (sentence,) = [line for line in printed.err.splitlines() if line.startswith("deeplabv3: ")]
    assert "2 of 9 images could not be evaluated" in sentence
    assert all(str(path) in sentence for path in contents)
    assert "record " not in printed.out
    assert not list(run.record_folder().glob("eval-*"))

    for path, content in contents.items():
        path.write_bytes(content)
    counted.clear()
    evaluate_run(run, run.profile.evaluation)
    assert counted == [1, 5]
    assert np.array_equal(run.confusion_counts(run.profile.evaluation), uninterrupted(run))


def test_only_unreadable_images_have_no_miou(run, voc_root, profile_file, capsys):
    break_images(voc_root, *range(9))
    with pytest.raises(Incomplete, match="9 of 9 images") as caught:
        evaluate_run(run, run.profile.evaluation)
    assert caught.value.values == {}
    command = ["evaluate", "--profile", str(profile_file), "--set", "data.val_list=trainval", str(run.checkpoint)]
    assert main(command) == 1
    assert "mIoU" not in capsys.readouterr().out


def test_void_labels_are_a_user_error(run, voc_root):
    for path in (voc_root / "SegmentationClass").glob("*.png"):
        label = np.asarray(Image.open(path))
        write_label(path, np.full(label.shape, VOID, dtype=np.uint8))
    with pytest.raises(UserError, match="void throughout"):
        evaluate_run(run, run.profile.evaluation)


def test_empty_list_is_a_user_error(run, voc_root, profile_file, capsys):
    (voc_root / "ImageSets" / "Segmentation" / "none.txt").write_text("\n\n")
    command = ["evaluate", "--profile", str(profile_file), "--set", "data.val_list=none", str(run.checkpoint)]
    assert main(command) == 1
    assert "none.txt is empty" in capsys.readouterr().err


def test_record_has_both_mious(run, profile_file, capsys, tmp_path):
    """With a class that occurs nowhere; and an early record, without the second mean, is still read."""
    record = evaluate_run(run, run.profile.evaluation)
    iou = [0 if value is None else value for value in record["class_iou"].values()]
    assert record["miou_all_classes"] == pytest.approx(sum(iou) / 3, abs=0.002)

    from walkthrough.commands.evaluate import show_evaluation

    path = run.record_folder() / f"{run.evaluation_name(run.profile.evaluation)}.json"
    old = {**json.loads(path.read_text()), "miou": 40.0, "class_iou": {"background": 80.0, "square": 0.0, "disc": None}}
    for changes in ({"miou_all_classes": 26.667}, {}):
        old.pop("miou_all_classes", None)
        path.write_text(json.dumps(old | changes))
        show_evaluation(run, run.profile.evaluation)
        printed = capsys.readouterr().out
        assert "mIoU 40.00 over the 2 classes present, 26.67 over all 3 classes, 9 images" in printed
        assert "disc  never seen" in printed


def test_progress_bar_shows_resumed_images(run, capsys):
    from walkthrough.commands.evaluate import show_evaluation

    interrupt(run, 6)
    show_evaluation(run, run.profile.evaluation)
    bar = capsys.readouterr().err
    assert "9/9" in bar
    assert "resumed=6" in bar


def test_sigterm_interrupts_evaluation_and_handler_is_restored(run):
    """And within one it raises, from the main thread alone."""
    before = signal.getsignal(signal.SIGTERM)

    def report(done: int) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated, match="the same command goes on"):
        evaluate_run(run, run.profile.evaluation, report)
    assert signal.getsignal(signal.SIGTERM) == before
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("changes", "images", "expected"),
    [
        ({}, 20_000, True),
        ({}, 19_999, False),
        ({"flip": True}, 10_000, True),
        ({"padding": "tight"}, 20_000, False),
    ],
)
def test_only_long_evaluations_are_compiled(profile_file, monkeypatch, changes, images, expected):
    """And only on a GPU, where the profile says so."""
    settings = EvaluationConfig(**changes)
    run = run_of(str(profile_file))[1]
    asked = replace(run, profile=replace(run.profile, runtime=RuntimeConfig(compile=True)))
    assert not experiments.compiles(asked, settings, images)
    monkeypatch.setattr(experiments, "device", lambda: torch.device("cuda"))
    assert experiments.compiles(asked, settings, images) == expected
    assert not experiments.compiles(run, settings, images)
