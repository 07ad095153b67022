"""Pruning: stale and unfinished files go, everything that is used, tracked or locked stays."""

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from record_helpers import PROFILE, make_old, make_trained, recorded, run_of, setting, write

from walkthrough.experiments.run import train_run
from walkthrough.records import catalogue, naming, prune
from walkthrough.records.lock import LOCK, locked
from walkthrough.records.run import Run


@pytest.fixture
def run(profile) -> Run:
    return run_of(profile)


def left_by(chosen: prune.PrunePlan, base: Path) -> set[str]:
    prune.delete(chosen)
    return {str(path.relative_to(base)) for path in base.rglob("*") if path.is_file()}


def test_prune_deletes_stale_records_only(profile, workspace):
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
        make_old(partials[name])
    chosen = prune.plan(PROFILE)
    assert lonely not in chosen.delete, "its JSON may be about to come"
    make_old(lonely)
    chosen = prune.plan(PROFILE)
    before = {path for path in workspace.rglob("*") if path.is_file()}
    assert chosen.size() == sum(path.stat().st_size for path in chosen.delete) > 0
    assert {path for path in workspace.rglob("*") if path.is_file()} == before, "naming deletes nothing"
    base = workspace / "records" / PROFILE
    kept = {f"{good.name}/run.json", f"{half.name}/run.json", f"{good.name}/{partials['later'].name}"}
    kept |= {f"{good.name}/{evaluation}{suffix}" for suffix in (".json", ".npz")}
    assert left_by(chosen, base) == kept
    assert not stale.record_folder().exists(), "nor an empty folder"
    assert prune.plan(PROFILE) == prune.PrunePlan()


def test_prune_keeps_partial_second_measurement(run, profile):
    folder = recorded(run)
    partial = folder / f"{naming.partial_stem(profile.evaluation, 'val')}.npz"
    partial.write_bytes(b"newer than the record")
    later = time.time() + 5
    os.utime(partial, (later, later))
    assert prune.plan(PROFILE).delete == {}


def test_prune_never_touches_committed_records(run, workspace, tmp_path, monkeypatch):
    (tmp_path / "home" / "data" / "paper").mkdir(parents=True)
    monkeypatch.setenv("DEEPLABV3_HOME", str(tmp_path / "home"))
    recorded(run, training=setting("model", decoder=True))
    (workspace / "records").rename(tmp_path / "home" / "data" / "records")
    write(run, 3)
    assert catalogue.run_records(PROFILE)[0].problem
    assert {path.parent for path in prune.plan(PROFILE).delete} == {run.record_folder()}


def test_prune_keeps_and_names_git_tracked_files(run, workspace):
    folder = recorded(run, training=setting("model", decoder=True))
    git = ["git", "-C", str(workspace), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", str(folder / "run.json")], ["commit", "-q", "-m", "a record"]):
        subprocess.run([*git, *words], check=True)
    chosen = prune.plan(PROFILE)
    assert list(chosen.keep) == [folder / "run.json"]
    assert "git tracks it" in chosen.keep[folder / "run.json"] and "decoder" in chosen.keep[folder / "run.json"]
    assert left_by(chosen, folder) == {"run.json"}


def test_prune_deletes_networks_only_when_asked(profile, workspace):
    """And of those none that can still be evaluated or go on, unless that is asked for as well."""
    runs = {name: run_of(replace(profile, seed=seed)) for seed, name in enumerate(["good", "stale", "begun", "gone"])}
    folders = {"good": make_trained(runs["good"]), "stale": make_trained(runs["stale"])}
    recorded(runs["stale"], training=setting("model", decoder=True))
    folders["begun"] = make_trained(runs["begun"], step=1)
    (runs["begun"].record_folder() / "run.json").unlink()
    folders["gone"] = make_trained(runs["gone"], model={"decoder": True})
    (runs["gone"].record_folder() / "run.json").unlink()
    folders["aside"] = folders["good"].with_name(f"{folders['good'].name}.20260101-120000")
    folders["aside"].mkdir()
    (folders["aside"] / "checkpoint.safetensors").write_bytes(runs["good"].checkpoint.read_bytes())
    folders["damaged"] = folders["good"].with_name("aspp-small_resnet20-os16-0123456789ab")
    folders["damaged"].mkdir()
    (folders["damaged"] / "checkpoint.safetensors").write_bytes(b"damaged")
    make_old(folders["damaged"] / "checkpoint.safetensors")

    def chosen(*options: bool) -> set[str]:
        plan = prune.plan(PROFILE, *options)
        return {name for name, folder in folders.items() if folder in plan.delete}

    assert chosen() == set()
    assert chosen(True) == {"stale", "gone", "damaged"}
    kept = prune.plan(PROFILE, True).keep
    assert kept[folders["begun"]] == "goes on at step 1 of 3; --include-unfinished deletes it"
    assert kept[folders["aside"]] == "put aside by --no-resume; --include-unfinished deletes it"
    assert chosen(True, True) == {"stale", "gone", "damaged", "begun", "aside"}
    prune.delete(prune.plan(PROFILE, True))
    assert {name for name, folder in folders.items() if folder.exists()} == {"good", "begun", "aside"}


def test_prune_keeps_locked_runs(run, profile):
    folder = recorded(run, training=setting("model", decoder=True))
    run.folder.mkdir(parents=True)
    with locked(run.folder / LOCK, "training"), locked(folder / f".eval-x{LOCK}", "evaluating"):
        chosen = prune.plan(PROFILE, True, True)
        assert chosen.delete == {}
        assert set(chosen.keep) == {folder, run.folder}
    assert folder / "run.json" in prune.plan(PROFILE, True).delete


def test_prune_deletes_links_not_targets(run, workspace, tmp_path):
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


def test_prune_names_leftovers_of_every_writer(run, workspace):
    """Of a training, of its archive, of an evaluation and of a walkthrough; one that is fresh stays."""
    recorded(run)
    make_trained(run)
    archive = run.folder.with_name(f"{run.name}.20260101-120000")
    shutil.copytree(run.folder, archive)
    walk = workspace / "walkthrough" / PROFILE
    walk.mkdir(parents=True)
    folders = (run.folder, archive, run.record_folder(), walk)
    old = [folder / ".state.0123abcd.partial.json" for folder in folders]
    for path in (*old, walk / ".state.89abcdef.partial.json"):
        path.touch()
    for path in old:
        make_old(path)
    assert set(prune.plan(PROFILE).delete) == set(old)


def test_training_removes_leftovers_of_killed_ones(run):
    run.folder.mkdir(parents=True)
    leftover = run.folder / ".checkpoint.0123abcd.partial.safetensors"
    leftover.touch()
    train_run(run)
    assert not leftover.exists() and run.checkpoint.is_file()
