"""What the workspace holds and nobody needs: stale records, what killed writers left, networks that nothing can use.

Only the workspace is looked at, never the records that come with the project; where the two are one folder, files that
git tracks stay. What another process is busy with stays, too.
"""

import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from deeplabv3.errors import UserError
from deeplabv3.model.checkpoint import read_header
from walkthrough import paths
from walkthrough.records import catalogue, naming
from walkthrough.records.catalogue import RunRecord
from walkthrough.records.lock import LOCK, is_held

FRESH_S = 600.0
"""A file that was written to so recently may still be somebody's work, on this machine or another one."""


@dataclass
class Plan:
    """Files and folders to delete, and what stays though one might expect otherwise, each with the reason."""

    deleted: dict[Path, str] = field(default_factory=dict)
    kept: dict[Path, str] = field(default_factory=dict)

    def size(self) -> int:
        """Bytes that deleting frees."""
        return sum(_size(path) for path in self.deleted)


def plan(profile_name: str, runs: bool = False, unfinished: bool = False) -> Plan:
    """What may go of a profile's records and, with ``runs``, of its networks.

    Networks of finished runs stay: other strategies can still be evaluated with them. Runs on the way and those that
    ``--no-resume`` has put aside stay unless ``unfinished``.
    """
    found, there = Plan(), {entry.name: entry for entry in catalogue.entries(profile_name)}
    _plan_records(paths.workspace() / "records" / profile_name, there, found)
    _plan_runs(paths.workspace() / "runs" / profile_name, there, found, runs, unfinished)
    return found


def delete(chosen: Plan) -> None:
    """Delete what ``chosen`` names, and folders that are empty then; what cannot be is a :class:`UserError`."""
    for path in chosen.deleted:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
                if path.parent.is_dir() and not any(path.parent.iterdir()):
                    path.parent.rmdir()
        except OSError as error:
            raise UserError(f"{path} cannot be deleted ({error}); delete it by hand.") from error


def _plan_records(base: Path, there: dict[str, RunRecord], found: Plan) -> None:
    tracked = _tracked(base)
    for folder in _folders(base):
        if any(is_held(path) for path in folder.glob(f".*{LOCK}")):
            found.kept[folder] = "another process is evaluating the run"
            continue
        useless = dict(_leftovers(folder))
        if entry := there.get(folder.name):
            useless |= dict(_flawed_files(folder, entry)) | dict(_finished_partials(folder, entry))
        for path, reason in sorted(useless.items()):
            if path in tracked:
                found.kept[path] = f"git tracks it, so 'git rm' it yourself; {reason}"
            else:
                found.deleted[path] = reason


def _flawed_files(folder: Path, entry: RunRecord) -> Iterator[tuple[Path, str]]:
    if entry.flaw.startswith("stale"):
        yield from ((path, entry.flaw) for path in folder.iterdir() if path.is_file())
        return
    if entry.flaw and entry.path.parent == folder:
        yield entry.path, entry.flaw
    for evaluation in entry.evaluations:
        if evaluation.flaw and evaluation.path.parent == folder:
            yield from ((path, evaluation.flaw) for path in (evaluation.path, evaluation.counts) if path.is_file())


def _finished_partials(folder: Path, entry: RunRecord) -> Iterator[tuple[Path, str]]:
    for evaluation in entry.usable:
        stem = naming.partial_stem(evaluation.settings, evaluation.values["list"])
        recorded = evaluation.path.stat().st_mtime
        # A later one is a second measurement on the way.
        yield from (
            (path, "its evaluation has a record")
            for path in folder.glob(f"{stem}*.npz")
            if path.stat().st_mtime < recorded
        )


def _leftovers(folder: Path) -> Iterator[tuple[Path, str]]:
    """What writers that were killed have left: files without their final name, and counts without their JSON."""
    for pattern in (".*.partial", ".*.fresh"):
        yield from ((path, "its writer was killed") for path in folder.glob(pattern) if _is_old(path))
    for path in folder.glob("eval-*.npz"):
        if not path.with_suffix(".json").exists() and _is_old(path):
            yield path, "there is no record beside its counts"


def _plan_runs(base: Path, there: dict[str, RunRecord], found: Plan, runs: bool, unfinished: bool) -> None:
    for folder in _folders(base):
        if is_held(folder / LOCK):
            found.kept[folder] = "another process is training the run"
            continue
        entry = there.get(folder.name)
        reason = entry.flaw if entry and entry.flaw.startswith("stale") else _unusable(folder)
        wanted = "" if reason else _reason_to_keep(folder)
        if runs and (reason or (unfinished and wanted)):
            found.deleted[folder] = reason or wanted
            continue
        found.deleted |= dict(_leftovers(folder))
        if runs and wanted:
            found.kept[folder] = f"{wanted}; --unfinished deletes it"


def _unusable(folder: Path) -> str:
    """Why no command can make anything of a run's folder, or the empty text."""
    header = read_header(folder)
    if header is None:
        return "it holds no checkpoint that can be read" if all(map(_is_old, folder.iterdir())) else ""
    try:
        # What was put aside carries the time behind its name.
        reason = catalogue.why_stale(header[1], folder.name.partition(".")[0])
    except KeyError as error:
        reason = f"its checkpoint does not state {error}."
    return reason and f"stale: {reason}"


def _reason_to_keep(folder: Path) -> str:
    """What a run's folder is to somebody, where it is not simply that of a finished run."""
    if "." in folder.name:
        return "put aside by --no-resume"
    if (header := read_header(folder)) and header[0] < (last := header[1]["training"].get("iterations", 0)):
        return f"goes on at step {header[0]} of {last}"
    return ""


def _folders(base: Path) -> list[Path]:
    return sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []


def _tracked(base: Path) -> set[Path]:
    """The files below ``base`` that git tracks; none where it is not part of a checkout."""
    if not base.is_dir() or not any((folder / ".git").exists() for folder in (base, *base.resolve().parents)):
        return set()
    try:
        listed = subprocess.run(["git", "-C", str(base), "ls-files", "-z"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{base} is part of a git checkout, and git does not say which files it tracks ({error}); see to git first."
        ) from error
    return {base / name for name in listed.stdout.split("\0") if name}


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > FRESH_S
    except OSError:  # gone: its writer is at work
        return False


def _size(path: Path) -> int:
    files: Iterable[Path] = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
