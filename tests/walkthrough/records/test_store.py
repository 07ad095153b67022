"""Many records, and many writers of them: what is read is whole, what is stale is named, and nobody works twice."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import read_until
from record_process import counts_of, run_of, write

from deeplabv3.distributed import ProcessGroup
from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import load_checkpoint, save_checkpoint
from walkthrough.experiments.run import evaluate_run, train_run
from walkthrough.records import catalogue, lock, naming, prune, store
from walkthrough.records.lock import LOCK, is_held, locked
from walkthrough.records.run import Run

PROFILE = "tiny-tests"
BUSY = b"another process is busy with"


@pytest.fixture
def run(profile) -> Run:
    return run_of(profile)


@contextmanager
def process(*arguments: object) -> Iterator[subprocess.Popen]:
    """A process of its own, which does not outlive the test."""
    command = [sys.executable, str(Path(__file__).with_name("record_process.py")), *map(str, arguments)]
    pipe = subprocess.PIPE
    started = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate()


def ended(started: subprocess.Popen, said: bytes = b"") -> tuple[str, str]:
    """What a process has printed until its end, once it was ``said`` something."""
    out, err = started.communicate(said, timeout=90)
    assert started.returncode == 0, err.decode()
    return out.decode(), err.decode()


# Writers


def test_a_record_that_two_processes_write_at_once_is_read_whole_or_not_at_all(run, profile, profile_file):
    """Without any lock: the JSON and the counts that a reader gets were written together."""
    (first, second), read = ((1000, 2000), set())
    with (
        process(profile_file, "keep_writing", first, 60) as one,
        process(profile_file, "keep_writing", second, 60) as two,
    ):
        for started in (one, two):
            read_until(started.stdout, b"written")
        while one.poll() is None or two.poll() is None:
            if found := run._evaluation(profile.evaluation):
                values, path, content = found
                assert np.array_equal(store.read_counts(path, content), counts_of(values["mark"]))
                read.add(values["mark"])
        assert (one.returncode, two.returncode) == (0, 0)
    assert {mark // 1000 for mark in read} == {1, 2}, "both were seen at work"
    write(run, 7)
    assert run.evaluation_record(profile.evaluation)["mark"] == 7
    assert {path.suffix for path in run.record_folder().iterdir()} == {".npz", ".json"}, "no leftovers"


@pytest.mark.parametrize("final", [".npz", ".json"])
@pytest.mark.parametrize("before", [None, 5], ids=["first", "again"])
def test_a_writer_killed_on_the_way_leaves_a_whole_record_or_none(run, profile, profile_file, final, before):
    """Before the counts have their name, or between them and the JSON; what it leaves is cleared away once it rests."""
    if before:
        write(run, before)
    with process(profile_file, "write_until", 6, final) as started:
        assert started.wait(timeout=60) == -signal.SIGKILL
    found = run.evaluation_record(profile.evaluation)
    counts = run.confusion_counts(profile.evaluation)
    if before and final == ".npz":
        assert found["mark"] == before and np.array_equal(counts, counts_of(before))
    else:
        assert found is None and counts is None
    assert all(
        one.flaw.startswith("damaged") for entry in catalogue.entries(PROFILE) for one in entry.evaluations if not found
    )
    (left,) = run.record_folder().glob(".*.partial")
    assert left not in prune.plan(PROFILE).deleted, "it might still be written to"
    long_ago(left)
    assert prune.plan(PROFILE).deleted[left] == "its writer was killed"
    write(run, 7)
    assert run.evaluation_record(profile.evaluation)["mark"] == 7
    assert np.array_equal(run.confusion_counts(profile.evaluation), counts_of(7))
    prune.delete(prune.plan(PROFILE))
    assert not left.exists() and run.evaluation_record(profile.evaluation)["mark"] == 7


def long_ago(path: Path) -> None:
    then = time.time() - prune.FRESH_S - 10
    os.utime(path, (then, then))


# The lock


def test_two_processes_that_want_one_run_train_it_once(run, profile_file):
    with process(profile_file, "train", "waits") as one, process(profile_file, "train", "waits") as two:
        first, second = in_order(one, two, b"step 0.")
        read_until(second.stderr, BUSY + f" run {run.name}".encode())
        assert ended(first, b"\n")[0].split("\n")[-4:] == ["step 1.", "step 2.", "trained", ""]
        out, err = ended(second)
        assert out == "trained\n"
        assert BUSY.decode() not in err, "it says so once"
    assert run.training_record() is not None
    assert not (run.folder / LOCK).exists()


def test_who_waited_for_a_trainer_that_is_killed_trains(run, profile_file):
    with process(profile_file, "train", "waits") as one, process(profile_file, "train", "waits") as two:
        first, second = in_order(one, two, b"step 0.")
        read_until(second.stderr, BUSY)
        first.kill()
        assert ended(second, b"\n")[0] == "step 0.\nstep 1.\nstep 2.\ntrained\n"
    assert load_checkpoint(run.checkpoint).step == 3


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_that_evaluate_a_run_alike_count_it_once(run, profile, profile_file, killed):
    train_run(run)
    with process(profile_file, "evaluate", "waits") as one, process(profile_file, "evaluate", "waits") as two:
        first, second = in_order(one, two, b"done 2.")
        read_until(second.stderr, BUSY + b" eval-")
        if killed:
            first.kill()
            assert ended(second, b"\n")[0] == "done 2.\ndone 3.\n", "from where the other was"
        else:
            ended(first, b"\n")
            assert ended(second)[0] == ""
    assert run.evaluation_record(profile.evaluation)["images"] == 3
    assert not list(run.record_folder().glob("[.p]*")), "neither locks nor counts on the way"


def in_order(one: subprocess.Popen, two: subprocess.Popen, mark: bytes) -> tuple[subprocess.Popen, subprocess.Popen]:
    """The process that came first and has said ``mark``, and the other one."""
    came = select.select([one.stdout, two.stdout], [], [], 60)[0]
    assert came, "neither has begun"
    first, second = (one, two) if came[0] is one.stdout else (two, one)
    read_until(first.stdout, mark)
    return first, second


def test_an_evaluation_on_the_way_does_not_wait_for_the_training(run, profile):
    """Nor does a second strategy wait for the first."""
    train_run(run)
    name = run.evaluation_name(profile.evaluation)
    with locked(run.folder / LOCK, "the training"), locked(run.record_folder() / f".{name}{LOCK}", "an evaluation"):
        record = evaluate_run(run, replace(profile.evaluation, flip=True))
    assert record["images"] == 3


def test_measuring_again_without_waiting_measures(run, profile):
    """Only who waited takes the other's record: 'deeplabv3 evaluate' is asked to measure."""
    train_run(run)
    evaluate_run(run, profile.evaluation)
    done = []
    evaluate_run(run, profile.evaluation, done.append)
    assert done == [0, 1, 2, 3]


def test_a_lock_ends_with_its_holder_and_not_with_the_holders_children(run, profile_file, tmp_path):
    path = tmp_path / "folder" / LOCK
    with process(profile_file, "hold", path) as started:
        out = b""
        while b"." not in out:
            out += os.read(started.stdout.fileno(), 100)
        child = int(re.search(rb"child (\d+)", out)[1])
        assert is_held(path)
        started.kill()
        started.wait()
        try:
            os.kill(child, 0)  # it lives
            assert not is_held(path)
            with locked(path, "what was held") as waited:
                assert not waited
        finally:
            os.kill(child, signal.SIGKILL)
    assert not path.exists()


def test_a_lock_whose_folder_is_moved_away_is_taken_anew(tmp_path, monkeypatch):
    """As --no-resume does: who waited must not hold a lock that nobody else can find."""
    path, aside = tmp_path / "run" / LOCK, tmp_path / "aside"
    first = lock._take(path)
    assert lock._take(path) is None
    path.parent.rename(aside)
    second = lock._take(path)
    assert second is not None and is_held(path) and is_held(aside / LOCK)
    lock._give_back(path, first)
    assert path.exists() and is_held(path), "it is the second one's by now"
    lock._give_back(path, second)
    assert not path.exists()


def test_the_leader_alone_locks_and_the_team_waits_with_it(tmp_path, capsys, monkeypatch):
    """The others exchange a word now and then while it waits: one exchange would give up after ten minutes."""
    path, asked = tmp_path / LOCK, []
    holder = lock._take(path)

    class Spy(ProcessGroup):
        def gather(self, value):
            asked.append(value)
            if len(asked) == 3:
                lock._give_back(path, holder)
            return [value]

    monkeypatch.setattr(lock, "POLL_S", 0.0)
    with locked(path, "run x", Spy(0, 2)) as waited:
        assert waited
    assert asked == [True, True, True, False]
    assert capsys.readouterr().err.count("busy with run x") == 1
    with locked(path, "run x", Spy(1, 2)) as waited:
        assert not waited and not path.exists()


def test_without_locks_everything_goes_on(tmp_path, monkeypatch):
    """Windows, and file systems that know none."""
    path = tmp_path / "folder" / LOCK
    monkeypatch.setattr(lock, "fcntl", None)
    with locked(path, "a"), locked(path, "b") as waited:
        assert not waited and not is_held(path)
    monkeypatch.undo()

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with locked(path, "a"), locked(path, "b") as waited:
        assert not waited


# Stale and damaged records


def recorded(run: Run, **changes) -> Path:
    """The run's record, its JSON changed afterwards by ``part=function``."""
    run.write_training_record(1.0)
    write(run, 3)
    for name, change in changes.items():
        path = run.record_folder() / (
            "run.json" if name == "training" else f"{run.evaluation_name(run.profile.evaluation)}.json"
        )
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))
    return run.record_folder()


def setting(part: str, **values) -> Callable[[dict], None]:
    return lambda record: record["settings"][part].update(values)


STALE = {
    "unknown model setting": (setting("model", decoder=True), "model setting 'decoder' does not exist any more"),
    "unknown training setting": (setting("training", nesterov=1), "training setting 'nesterov' does not exist"),
    "refused model setting": (setting("model", head="fcn"), "head 'fcn' is unknown"),
    "refused training setting": (setting("training", precision="float16"), "setting 'precision' is 'float16'"),
    "refused network": (setting("model", output_stride=12), "output_stride 12 is not possible"),
    "unknown backbone": (setting("model", backbone="vgg16"), "backbone 'vgg16' is unknown"),
    "another kind": (setting("training", lr="fast"), "training settings are of another kind"),
    "no settings": (lambda record: record["settings"].update(model=[1]), "its model settings are [1]"),
    "another results version": (lambda record: record["settings"].update(results_version=0), "it was made by recipe 0"),
    "another name": (setting("training", lr=0.06), "a run with its settings is called aspp-small_resnet20-os16-"),
}


@pytest.mark.parametrize(("change", "reason"), STALE.values(), ids=STALE)
def test_a_run_whose_settings_are_gone_is_stale_and_not_used(run, profile, change, reason):
    other = run_of(replace(profile, seed=1))
    recorded(other)
    recorded(run, training=change)
    entries = {entry.name: entry for entry in catalogue.entries(PROFILE)}
    assert entries[run.name].flaw.startswith("stale: ")
    assert reason in entries[run.name].flaw
    assert entries[run.name].flaw.endswith(".")
    assert not entries[other.name].flawed
    assert [values["run"] for values, _ in catalogue.all_records(PROFILE)] == [other.name]
    assert catalogue.all_counts(PROFILE, run.name) == {}
    assert len(catalogue.all_counts(PROFILE, other.name)) == 1


STALE_EVALUATIONS = {
    "unknown setting": (lambda record: record["settings"].update(crf=True), "stale: evaluation setting 'crf' does not"),
    "refused setting": (lambda record: record["settings"].update(scales=[]), "stale: the code refuses its evaluation"),
    "impossible stride": (
        lambda record: record["settings"].update(output_stride=64),
        "output_stride 64 is not possible",
    ),
    "another name": (lambda record: record["settings"].update(flip=True), "stale: an evaluation with its settings is"),
    "no number": (lambda record: record.update(miou="high"), "damaged: its mIoU or its class_iou is no number"),
    "nothing in it": (lambda record: record.pop("miou"), "damaged: it lacks miou"),
    "another number": (lambda record: record.update(images=41), "are not those of 41 images"),
    "other counts": (lambda record: record.update(counts="0" * 16), "are not those that it was written with"),
}


@pytest.mark.parametrize(("change", "reason"), STALE_EVALUATIONS.values(), ids=STALE_EVALUATIONS)
def test_an_evaluation_that_is_stale_leaves_its_run_in_use(run, change, reason):
    recorded(run, evaluation=change)
    (entry,) = catalogue.entries(PROFILE)
    assert not entry.flaw and entry.usable == []
    assert reason in entry.evaluations[0].flaw
    ((training, evaluations),) = catalogue.all_records(PROFILE)
    assert (training["run"], evaluations) == (run.name, [])
    assert catalogue.all_counts(PROFILE, run.name) == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 3}', "{}"])
@pytest.mark.parametrize("training", [True, False])
def test_a_damaged_file_is_named_and_holds_nobody_up(run, profile, content, training):
    other = run_of(replace(profile, seed=1))
    recorded(other)
    folder = recorded(run)
    name = "run.json" if training else f"{run.evaluation_name(profile.evaluation)}.json"
    (folder / name).write_text(content)
    entry = next(entry for entry in catalogue.entries(PROFILE) if entry.name == run.name)
    assert (entry.flaw if training else entry.evaluations[0].flaw).startswith("damaged: ")
    assert entry.flawed and entry.usable == []
    assert catalogue.all_records(PROFILE)[-1 if other.name > run.name else 0][0]["run"] == other.name


def test_records_of_before_are_not_stale(run):
    """Settings with a default came later, as did the images' fingerprint, the counts' hash and the speed."""

    def as_before(record: dict) -> None:
        for part, names in (("training", ("precision", "accumulate", "hard_classes")), ("model", ("stride_unit",))):
            for name in names:
                del record["settings"][part][name]

    def evaluated_before(record: dict) -> None:
        for name in ("fingerprint", "images_per_second", "peak_memory_mib", store.COUNTS):
            del record[name]
        del record["settings"]["precision"]

    recorded(run, training=as_before, evaluation=evaluated_before)
    (entry,) = catalogue.entries(PROFILE)
    assert not entry.flawed
    assert run.evaluation_record(run.profile.evaluation)["mark"] == 3
    assert list(catalogue.all_counts(PROFILE, run.name)) == [run.profile.evaluation]


def test_no_record_that_comes_with_the_project_is_stale():
    found = catalogue.entries("mobile")
    assert len(found) >= 7
    assert [entry.name for entry in found if entry.flawed] == []


# Finding


def test_a_run_is_found_by_its_name_its_hash_or_how_they_begin(profile):
    one, two = run_of(profile), run_of(replace(profile, seed=1))
    for run in (one, two):
        recorded(run)
    identifier = one.name[-12:]
    for named in (one.name, identifier, identifier[:7], one.name[:-3]):
        assert catalogue.find(PROFILE, named).name == one.name
    with pytest.raises(UserError, match=f"may be any of .*{one.name}.*; write more of it"):
        catalogue.find(PROFILE, "aspp-")
    with pytest.raises(UserError, match=f"has no run '{identifier[:-1]}x'; did you mean {one.name}"):
        catalogue.find(PROFILE, identifier[:-1] + "x")
    for unlike in ("zzz", ""):
        with pytest.raises(UserError, match="'deeplabv3 records list' shows"):
            catalogue.find(PROFILE, unlike)


# Pruning


def left_by(chosen: prune.Plan, base: Path) -> set[str]:
    prune.delete(chosen)
    return {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}


def test_prune_takes_what_is_stale_and_leaves_what_is_used(profile, workspace):
    good, stale, half = (run_of(replace(profile, seed=seed)) for seed in range(3))
    recorded(good)
    recorded(stale, training=setting("model", decoder=True))
    recorded(half, evaluation=lambda record: record["settings"].update(crf=True))
    evaluation = good.evaluation_name(profile.evaluation)
    lonely = good.record_folder() / "eval-000000000000.npz"
    lonely.write_bytes(b"counts of a writer that was killed")
    partials = {}
    for name, settings in (("done", profile.evaluation), ("later", replace(profile.evaluation, flip=True))):
        stem = naming.partial_stem(settings, "val")
        partials[name] = good.record_folder() / f"{stem}-1-of-2.npz"
        partials[name].write_bytes(b"on the way")
        long_ago(partials[name])
    chosen = prune.plan(PROFILE)
    assert lonely not in chosen.deleted, "its JSON may be about to come"
    long_ago(lonely)
    chosen = prune.plan(PROFILE)
    before = {path for path in workspace.rglob("*") if path.is_file()}
    assert chosen.size() == sum(path.stat().st_size for path in chosen.deleted) > 0
    assert {path for path in workspace.rglob("*") if path.is_file()} == before, "naming deletes nothing"
    base = workspace / "records" / PROFILE
    kept = {f"{good.name}/run.json", f"{half.name}/run.json", f"{good.name}/{partials['later'].name}"}
    kept |= {f"{good.name}/{evaluation}{suffix}" for suffix in (".json", ".npz")}
    assert left_by(chosen, base) == kept
    assert not stale.record_folder().exists(), "nor an empty folder"
    assert prune.plan(PROFILE) == prune.Plan()


def test_a_second_measurement_on_the_way_is_kept(run, profile):
    folder = recorded(run)
    partial = folder / f"{naming.partial_stem(profile.evaluation, 'val')}.npz"
    partial.write_bytes(b"newer than the record")
    later = time.time() + 5
    os.utime(partial, (later, later))
    assert prune.plan(PROFILE).deleted == {}


def test_prune_never_touches_what_comes_with_the_project(run, workspace, tmp_path, monkeypatch):
    (tmp_path / "home" / "data" / "paper").mkdir(parents=True)
    monkeypatch.setenv("DEEPLABV3_HOME", str(tmp_path / "home"))
    recorded(run, training=setting("model", decoder=True))
    (workspace / "records").rename(tmp_path / "home" / "data" / "records")
    write(run, 3)
    assert catalogue.entries(PROFILE)[0].flaw
    assert {path.parent for path in prune.plan(PROFILE).deleted} == {run.record_folder()}


def test_prune_leaves_what_git_tracks_and_says_so(run, workspace):
    folder = recorded(run, training=setting("model", decoder=True))
    git = ["git", "-C", str(workspace), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", str(folder / "run.json")], ["commit", "-q", "-m", "a record"]):
        subprocess.run([*git, *words], check=True)
    chosen = prune.plan(PROFILE)
    assert list(chosen.kept) == [folder / "run.json"]
    assert "git tracks it" in chosen.kept[folder / "run.json"] and "decoder" in chosen.kept[folder / "run.json"]
    assert left_by(chosen, folder) == {"run.json"}


def trained(run: Run, step: int | None = None, **changes) -> Path:
    """The run's folder with a checkpoint, by default the last one, whose settings say something else."""
    train_run(run)
    checkpoint = load_checkpoint(run.checkpoint)
    checkpoint.step = checkpoint.step if step is None else step
    for part, values in changes.items():
        checkpoint.settings[part] |= values
    save_checkpoint(run.checkpoint, checkpoint)
    return run.folder


def test_prune_deletes_networks_only_when_asked(profile, workspace):
    """And of those none that can still be evaluated or go on, unless that is asked for as well."""
    runs = {name: run_of(replace(profile, seed=seed)) for seed, name in enumerate(["good", "stale", "begun", "gone"])}
    folders = {"good": trained(runs["good"]), "stale": trained(runs["stale"])}
    recorded(runs["stale"], training=setting("model", decoder=True))
    folders["begun"] = trained(runs["begun"], step=1)
    (runs["begun"].record_folder() / "run.json").unlink()
    folders["gone"] = trained(runs["gone"], model={"decoder": True})
    (runs["gone"].record_folder() / "run.json").unlink()
    folders["aside"] = folders["good"].with_name(f"{folders['good'].name}.20260101-120000")
    folders["aside"].mkdir()
    (folders["aside"] / "checkpoint.safetensors").write_bytes(runs["good"].checkpoint.read_bytes())
    folders["damaged"] = folders["good"].with_name("aspp-small_resnet20-os16-0123456789ab")
    folders["damaged"].mkdir()
    (folders["damaged"] / "checkpoint.safetensors").write_bytes(b"damaged")
    long_ago(folders["damaged"] / "checkpoint.safetensors")

    def chosen(*options: bool) -> set[str]:
        plan = prune.plan(PROFILE, *options)
        return {name for name, folder in folders.items() if folder in plan.deleted}

    assert chosen() == set()
    assert chosen(True) == {"stale", "gone", "damaged"}
    kept = prune.plan(PROFILE, True).kept
    assert kept[folders["begun"]] == "goes on at step 1 of 3; --unfinished deletes it"
    assert kept[folders["aside"]] == "put aside by --no-resume; --unfinished deletes it"
    assert chosen(True, True) == {"stale", "gone", "damaged", "begun", "aside"}
    prune.delete(prune.plan(PROFILE, True))
    assert {name for name, folder in folders.items() if folder.exists()} == {"good", "begun", "aside"}


def test_prune_leaves_what_another_process_is_busy_with(run, profile):
    folder = recorded(run, training=setting("model", decoder=True))
    run.folder.mkdir(parents=True)
    with locked(run.folder / LOCK, "training"), locked(folder / f".eval-x{LOCK}", "evaluating"):
        chosen = prune.plan(PROFILE, True, True)
        assert chosen.deleted == {}
        assert set(chosen.kept) == {folder, run.folder}
    assert folder / "run.json" in prune.plan(PROFILE, True).deleted


def test_prune_deletes_no_more_than_a_link(run, workspace, tmp_path):
    """A run's folder may be a link to a larger disk."""
    elsewhere = tmp_path / "elsewhere"
    recorded(run, training=setting("model", decoder=True))
    elsewhere.mkdir()
    (elsewhere / "checkpoint.safetensors").write_bytes(b"x")
    run.folder.parent.mkdir(parents=True)
    run.folder.symlink_to(elsewhere)
    prune.delete(prune.plan(PROFILE, True))
    assert not run.folder.is_symlink()
    assert (elsewhere / "checkpoint.safetensors").exists()
