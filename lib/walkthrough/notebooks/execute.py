"""Notebooks in kernels of this Python: one with papermill, or two at a time, each on its share of the cores."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from deeplabv3.errors import UserError
from deeplabv3.files import write_atomically
from deeplabv3.machine import ALL_CORES, available_cpus
from deeplabv3.signals import sigterm_interrupts
from walkthrough import paths
from walkthrough.experiments.processes import as_they_end
from walkthrough.notebooks.book import own_folder
from walkthrough.notebooks.clean import clean
from walkthrough.profiles import Profile

KERNELS = ".kernels-"
"""Beginning of the names of folders in the output folder with the kernels' own files; a process's number follows."""


def read(path: Path) -> NotebookNode:
    """The notebook in a file; a damaged one is a :class:`UserError`."""
    try:
        return nbformat.read(path, as_version=4)
    except ValueError as error:
        raise UserError(f"{path} is not a valid notebook ({str(error)[:80]}); restore it.") from error


def write(path: Path, notebook: NotebookNode) -> None:
    """Write the notebook to a file, whole or not at all."""
    write_atomically(path, nbformat.writes(notebook) + "\n")


def shares_of_cores(profile: Profile) -> list[set[int]]:
    """The cores of each notebook that is executed at a time: half of them for each of two, where nothing is in the way.

    One notebook at a time has them all where the profile lacks records: it may read those that another one makes. So
    it is on a GPU, which both would share, and where a process cannot be bound to cores (macOS) or may not use all
    that it sees (a container).
    """
    import torch

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2 or len(cores) > available_cpus() or torch.cuda.is_available() or not _is_recorded(profile):
        return [set(cores)]
    return [set(cores[::2]), set(cores[1::2])]


def _is_recorded(profile: Profile) -> bool:
    """True where all evaluations of all tables have a record."""
    from walkthrough.experiments.sweep import plan

    try:
        return not plan(profile).tasks
    except UserError:  # such as images that are not there
        return False


def execute_each(
    execute_one: Callable[[int, str], str],
    sources: Mapping[str, NotebookNode],
    shares: Sequence[set[int]],
    start: Callable[[str], None],
) -> Generator[tuple[str, str]]:
    """Execute notebooks; yield each one's name when it has ended, and the description of its failure.

    One at a time is executed in this process and in order. Of several, those whose metadata say that they take minutes
    come first, so that all cores are busy as long as there are several.
    """
    names = list(sources)
    if len(shares) == 1 or len(names) == 1:
        for name in names:
            start(name)
            yield name, execute_one(0, name)
        return
    names.sort(key=lambda name: -sources[name].metadata.get("minutes", 0))
    with closing(
        as_they_end(execute_one, names, len(shares), partial(_bind, shares), lambda n: start(names[n]))
    ) as ended:
        for number, result in ended:
            try:
                yield names[number], result.result()
            except BrokenProcessPool:
                yield names[number], f"{names[number]} failed: its process was killed, often for want of memory."


_slot = 0


def _bind(shares: Sequence[set[int]], slot: int) -> None:
    """Give this process, and the kernels that it starts, their share of the cores."""
    global _slot
    _slot = slot
    os.environ[ALL_CORES] = str(sum(map(len, shares)))
    with suppress(OSError):  # in a sandbox that does not allow it
        os.sched_setaffinity(0, shares[slot])
    time.sleep(2 * slot)  # a kernel's free ports are chosen first and bound then: two at once might get the same


def execute(folder: Path, output: Path, values: Mapping[str, Any], terminal: bool, number: int, name: str) -> str:
    """Execute one notebook, in any process; return the description of its failure, empty if there is none."""
    cells = {"position": 1 + _slot, "leave": False, "desc": "cells"} if terminal else False
    with sigterm_interrupts(), _kernel_environment(values["profile"], output):
        try:
            _papermill(folder / f"{name}.ipynb", output, values, cells)
        except (PapermillExecutionError, RuntimeError, TimeoutError) as error:  # the last two: the kernel died
            return _describe(error, name, output / f"{name}.failed.ipynb")
    return ""


def _papermill(source: Path, output: Path, values: Mapping[str, Any], cells: bool | dict) -> None:
    """Execute one notebook; if it fails or is interrupted, the part that ran is kept as ``NN_name.failed.ipynb``."""
    done, partial, failed = (output / f"{source.stem}{suffix}.ipynb" for suffix in ("", ".partial", ".failed"))
    for older in (done, failed):
        older.unlink(missing_ok=True)  # or they pass for results of this run
    for logger in ("papermill", "asyncio"):  # errors are raised; what is logged of a kernel that was stopped is none
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        executed = papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (source, partial)),  # papermill formats paths
            parameters=dict(values),
            kernel_name="python3",
            language="python",
            kernel_manager_class=_ThisPython,
            cwd=source.parent,
            progress_bar=cells,
            start_timeout=300,  # a machine that is busy training is slow to start a kernel
            iopub_timeout=60,
            extra_arguments=["--log-level=50"],  # ipykernel warns of its transport at every start
        )
        write(done, clean(executed))
        partial.unlink()
    except BaseException:
        # Ctrl-C may fall between the making of one of nbclient's coroutines and its first step, which Python reports.
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        if partial.is_file():
            os.replace(partial, failed)
        raise


class _ThisPython(AsyncKernelManager):
    """Kernel manager of the running interpreter, not of a kernel ``python3`` registered on the machine.

    What a kernel itself writes to stderr, such as tracebacks of its end, goes to a file beside its own files.
    """

    @default("kernel_spec_manager")
    def _kernel_spec_manager_default(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        with open(_kernel_stderr(), "wb") as file:
            await super()._async_launch_kernel(kernel_cmd, **options | {"stderr": file})


def _kernel_stderr() -> Path:
    return Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "stderr.txt"


@contextmanager
def _kernel_environment(profile: str, output: Path) -> Iterator[None]:
    """Environment variables of the kernels: the profile, absolute folders, and nothing of the user's own set-up."""
    with own_folder(output, KERNELS) as private:
        values = {"DEEPLABV3_PROFILE": profile, "IPYTHONDIR": private, "JUPYTER_RUNTIME_DIR": private}
        # With an MPLBACKEND such as Agg, usual on servers, the notebooks would have no figures.
        values["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        values["DEEPLABV3_WIDGETS"] = "0"  # nobody is there to move a control, even where a Jupyter kernel started this
        for name in ("DEEPLABV3_HOME", "DEEPLABV3_WORKSPACE", "DEEPLABV3_DATA"):
            if os.environ.get(name):
                values[name] = str(Path(os.environ[name]).resolve())
        with paths.environment(values):
            yield


def _describe(error: Exception, name: str, failed: Path) -> str:
    """Message on a failed notebook: the cell, the end of its error, and the file with the rest."""
    number, text, stderr = 0, str(error), _kernel_stderr()
    if stderr.is_file():
        text += "\n" + stderr.read_text(errors="replace")
    if isinstance(error, PapermillExecutionError):
        number, text = error.exec_count, "\n".join(error.traceback) or f"{error.ename}: {error.evalue}"
    elif failed.is_file():
        cells = [cell for cell in read(failed).cells if cell.cell_type == "code" and cell.source.strip()]
        number = sum(bool(cell.metadata.papermill["start_time"]) for cell in cells)
    where = f"in cell [{number}]" if number else "before its first cell"
    lines = "\n".join(f"    {line}" for line in strip_ansi(text).strip().splitlines()[-15:])
    return f"{name} failed {where}:\n{lines}\nThe partly executed notebook is {failed}."
