"""The book that a walkthrough ends in: a page on the run, the notebooks as executed in it, the guides, the API."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil

from deeplabv3.errors import UserError
from deeplabv3.signals import sigterm_interrupts
from walkthrough import paths

START = Path("book/docs/walkthrough.html")
"""The page on the run, in the output folder."""

PACKAGES = ("autoapi", "latex2mathml", "myst_nb", "sphinx", "sphinx_book_theme")
"""Packages of the extra ``book``."""

PAGES = ("*.md", "docs/*.*", "data/README.md", "LICENSE", "CITATION.cff")
"""Files of the checkout that are pages of the book, or that those link to."""


def end_in_book(output: Path, executed: Collection[str]) -> None:
    """Build the book of the notebooks ``executed`` in ``output``, and print the page to open or what is missing."""
    if not (paths.home() / "docs/book/conf.py").is_file() or not all(map(find_spec, PACKAGES)):
        wanted = "docs/book of the checkout and the extra 'book' (pip install -e '.[book]')"
        print(f"No book is built, which needs {wanted}; the executed notebooks are in {output}.")
        return
    print("building the book …", flush=True)
    with sigterm_interrupts(), own_folder(output, ".book-") as aside:
        write_book(output, executed, Path(aside))
    print(f"book       {output / START}")


@contextmanager
def own_folder(output: Path, beginning: str) -> Iterator[str]:
    """A folder in ``output`` for the files of this process; those that killed processes have left are deleted."""
    for folder in output.glob(f"{beginning}*"):
        if not psutil.pid_exists(int(folder.name.removeprefix(beginning).partition("-")[0])):
            shutil.rmtree(folder, ignore_errors=True)
    prefix = f"{beginning}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=output, ignore_cleanup_errors=True) as private:
        yield private


def write_book(output: Path, executed: Collection[str], aside: Path) -> str:
    """Build ``book/`` in ``output`` from the notebooks ``executed`` there, and return Sphinx's warnings.

    Sphinx works in the folder ``aside``, and an earlier book is replaced when the new one is whole.
    """
    home, source, book = paths.home(), aside / "source", output / START.parts[0]
    files = {str(path.relative_to(home)): path for pattern in PAGES for path in home.glob(pattern)}
    files |= {f"notebooks/{name}.ipynb": output / f"{name}.ipynb" for name in executed}
    if (output / "claims.png").is_file():
        files["docs/walkthrough.png"] = output / "claims.png"
    for name, path in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / name)
    (source / "docs/walkthrough.md").write_text(start_page(output, files.keys()), "utf-8")

    command: list[str | Path] = [sys.executable, "-B", "-m", "sphinx", "-q", "-c", home / "docs/book"]
    command += ["-d", aside / "trees", source, aside / "html"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the book could not be built; the notebooks are in {output}. Sphinx says:\n{done.stderr}")
    if book.exists():
        os.replace(book, aside / "earlier")
    os.replace(aside / "html", book)
    return done.stderr


def start_page(output: Path, files: Collection[str]) -> str:
    """MyST Markdown: the summary with links to those notebooks that are ``files`` of the book, claims and tables."""
    summary = (output / "summary.md").read_text("utf-8")
    for file in files:
        summary = summary.replace(f"| {Path(file).stem} ", f"| [](/{file}) ")
    parts = ["# This walkthrough", "The notebooks of this book as they were executed here.", summary]
    if (output / "reproduction.json").is_file():
        parts.append(json.loads((output / "reproduction.json").read_text("utf-8"))["summary"])
    if "docs/walkthrough.png" in files:
        parts.append("![Each claim: the paper's difference, ours, and the verdict](walkthrough.png)")
    reports = (output / f"{name}.md" for name in ("reproduction", "claims", "tables"))
    return "\n\n".join([*parts, *(path.read_text("utf-8") for path in reports if path.is_file())])
