"""Execute the notebooks with papermill, side by side, resume an interrupted run, and build a book of the results.

The output folder holds the executed notebooks ``NN_name.ipynb``, ``summary.md``, the paper's tables, the book, and
``state.json``: each notebook's state and the hash of everything it depends on.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import papermill
from nbformat import NotebookNode
from tqdm import tqdm

from deeplabv3.errors import UserError
from deeplabv3.files import abandoned, write_atomically
from deeplabv3.signals import sigterm_interrupts
from walkthrough import paths
from walkthrough.notebooks.book import end_in_book
from walkthrough.notebooks.clean import clean
from walkthrough.notebooks.execute import execute, execute_each, read, shares_of_cores, write
from walkthrough.profiles import Profile, load_profile

PACKAGES = tuple(Path(__file__).parents[2] / name for name in ("deeplabv3", "walkthrough"))
"""Folders whose sources a notebook's result depends on."""


def walkthrough(
    profile: str | None,
    only: list[str],
    output: Path | None,
    fresh: bool,
    parameters: dict[str, Any],
    notebooks: Path | None = None,
) -> int:
    """Execute the notebooks that are not done yet, make tables and the book, and return the exit code.

    Ctrl-C and SIGTERM end the kernels; what is executed is kept.

    Args:
        profile: name or YAML file; every notebook gets it.
        only: notebooks such as ``03`` or ``03_cascade``; empty: all.
        output: folder of the results, by default ``walkthrough/PROFILE`` in the workspace.
        fresh: execute notebooks again that are done.
        parameters: further parameters of every notebook.
        notebooks: folder of the sources, by default the checkout's.
    """
    chosen = load_profile(profile)
    given = profile or os.environ.get("DEEPLABV3_PROFILE") or "offline"
    if given.endswith((".yaml", ".yml")):
        given = str(Path(given).resolve())  # the kernels work in another folder
    if "profile" in parameters:
        raise UserError("parameter 'profile' belongs to the whole walkthrough; name the profile with --profile.")
    values = {"profile": given, **parameters}

    folder = (notebooks or paths.home() / "notebooks").resolve()
    sources = read_notebooks(folder)
    names = _select(list(sources), only)
    for name in names:
        _check_parameters(name, sources[name], values)
    output = (output or output_folder(chosen)).resolve()
    state = _open_output(output, folder, sources)

    hashes = {name: _hash(sources[name], chosen, values) for name in names}
    shares = shares_of_cores(chosen)
    done = [name for name in names if _is_done(output, name, state) and state[name]["hash"] == hashes[name]]
    if len(shares) == 1:  # a notebook may read what those before it have recorded
        done = list(takewhile(set(done).__contains__, names))
    done = [] if fresh else done
    for name in done:
        print(f"{name} … done before")
    left = [name for name in names if name not in done]
    try:
        with sigterm_interrupts():
            trouble = _execute_all(
                {name: sources[name] for name in left}, shares, folder, output, values, hashes, state
            )
        if not trouble:
            from walkthrough.report.claims import write_claims
            from walkthrough.report.reproduction_page import write_comparison
            from walkthrough.report.tables import write_tables

            write_tables(chosen, output)
            write_claims(chosen, output)
            write_comparison(chosen, output)
    finally:  # also after an error or Ctrl-C
        _write_summary(output, sources, state, before=done)
    if trouble:
        again = "The same command without --fresh" if fresh else "The same command"
        print(f"\n{trouble}\n{again} goes on from there.", file=sys.stderr)
        return 1
    end_in_book(output, [name for name in sources if _is_done(output, name, state)])
    return 0


def output_folder(profile: str | Profile | None) -> Path:
    """Default folder of the results of ``profile``."""
    return paths.workspace() / "walkthrough" / load_profile(profile).name


def read_notebooks(folder: Path) -> dict[str, NotebookNode]:
    """The notebooks ``NN_name.ipynb`` of ``folder`` by name, in order."""
    found = sorted(path for path in folder.glob("*.ipynb") if re.fullmatch(r"\d\d_[\w-]+", path.stem))
    if not found:
        raise UserError(f"{folder} has no notebooks such as 00_start_here.ipynb; set DEEPLABV3_HOME to the checkout.")
    return {path.stem: read(path) for path in found}


def _select(names: list[str], only: list[str]) -> list[str]:
    selected = set()
    for item in only:
        wanted = Path(item).name.removesuffix(".ipynb")
        found = [name for name in names if wanted in (name, name[:2])]
        if not found:
            raise UserError(f"notebook {item!r} is unknown; choose from {', '.join(names)}.")
        selected.update(found)
    return [name for name in names if name in selected] if only else names


def _check_parameters(name: str, notebook: NotebookNode, values: Mapping[str, Any]) -> None:
    """Refuse an unknown parameter, of which papermill only warns."""
    if not any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        raise UserError(f"notebook {name} has no cell tagged 'parameters'; tag the one that says 'profile = None'.")
    known = papermill.inspect_notebook(clean(notebook))  # ``clean`` adds the kernel's name, which papermill wants
    for value in values:
        if value not in known:
            raise UserError(f"notebook {name} has no parameter {value!r}; its parameters are {', '.join(known)}.")


def _open_output(output: Path, folder: Path, names: Iterable[str]) -> dict[str, dict]:
    """State of every notebook in ``output``, which is made and must be writable before hours go into it."""
    if output == folder:
        raise UserError(f"output folder {output} is the one of the notebooks themselves; name another with --output.")
    file = output / "state.json"
    try:
        state = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError:
        state = {}  # damaged: execute everything again
    for name in names:
        state.setdefault(name, {"state": "not executed", "minutes": 0.0, "hash": ""})
    try:
        output.mkdir(parents=True, exist_ok=True)
        for leftover in abandoned(output):
            leftover.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"output folder {output} cannot be written ({error}); name another with --output.") from error
    _write_state(output, state)
    return state


def _write_state(output: Path, state: Mapping[str, dict]) -> None:
    write_atomically(output / "state.json", json.dumps(state, indent=1, sort_keys=True) + "\n")


def _is_done(output: Path, name: str, state: Mapping[str, dict]) -> bool:
    return state[name]["state"] == "done" and (output / f"{name}.ipynb").is_file()


def _hash(notebook: NotebookNode, profile: Profile, values: Mapping[str, Any]) -> str:
    """Hash of everything that an executed notebook depends on: cells, parameters, profile, both packages, records."""
    cells = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
    digest = hashlib.sha256(json.dumps([cells, values, repr(profile)], default=str).encode())
    for package in PACKAGES:
        for file in sorted(file for file in package.rglob("*") if file.suffix in (".py", ".yaml")):
            digest.update(f"{package.name}/{file.relative_to(package)}\0".encode() + file.read_bytes())
    if shipped := paths.shipped_records():
        for file in sorted(shipped.glob("*/*/*.json")):
            digest.update(f"{file.relative_to(shipped)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _execute_all(
    sources: Mapping[str, NotebookNode],
    shares: Sequence[set[int]],
    folder: Path,
    output: Path,
    values: dict,
    hashes: dict,
    state: dict,
) -> str:
    """Execute notebooks until one fails; return the failure's description, empty if there is none.

    Args:
        sources: the notebooks to execute by name, in order.
        shares: the cores of each that is executed at a time.
        folder: of the sources.
        output: of the results.
        values: parameters of every notebook.
        hashes: of each notebook, kept in its state.
        state: of every notebook; updated here and in ``state.json``.
    """
    terminal = sys.stderr.isatty()  # elsewhere, as in CI, a bar would print a line for every step
    say = (lambda line: None) if terminal else (lambda line: print(line, flush=True))
    for name in sources:
        state[name]["state"] = "not executed"  # also if this run is killed
    _write_state(output, state)
    started: dict[str, float] = {}

    def start(name: str) -> None:
        started[name] = time.monotonic()
        bar.set_description(" ".join(started))
        say(f"{name} … started")

    def end(name: str, outcome: str) -> None:
        state[name] = {"state": outcome, "minutes": (time.monotonic() - started.pop(name)) / 60, "hash": hashes[name]}
        _write_state(output, state)
        bar.set_description(" ".join(started))
        say(f"{name} … {outcome} in {state[name]['minutes']:.1f} min")

    execute_one = partial(execute, folder, output, values, terminal)
    with (
        tqdm(total=len(sources), unit="notebook", disable=not terminal) as bar,
        closing(execute_each(execute_one, sources, shares, start)) as ended,
    ):
        try:
            for name, failure in ended:
                end(name, "failed" if failure else "done")
                bar.update(not failure)
                if failure:
                    return failure
        finally:
            for name in list(started):
                end(name, "interrupted")
    return ""


def refresh(output: Path, notebooks: Path, only: Sequence[str] = ()) -> None:
    """Replace the sources by the executed notebooks in ``output``, all or ``only`` those named."""
    sources = read_notebooks(notebooks)
    state = _open_output(output.resolve(), notebooks.resolve(), sources)
    executed = {name: clean(read(output / f"{name}.ipynb")) for name in sources if _is_done(output, name, state)}
    names = _select(list(sources), list(only))
    for name in names:
        if name not in executed or [c.source for c in executed[name].cells] != [c.source for c in sources[name].cells]:
            raise UserError(f"notebook {name} as it is now is not executed in {output}; run the walkthrough first.")
    for name in names:
        write(notebooks / f"{name}.ipynb", executed[name])


def _write_summary(output: Path, names: Iterable[str], state: Mapping[str, dict], before: list[str]) -> None:
    """Write ``summary.md``, and print it with the paths of all results."""
    lines = [f"| {'notebook':24} | minutes | state        |", f"| {'-' * 24} | ------: | ------------ |"]
    for name in names:
        word = "done before" if name in before else state[name]["state"]
        lines.append(f"| {name:24} | {state[name]['minutes']:7.1f} | {word:12} |")
    write_atomically(output / "summary.md", "\n".join(lines) + "\n")
    print("\n" + "\n".join(lines) + f"\n\nnotebooks  {output}")
    for name in ("tables", "claims", "reproduction"):
        if (output / f"{name}.md").is_file():
            print(f"{name:10} {output / f'{name}.md'}")
    if (output / "reproduction.json").is_file():
        print(json.loads((output / "reproduction.json").read_text())["summary"])
