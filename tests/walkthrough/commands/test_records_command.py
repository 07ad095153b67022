"""``deeplabv3 records``: its output, and that nothing is deleted without --yes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from walkthrough.cli import main
from walkthrough.profiles import load_profile
from walkthrough.records.run import Run

COUNTS = np.array([[[5, 1, 0], [0, 3, 0], [0, 0, 0]], [[7, 0, 0], [2, 2, 0], [0, 0, 0]]])
BETTER = np.array([[[6, 0, 0], [0, 3, 0], [0, 0, 0]], [[7, 0, 0], [1, 3, 0], [0, 0, 0]]])


@pytest.fixture
def records(profile_file, capsys):
    """``records("list", …)``: exit code, output and errors of the command."""

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["records", "--profile", str(profile_file), *words])
        return code, *capsys.readouterr()

    return call


def recorded(profile, counts=COUNTS, **changes) -> Run:
    profile = replace(profile, training=replace(profile.training, **changes))
    run = Run.of(profile, profile.model_config())
    run.write_training_record(90.0)
    for settings in (profile.evaluation, replace(profile.evaluation, output_stride=8, flip=True)):
        run.write_evaluation_record(settings, run.evaluation_values(settings, counts, 2.0), counts)
    return run


def make_stale(run: Run) -> Path:
    path = run.record_folder() / "run.json"
    values = json.loads(path.read_text())
    values["settings"]["model"]["decoder"] = True
    path.write_text(json.dumps(values))
    return path


def test_list_has_one_line_per_run(records, profile):
    runs = [recorded(profile), recorded(profile, iterations=400)]
    code, out, _ = records("list")
    header, *lines = out.splitlines()
    assert code == 0 and len(lines) == 2
    assert header.split() == ["id", "run", "seed", "steps", "time", "device", "mIoU"]
    for run, steps in zip(runs, ("3", "400"), strict=True):
        (line,) = [line for line in lines if line.startswith(run.name[-12:])]
        assert re.split(r"  +", line)[1:5] == ["aspp-small_resnet20-os16", "0", steps, "90 s"]
        assert line.endswith("os16: 71.25   os8 flip: 71.25")
    assert len({line.index("aspp") for line in lines}) == 1 == len({line.index("os16:") for line in lines})


def test_show_finds_run_of_any_profile(profile, profile_file, workspace, capsys):
    run = recorded(profile)
    for named in (run.name, run.name[-12:]):
        assert main(["records", "show", named]) == 0
        assert capsys.readouterr().out.startswith(f"run {run.name}\n")
    assert main(["records", "show", run.name[-12:], "--profile", "smoke"]) == 1
    assert "profile 'smoke' has no run" in capsys.readouterr().err
    (workspace / "records" / profile.name).rename(workspace / "records" / "smoke")
    assert main(["records", "show", run.name[-12:]]) == 0
    assert "evaluations\n  os16 crop 65: " in capsys.readouterr().out, "labels by the profile that has the run"
    assert main(["records", "show", run.name[-6:]]) == 1, "a part of a hash is of the named profile"


def test_list_marks_stale_and_damaged_records(records, profile):
    good, stale, damaged = recorded(profile), recorded(profile, lr=0.2), recorded(profile, lr=0.3)
    path = make_stale(stale)
    broken = damaged.record_folder() / f"{damaged.evaluation_name(profile.evaluation)}.json"
    broken.write_text("{")
    code, out, _ = records("list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert code == 0
    assert lines[stale.name[-12:]].endswith("  stale")
    assert lines[damaged.name[-12:]].endswith(f"os8 flip: 71.25   {broken.stem} damaged")
    assert lines[good.name[-12:]].endswith("os16: 71.25   os8 flip: 71.25")
    assert "2 of 3 runs have records that are stale or damaged" in out
    code, out, _ = records("list", "--stale")
    assert code == 0 and good.name[-12:] not in out
    assert f"{path}\n    stale: model setting 'decoder' does not exist any more.\n" in out
    assert f"{broken}\n    damaged: record {broken} is damaged" in out
    assert records()[0] == 0, "nor is the list in sentences held up"


def test_list_of_no_records(records, profile):
    for words in ((), ("list",)):
        assert records(*words)[1] == "profile 'tiny-tests' has no records yet.\n"
    recorded(profile)
    assert "has no record that is stale or damaged" in records("list", "--stale")[1]


def test_show_prints_changed_settings_and_every_class(records, profile):
    run = recorded(profile)
    for named in (run.name, run.name[-12:], run.name[-12:-5]):
        code, out, _ = records("show", named)
        assert code == 0 and out.startswith(f"run {run.name}\n")
    changed, rest = out.split("settings at their defaults")
    assert re.search(r"^  training\.iterations +3$", changed, re.MULTILINE)
    assert re.search(r"^  data\.list +train$", changed, re.MULTILINE)
    assert "training.momentum" not in changed and re.search(r"^  training\.momentum +0\.9$", rest, re.MULTILINE)
    assert re.search(r"^  seconds +90\.0$", rest, re.MULTILINE)
    assert "os8 flip: crop padding, output stride 8, scales 1.0, flip, 2 images of val, 2 s, 1.00 images/s" in rest
    for name, figure in (("background", "80.00"), ("square", "62.50"), ("disc", "-"), ("mIoU", "71.25")):
        assert re.search(rf"^{name} +{figure} +{figure}$", rest, re.MULTILINE)


def test_show_of_stale_run_says_why(records, profile):
    run = recorded(profile)
    make_stale(run)
    code, out, _ = records("show", run.name)
    assert code == 0
    assert "stale: model setting 'decoder' does not exist any more. It is not used." in out
    assert re.search(r"^  model\.decoder +True$", out, re.MULTILINE)


def test_show_of_run_without_training_record(records, profile):
    run = recorded(profile)
    (run.record_folder() / "run.json").unlink()
    code, out, _ = records("show", run.name)
    assert code == 0 and re.search(r"^mIoU +71\.25 +71\.25$", out, re.MULTILINE)
    assert records("list")[0] == 0


@pytest.mark.parametrize("words", [("show", "0123"), ("diff", "0123", "4567")])
def test_unknown_run_is_one_sentence(records, profile, words):
    recorded(profile)
    code, _, err = records(*words)
    assert code == 1
    assert err == "deeplabv3: profile 'tiny-tests' has no run '0123'; 'deeplabv3 records list' shows those there are.\n"


def test_diff_prints_only_differences(records, profile):
    one, two = recorded(profile), recorded(profile, BETTER, lr=0.2, scales=(1.0,))
    code, out, _ = records("diff", one.name, two.name[-12:])
    assert code == 0
    assert out.startswith(f"A {one.name}\nB {two.name}\n")
    settings = out.split("settings\n")[1].split("\nenvironment")[0]
    assert [line.split()[0] for line in settings.splitlines()[1:]] == ["training.lr", "training.scales"]
    assert re.search(r"^  training\.lr +0\.05 +0\.2$", settings, re.MULTILINE)
    assert "environment\n  the same" in out
    assert out.count("2 images\nIoU ") == 2  # both strategies
    # class 0: 13 of 14, class 1: 6 of 7; before 12 of 15 and 5 of 8
    assert re.search(r"^background +80\.00 +92\.86 +\+12\.86$", out, re.MULTILINE)
    assert re.search(r"^disc +- +-$", out, re.MULTILINE)
    assert re.search(r"^mIoU +71\.25 +89\.29 +\+18\.04$", out, re.MULTILINE)


def test_diff_reads_missing_setting_as_default(records, profile):
    one, two = recorded(profile), recorded(profile, precision="bfloat16")
    path = one.record_folder() / "run.json"
    values = json.loads(path.read_text())
    for name in ("precision", "grad_accum_steps"):
        del values["settings"]["training"][name]
    path.write_text(json.dumps(values | {"commit": "0123456789ab"}))
    _, out, _ = records("diff", one.name, two.name)
    assert re.search(r"^  training\.precision +float32 +bfloat16$", out, re.MULTILINE)
    assert "grad_accum_steps" not in out
    assert re.search(r"^  commit +0123456789ab ", out, re.MULTILINE)


def test_diff_skips_evaluations_of_other_images(records, profile):
    one, two = recorded(profile), recorded(profile, lr=0.2)
    for path in two.record_folder().glob("eval-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"list": "others"}))
    assert "no strategy that both were evaluated with on the same images" in records("diff", one.name, two.name)[1]


def test_prune_deletes_only_with_yes(records, profile, workspace):
    good, stale = recorded(profile), recorded(profile, lr=0.2)
    path = make_stale(stale)
    before = {file for file in workspace.rglob("*") if file.is_file()}
    code, out, _ = records("prune")
    assert code == 0
    assert f"delete {path}\n    stale: model setting 'decoder' does not exist any more.\n" in out
    assert "5 to delete, 0.0 MB: nothing is deleted yet; add --yes." in out
    assert {file for file in workspace.rglob("*") if file.is_file()} == before
    code, out, _ = records("prune", "--yes")
    assert code == 0 and f"deleted {path}\n" in out and "5 deleted" in out
    assert not stale.record_folder().exists()
    assert len(list(good.record_folder().iterdir())) == 5
    assert records("prune")[1] == "nothing of profile 'tiny-tests' to delete.\n"


def test_prune_include_unfinished_needs_runs(records):
    code, _, err = records("prune", "--include-unfinished")
    assert code == 1 and "give it with --runs" in err


def test_profile_option_before_or_after_subcommand(profile_file, profile, monkeypatch, capsys):
    run = recorded(profile)
    monkeypatch.setenv("DEEPLABV3_PROFILE", "smoke")
    for words in (["--profile", str(profile_file), "list"], ["list", "--profile", str(profile_file)]):
        assert main(["records", *words]) == 0
        assert run.name[-12:] in capsys.readouterr().out
    other = load_profile(str(profile_file), {"name": "renamed"})
    assert other.name == "renamed"
    assert main(["records", "list", "--profile", str(profile_file), "--set", "name=renamed"]) == 0
    assert "profile 'renamed' has no records yet" in capsys.readouterr().out
