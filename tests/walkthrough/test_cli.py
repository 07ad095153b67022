"""The command line: train and evaluate end to end, one sentence for each user's error, and a fast start."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import read_until, small_config
from safetensors.torch import save_file

from deeplabv3.model.checkpoint import load_checkpoint, save_checkpoint
from deeplabv3.model.deeplab import DeepLabV3
from deeplabv3.signals import Interrupted
from deeplabv3.training.trainer import Trainer
from walkthrough import cli
from walkthrough.cli import main
from walkthrough.commands import table
from walkthrough.experiments.task import missing
from walkthrough.profiles import load_profile
from walkthrough.records.run import Run


def checkpoint_of(workspace: Path) -> Path:
    (path,) = (workspace / "runs").glob("*/*/checkpoint.safetensors")
    return path


def miou(text: str) -> float:
    return float(re.search(r"^mIoU (\d+\.\d\d) over", text, re.MULTILINE)[1])


def test_train_evaluate_records_end_to_end(profile_file, workspace, capsys):
    profile = ["--profile", str(profile_file)]
    assert main(["train", *profile]) == 0
    trained = capsys.readouterr()
    assert "Traceback" not in trained.err
    assert "mIoU" in trained.out and "3 classes, 3 images of list 'val', output stride 16" in trained.out
    path = checkpoint_of(workspace)
    assert f"run {path.parent.name}" in trained.out
    assert load_checkpoint(path).step == 3

    assert main(["evaluate", *profile, str(path)]) == 0
    assert miou(capsys.readouterr().out) == miou(trained.out)
    strategy = ["--output-stride", "8", "--flip", "--scales", "0.5,1"]
    assert main(["evaluate", *profile, *strategy, str(path)]) == 0
    assert "output stride 8" in capsys.readouterr().out

    before = path.stat().st_mtime_ns
    assert main(["train", *profile]) == 0  # done already
    assert miou(capsys.readouterr().out) == miou(trained.out)
    assert path.stat().st_mtime_ns == before

    assert main(["records", *profile]) == 0
    listed = capsys.readouterr().out
    assert path.parent.name in listed
    assert "crop padding, output stride 8, scales 0.5, 1.0, flip: mIoU" in listed
    assert f"output stride 16, scales 1.0: mIoU {miou(trained.out):.2f}" in listed


def test_train_options_reach_the_network(profile_file, workspace, voc_root, tmp_path, capsys):
    """Another data root, a cascade, ImageNet weights and single settings; the paper's rates map to the profile's."""
    model = DeepLabV3(small_config())
    names = {name: model.backbone.torchvision_name(name) for name in model.backbone.state_dict()}
    state = {names[name]: value for name, value in model.backbone.state_dict().items()}
    save_file(state, tmp_path / "backbone.safetensors")
    other = tmp_path / "other"
    voc_root.rename(other)
    common = ["--profile", str(profile_file), "--data", str(other)]
    options = ["--head", "cascade", "--last-block", "5", "--multi-grid", "1", "2", "1", "--output-stride", "32"]
    weights = ["--backbone-weights", str(tmp_path / "backbone.safetensors")]
    changes = ["--set", "training.lr=0.0", "--set", "training.iterations=1", "--seed", "7"]
    assert main(["train", *common, *options, *weights, *changes]) == 0
    checkpoint = load_checkpoint(checkpoint_of(workspace))
    config = checkpoint.settings["model"]
    assert (config["head"], config["last_block"], config["multi_grid"]) == ("cascade", 5, [1, 2, 1])
    assert (config["output_stride"], checkpoint.step, checkpoint.settings["seed"]) == (32, 1, 7)
    # learning rate 0: the backbone's first convolution is still the file's
    assert torch.equal(checkpoint.model["backbone.conv1.weight"], state["conv1.weight"])
    capsys.readouterr()
    assert main(["train", *common, "--rates", "6", "24", "--no-image-pooling", "--set", "training.iterations=1"]) == 0
    paths = (workspace / "runs").glob("*/aspp-*/checkpoint.safetensors")
    config = load_checkpoint(next(iter(paths))).settings["model"]
    assert (config["atrous_rates"], config["image_pooling"], config["multi_grid"]) == ([1, 4], False, [1, 2, 4])


def test_evaluation_of_unfinished_run_is_not_recorded(profile_file, workspace, capsys):
    """A table would take it for the run's result, and never finish the run."""
    profile = ["--profile", str(profile_file)]
    loaded = load_profile(str(profile_file), {"training.iterations": 50})
    run = Run.of(loaded, loaded.model_config())

    def stop(step: int, loss: float, lr: float) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        Trainer(
            DeepLabV3(run.config), loaded.open_data("train"), run.training, run.folder, run.identity, report=stop
        ).run()
    assert main(["evaluate", *profile, str(run.checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert missing([(run, loaded.evaluation)]) == [(run, loaded.evaluation)]
    told = "on the way, at step 3 of 50: not the run's result, and not recorded"
    assert -1 < printed.find(told) < printed.find("mIoU"), "said before any figure"
    assert "record " not in printed.replace("recorded", "")

    run.write_evaluation_record(loaded.evaluation, {"miou": 99.0}, np.zeros((1, 3, 3)))
    assert main(["evaluate", *profile, str(run.checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert told in printed and "record " not in printed.replace("recorded", ""), "though the run has a record"
    assert run.evaluation_record(loaded.evaluation) == {"miou": 99.0}


def test_evaluate_takes_several_runs(profile_file, workspace, capsys):
    profile = ["--profile", str(profile_file)]
    for seed in ("0", "1"):
        assert main(["train", *profile, "--seed", seed, "--set", "training.iterations=1"]) == 0
    capsys.readouterr()
    first, second = sorted((workspace / "runs" / "tiny-tests").iterdir())
    named = [first.name.rsplit("-", 1)[1], str(second), str(second / "checkpoint.safetensors")]
    assert main(["evaluate", *profile, *named]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^run (\S+)$", printed, re.MULTILINE) == [first.name, second.name, second.name]
    assert re.findall(r"^record \S+/(\S+)$", printed, re.MULTILINE) == [first.name, second.name, second.name]


@pytest.fixture
def archived(profile_file, workspace, capsys) -> tuple[Path, Path]:
    """Folders of a run and of its archive, with other weights than the run's."""
    command = ["train", "--profile", str(profile_file), "--set", "training.iterations=1"]
    assert main(command) == 0
    path = checkpoint_of(workspace)
    state = load_checkpoint(path)
    state.model["head.classifier.bias"] += torch.tensor([0.0, 99.0, 0.0])
    save_checkpoint(path, state)
    assert main([*command, "--no-resume"]) == 0
    capsys.readouterr()
    run, archive = sorted((workspace / "runs" / "tiny-tests").iterdir())
    return run, archive


def records_of(workspace: Path) -> dict[Path, bytes]:
    """Files of the records but for times."""
    return {
        path: re.sub(rb'"(seconds|images_per_second|peak_memory_mib)": [^,]*,', b"", path.read_bytes())
        for path in (workspace / "records").rglob("eval-*.json")
    }


def test_evaluate_skips_archived_runs(archived, profile_file, workspace, capsys):
    """As ``evaluate data/runs/PROFILE/*`` meets them."""
    before = records_of(workspace)
    assert main(["evaluate", "--profile", str(profile_file), *map(str, archived)]) == 0
    printed = capsys.readouterr().out
    assert re.findall(r"^run (\S+)$", printed, re.MULTILINE) == [archived[0].name]
    assert f"skipped {archived[1]}: --no-resume has put it aside" in printed
    assert len(before) == 1 and records_of(workspace) == before


@pytest.mark.parametrize("lost", [False, True], ids=["run trained", "run not trained yet"])
@pytest.mark.parametrize("how", ["archive's file", "a link to it", "a copy of it"])
def test_other_weights_write_no_record_of_the_run(archived, profile_file, workspace, tmp_path, capsys, how, lost):
    """A copy elsewhere is recorded where the run itself is not on this machine: it may have been trained on another."""
    other = archived[1] / "checkpoint.safetensors"
    before = records_of(workspace)
    if how == "a link to it":
        (tmp_path / "link.safetensors").symlink_to(other)
        other = tmp_path / "link.safetensors"
    elif how == "a copy of it":
        other = other.rename(tmp_path / "copy.safetensors")
    if lost:
        (archived[0] / "checkpoint.safetensors").unlink()
    main(["evaluate", "--profile", str(profile_file), str(other)])
    assert (records_of(workspace) == before) is (how != "a copy of it" or not lost)
    if how == "a copy of it" and not lost:
        assert "not the run's own checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("trouble", ["empty folder", "stray file", "damaged", "other classes"])
def test_run_that_cannot_be_evaluated_stops_no_other(profile_file, workspace, capsys, trouble):
    command = ["--profile", str(profile_file)]
    assert main(["train", *command, "--set", "training.iterations=1"]) == 0
    good = checkpoint_of(workspace).parent
    bad = good.with_name("aspp-a-first")
    if trouble == "stray file":
        bad.write_text("notes")
    else:
        bad.mkdir()
    if trouble == "damaged":
        (bad / "checkpoint.safetensors").write_bytes(b"damaged")
    elif trouble == "other classes":
        state = load_checkpoint(good / "checkpoint.safetensors")
        state.settings["data"]["classes"] = {"0": "sky"}
        save_checkpoint(bad / "checkpoint.safetensors", state)
    capsys.readouterr()
    assert main(["evaluate", *command, str(bad), str(good)]) == 1
    out, error = capsys.readouterr()
    assert f"run {good.name}" in out and miou(out) >= 0
    assert str(bad) in error and "1 of 2 runs could not be evaluated" in error and "Traceback" not in error


def test_damaged_checkpoint_of_finished_run_is_named(profile_file, workspace, capsys):
    """Without the record of its evaluation, which would otherwise be made of it."""
    command = ["train", "--profile", str(profile_file)]
    assert main(command) == 0
    path = checkpoint_of(workspace)
    content = bytearray(path.read_bytes())
    content[-5000:-1000] = b"\xff" * 4000
    path.write_bytes(content)
    for record in (workspace / "records").rglob("eval-*"):
        record.unlink()
    capsys.readouterr()
    assert main(command) == 1
    assert "checkpoint.safetensors is damaged" in capsys.readouterr().err
    assert not list((workspace / "records").rglob("eval-*"))


def test_damaged_counts_are_named_and_made_again(profile_file, workspace, capsys):
    command = ["train", "--profile", str(profile_file)]
    assert main(command) == 0
    (counts,) = (workspace / "records").rglob("eval-*.npz")
    counts.write_bytes(b"x")
    first = miou(capsys.readouterr().out)
    assert main(command) == 0
    out, error = capsys.readouterr()
    assert f"its counts {counts.name} are missing or damaged" in error and miou(out) == first
    assert counts.stat().st_size > 100
    assert main(command) == 0 and "damaged" not in capsys.readouterr().err


def test_ambiguous_run_name_is_an_error(profile_file, workspace, capsys):
    for name in ("one", "two"):
        folder = workspace / "runs" / name / "aspp-small-0123abcd"
        folder.mkdir(parents=True)
        (folder / "checkpoint.safetensors").touch()
    assert main(["evaluate", "--profile", str(profile_file), "0123abcd"]) == 1
    assert "there are 2 runs 0123abcd" in capsys.readouterr().err


MISTAKES = {
    "unknown profile": ["train", "--profile", "offlin"],
    "unknown setting": ["train", "PROFILE", "--set", "training.learning_rate=0.1"],
    "wrong type": ["train", "PROFILE", "--set", "training.lr=high"],
    "no value": ["train", "PROFILE", "--set", "training.lr"],
    "no YAML": ["train", "PROFILE", "--set", "training.lr=[1"],
    "negative rate": ["train", "PROFILE", "--set", "training.lr=-1"],
    "data missing": ["train", "PROFILE", "--data", "nowhere"],
    "data drawn": ["train", "--profile", "smoke", "--data", "nowhere"],
    "list missing": ["train", "PROFILE", "--set", "data.train_list=trainaug"],
    "classes of others": ["train", "PROFILE", "--set", "data.classes={0: background}"],
    "weights missing": ["train", "PROFILE", "--backbone-weights", "nowhere.safetensors"],
    "no ImageNet weights": ["train", "PROFILE", "--backbone-weights", "imagenet"],
    "output stride": ["train", "PROFILE", "--output-stride", "12"],
    "last block": ["train", "PROFILE", "--last-block", "9", "--head", "cascade"],
    "multi-grid": ["train", "PROFILE", "--multi-grid", "1", "0", "1"],
    "rate that the profile does not know": ["train", "PROFILE", "--rates", "6", "13"],
    "no rate for v2": ["train", "PROFILE", "--head", "v2", "--rates"],
    "negative seed": ["train", "PROFILE", "--seed", "-1"],
    "batch of one": ["train", "PROFILE", "--set", "training.batch_size=1"],
    "rates of a cascade": ["train", "PROFILE", "--head", "cascade", "--rates", "6"],
    "image pooling of a cascade": ["train", "PROFILE", "--head", "cascade", "--no-image-pooling"],
    "image pooling of v2": ["train", "PROFILE", "--head", "v2", "--no-image-pooling"],
    "two initial weights": ["train", "PROFILE", "--init-from", "a.safetensors", "--backbone-weights", "b.safetensors"],
    "setting twice": ["train", "PROFILE", "--set", "training.lr=0.1", "--set", "training.lr=0.2"],
    "setting and its part": ["train", "PROFILE", "--set", "training={}", "--set", "training.lr=0.2"],
    "seed twice": ["train", "PROFILE", "--seed", "1", "--set", "seed=2"],
    "seeds twice": ["table", "PROFILE", "3", "--seeds", "1", "--set", "seeds=2"],
    "data twice": ["train", "PROFILE", "--data", ".", "--set", "data.root=."],
    "path as a name": ["train", "PROFILE", "--set", "name=../../evil"],
    "Ray without work": ["sweep", "PROFILE", "--dry-run", "--ray"],
    "setting without effect": ["evaluate", "PROFILE", "CHECKPOINT", "--set", "evaluation.output_stride=8"],
    "training of a trained network": ["evaluate", "PROFILE", "CHECKPOINT", "--set", "training.lr=0.1"],
    "tile too small": ["evaluate", "PROFILE", "CHECKPOINT", "--tile", "100"],
    "crop of one feature": ["train", "PROFILE", "--set", "training.crop_size=2"],
    "batch too large": ["train", "PROFILE", "--set", "training.batch_size=100"],
    "checkpoint missing": ["evaluate", "PROFILE", "nowhere.safetensors"],
    "checkpoint damaged": ["evaluate", "PROFILE", "DAMAGED"],
    "checkpoint of other classes": ["evaluate", "--profile", "smoke", "CHECKPOINT"],
    "evaluation at output stride 12": ["evaluate", "PROFILE", "CHECKPOINT", "--output-stride", "12"],
    "evaluation at scale 0": ["evaluate", "PROFILE", "CHECKPOINT", "--scales", "0"],
    "evaluation without its list": ["evaluate", "PROFILE", "CHECKPOINT", "--set", "data.val_list=test"],
    "table": ["table", "PROFILE", "99"],
    "notebook": ["walkthrough", "PROFILE", "--only", "42"],
}


@pytest.mark.parametrize("arguments", MISTAKES.values(), ids=MISTAKES)
def test_user_error_is_one_sentence(arguments, profile_file, tmp_path, workspace, monkeypatch, capsys, request):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    if "CHECKPOINT" in arguments:
        assert main(["train", "--profile", str(profile_file), "--set", "training.iterations=1"]) == 0
        capsys.readouterr()
    values = {"PROFILE": [f"--profile={profile_file}"], "DAMAGED": ["damaged.safetensors"]}
    if "CHECKPOINT" in arguments:
        values["CHECKPOINT"] = [str(checkpoint_of(workspace))]
    code = main([part for argument in arguments for part in values.get(argument, [argument])])
    captured = capsys.readouterr()
    # a progress bar may stand before the sentence
    lines = [line for line in re.split(r"[\r\n]+", captured.err) if line.strip() and "%|" not in line]
    assert code == 1
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("deeplabv3: ")
    assert len(lines[0]) > 30


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--head", "fcn"], ["evaluate"]])
def test_misspelled_command_prints_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: deeplabv3" in capsys.readouterr().err


def test_train_after_sigterm_saves_and_stops(profile_file, workspace):
    """To the whole process group, as a terminal's Ctrl-C or a batch system does, with a data worker in it."""
    command = [
        sys.executable, "-m", "walkthrough", "train", "--profile", str(profile_file),
        "--set", "training.iterations=100000", "--set", "runtime.num_workers=1",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        read_until(process.stderr, b"loss=")
        os.killpg(process.pid, signal.SIGTERM)
        # returns when nobody holds stderr any more: no data worker is left
        stderr = process.communicate(timeout=60)[1].decode()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 1
    step = load_checkpoint(checkpoint_of(workspace)).step
    assert "Traceback" not in stderr
    assert stderr.rstrip().splitlines()[-1] == (
        f"deeplabv3: stopped after step {step} of 100000; the same command goes on."
    )


def test_smoke_profile_trains(capsys):
    assert main(["train", "--profile", "smoke", "--backbone", "resnet50"]) == 0
    assert "over all 11 classes, 6 images" in capsys.readouterr().out


REPORT_MODULES = """
import sys
from walkthrough.cli import main
try:
    main(sys.argv[1:])
finally:
    print(sorted({"torch", "torchvision", "matplotlib", "papermill"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "train", "--help"], ["table", "5", "--profile", "smoke"]])
def test_command_starts_without_torch(arguments, workspace):
    done = subprocess.run([sys.executable, "-c", REPORT_MODULES, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert not (workspace / "synthetic").exists(), "no image is drawn for a table"


@pytest.mark.parametrize("length", [10, 1_000_000])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_pipe_ends_command_quietly(length, unbuffered):
    """``deeplabv3 table | head``: a short output meets the closed pipe at the end, a long one on the way."""
    code = (
        "from walkthrough import cli; from walkthrough.commands import table; "
        f"table.main = lambda options: print('x' * {length}); cli.script()"
    )
    reader, writer = os.pipe()
    os.close(reader)
    command, environment = [sys.executable, "-c", code, "table"], os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment)
    os.close(writer)
    assert done.stderr == b""


def run_script(code: str, tmp_path: Path) -> subprocess.CompletedProcess:
    """The console script with ``code`` instead of the command ``table``; ``slow`` is a module to import."""
    (tmp_path / "slow.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT); import decimal")
    replaced = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)
from walkthrough import cli; from walkthrough.commands import table
def main(options):
    {code}
table.main = main
cli.script()"""
    return subprocess.run([sys.executable, "-c", replaced, "table"], capture_output=True, text=True)


@pytest.mark.parametrize(
    "code",
    [
        "import slow",
        "__import__('importlib').import_module('slow')",
        "try: import slow\n    except BaseException: pass",
        "os.kill(os.getpid(), signal.SIGINT)",
    ],
    ids=["import", "lazy import", "import that swallows it", "no import"],
)
def test_ctrl_c_in_script_is_one_sentence(code, tmp_path):
    """An import that is broken off leaves half a module, and torch's aborts the process."""
    done = run_script(code, tmp_path)
    assert (done.returncode, done.stderr) == (130, "deeplabv3: interrupted; what was finished is kept.\n")


def test_second_ctrl_c_prints_no_traceback(tmp_path):
    code = "import atexit; atexit.register(os.kill, os.getpid(), signal.SIGINT)"
    done = run_script(code, tmp_path)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_ctrl_c_exits_with_130(monkeypatch, capsys):
    monkeypatch.setattr(table, "main", raises(KeyboardInterrupt()))
    assert main(["table"]) == 130
    assert capsys.readouterr().err == "deeplabv3: interrupted; what was finished is kept.\n"


def test_full_disk_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(table, "main", raises(OSError(errno.ENOSPC, "No space left on device", "runs/log.csv")))
    assert main(["table"]) == 1
    assert capsys.readouterr().err.startswith("deeplabv3: runs/log.csv: No space left on device; make room there")


@pytest.mark.parametrize("error", [ZeroDivisionError("defect"), BrokenPipeError(errno.EPIPE, "of a data worker")])
def test_defect_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(table, "main", raises(error))
    with pytest.raises(type(error)) as caught:
        main(["table"])
    assert caught.value is error


def raises(error: BaseException):
    def main(options):
        raise error

    return main


@pytest.mark.parametrize("own", [True, False])
def test_own_warning_is_a_sentence(tmp_path, own):
    """Those of libraries keep file and line."""
    file = cli.__file__ if own else str(tmp_path / "library.py")
    done = run_script(f"import warnings; warnings.warn_explicit('Mind this.', UserWarning, {file!r}, 7)", tmp_path)
    assert done.returncode == 0
    assert done.stderr == ("deeplabv3: Mind this.\n" if own else f"{file}:7: UserWarning: Mind this.\n")


def test_shell_completes_commands_and_options(tmp_path):
    """As argcomplete's shell function asks: completions come on file descriptor 8."""
    answers = []
    for line in ("deeplabv3 eval", "deeplabv3 predict --mul", "deeplabv3 train --profile mobile_"):
        values = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": "\v"}
        with open(tmp_path / "found", "wb") as found:
            command = f"exec 8>&1 1>/dev/null 9>/dev/null; exec {sys.executable} -m walkthrough"
            subprocess.run(["bash", "-c", command], env=os.environ | values, stdout=found, check=True)
        answers.append((tmp_path / "found").read_text().strip())
    assert answers == ["evaluate", "--multi-scale", "mobile_gpu"]
