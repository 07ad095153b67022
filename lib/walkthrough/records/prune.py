"""Deletion of what the workspace holds in vain: stale records, files of killed writers, networks that cannot be used.

Records that come with the project are never looked at; where the workspace is in a checkout, files that git tracks
stay. Runs that another process trains or evaluates stay, too.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deeplabv3.errors import UserError
from deeplabv3.files import abandoned, is_old
from deeplabv3.model.checkpoint import read_header
from walkthrough import paths
from walkthrough.records import catalogue, naming
from walkthrough.records.catalogue import RunRecord
from walkthrough.records.lock import LOCK, is_held


@dataclass
class PrunePlan:
    """Files and folders to delete, and those to keep though one might expect otherwise, each with the reason."""

    delete: dict[Path, str] = field(default_factory=dict)
    keep: dict[Path, str] = field(default_factory=dict)

    def size(self) -> int:
        """Bytes that deleting frees."""
        files = (file for path in self.delete for file in (path.rglob("*") if path.is_dir() else [path]))
        return sum(file.stat().st_size for file in files if file.is_file())


def plan(profile_name: str, runs: bool = False, include_unfinished: bool = False) -> PrunePlan:
    """Return what can be deleted of a profile's records and, with ``runs``, of its networks.

    Networks of finished runs stay: other strategies can still be evaluated with them. Unfinished runs and those that
    ``--no-resume`` has archived stay unless ``include_unfinished``.
    """
    result = PrunePlan()
    records = {record.name: record for record in catalogue.run_records(profile_name)}
    _plan_records(result, paths.local_records() / profile_name, records)
    result.delete |= dict(_leftovers(paths.workspace() / "walkthrough" / profile_name))
    for folder in _folders(paths.workspace() / "runs" / profile_name):
        if is_held(folder / LOCK):
            result.keep[folder] = "another process is training the run"
            continue
        record = records.get(folder.name)
        reason = record.problem if record and record.problem.startswith("stale") else _reason_to_delete(folder)
        unfinished = "" if reason else _reason_to_keep(folder)
        if runs and (reason or (include_unfinished and unfinished)):
            result.delete[folder] = reason or unfinished
            continue
        result.delete |= dict(_leftovers(folder))
        if runs and unfinished:
            result.keep[folder] = f"{unfinished}; --include-unfinished deletes it"
    return result


def delete(chosen: PrunePlan) -> None:
    """Delete what a plan names, and folders that are empty then; a failure is a :class:`UserError`."""
    for path in chosen.delete:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
                if path.parent.is_dir() and not any(path.parent.iterdir()):
                    path.parent.rmdir()
        except OSError as error:
            raise UserError(f"{path} cannot be deleted ({error}); delete it by hand.") from error


def _plan_records(result: PrunePlan, base: Path, records: dict[str, RunRecord]) -> None:
    tracked = _tracked(base)
    for folder in _folders(base):
        if any(is_held(path) for path in folder.glob(f".*{LOCK}")):
            result.keep[folder] = "another process is evaluating the run"
            continue
        reasons = dict(_leftovers(folder))
        if record := records.get(folder.name):
            reasons |= dict(_invalid_files(folder, record)) | dict(_finished_partials(folder, record))
        for path, reason in sorted(reasons.items()):
            if path in tracked:
                result.keep[path] = f"git tracks it, so 'git rm' it yourself; {reason}"
            else:
                result.delete[path] = reason


def _invalid_files(folder: Path, record: RunRecord) -> Iterator[tuple[Path, str]]:
    if record.problem.startswith("stale"):
        yield from ((path, record.problem) for path in folder.iterdir() if path.is_file())
        return
    files = [(record.path, record.problem)]
    for evaluation in record.evaluations:
        files += [(path, evaluation.problem) for path in (evaluation.path, evaluation.counts)]
    # The record may combine files of the workspace with those that come with the project.
    yield from ((path, why) for path, why in files if path and why and path.parent == folder and path.is_file())


def _finished_partials(folder: Path, record: RunRecord) -> Iterator[tuple[Path, str]]:
    for evaluation in record.usable:
        stem = naming.partial_stem(evaluation.settings, evaluation.values["list"])
        recorded = evaluation.path.stat().st_mtime
        for path in folder.glob(f"{stem}*.npz"):
            if path.stat().st_mtime < recorded:  # a later one belongs to a second measurement
                yield path, "its evaluation has a record"


def _leftovers(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that killed writers have left: without their final name, or counts without their JSON file."""
    yield from ((path, "its writer was killed") for path in abandoned(folder))
    for path in folder.glob("eval-*.npz"):
        if not path.with_suffix(".json").exists() and is_old(path):
            yield path, "there is no record beside its counts"


def _reason_to_delete(folder: Path) -> str:
    """Return why no command can use a run's folder, or an empty text."""
    header = read_header(folder)
    if header is None:
        return "it holds no checkpoint that can be read" if all(map(is_old, folder.iterdir())) else ""
    try:
        reason = catalogue.why_stale(header[1], naming.ARCHIVE.sub("", folder.name))
    except KeyError as error:
        reason = f"its checkpoint does not state {error}."
    return reason and f"stale: {reason}"


def _reason_to_keep(folder: Path) -> str:
    """Return why a usable run's folder is not simply that of a finished run, or an empty text."""
    if naming.ARCHIVE.search(folder.name):
        return "put aside by --no-resume"
    if (header := read_header(folder)) and header[0] < (last := header[1]["training"].get("iterations", 0)):
        return f"goes on at step {header[0]} of {last}"
    return ""


def _folders(base: Path) -> list[Path]:
    return sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []


def _tracked(base: Path) -> set[Path]:
    """Files below ``base`` that git tracks; none outside a checkout."""
    if not base.is_dir() or not any((folder / ".git").exists() for folder in (base, *base.resolve().parents)):
        return set()
    try:
        listed = subprocess.run(["git", "-C", str(base), "ls-files", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{base} is part of a git checkout, and git does not say which files it tracks ({error}); see to git first."
        ) from error
    return {base / name for name in listed.stdout.split("\0") if name}
