"""Log of a training run: ``log.csv`` always, TensorBoard's events where that is installed and works."""

import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from deeplabv3.files import write_atomically

HEADER = "step,loss,lr,seconds\n"


class Log:
    """``log.csv`` in a run's folder: step, loss, learning rate of the head, seconds of training so far.

    A run that resumes at step ``start`` drops the lines from there on: those steps are done again. Only the main
    process writes.
    """

    def __init__(self, folder: Path, start: int, is_main: bool = True):
        self._path, self._is_main, self._events = folder / "log.csv", is_main, None
        lines = self._path.read_text(errors="replace").splitlines() if self._path.exists() else []
        rows = [line.split(",") for line in lines[1:]]
        kept = [row for row in rows if len(row) >= 3 and row[0].isdigit() and int(row[0]) < start]
        self._lines = [HEADER, *(",".join(row) + "\n" for row in kept)]
        self.flush()
        if is_main and find_spec("tensorboard"):
            try:
                from torch.utils.tensorboard import SummaryWriter

                self._events = SummaryWriter(folder / "tensorboard", purge_step=start, flush_secs=30)
            except Exception as error:  # such as another version of protobuf than TensorBoard's
                self._give_up(error)

    def __enter__(self) -> "Log":
        return self

    def write(self, step: int, loss: float, lr: float, seconds: float) -> None:
        """Add a line, which :meth:`flush` puts on disk."""
        self._lines.append(f"{step},{loss:.6f},{lr:.8f},{seconds:.2f}\n")
        self._event(step, loss=loss, lr=lr)

    def write_score(self, step: int, score: float) -> None:
        """Add the mIoU, in percent, of a validation during training; to TensorBoard only."""
        self._event(step, mIoU=score)

    def _event(self, step: int, **values: float) -> None:
        if (events := self._events) is None:
            return
        try:
            for name, value in values.items():
                events.add_scalar(name, value, step)
        except Exception as error:  # such as a full disk
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._events = None
        warnings.warn(f"no more events for TensorBoard ({error}); log.csv has all values.", stacklevel=4)

    def flush(self) -> None:
        """Write ``log.csv`` anew, with all lines so far."""
        if self._is_main:
            write_atomically(self._path, "".join(self._lines))

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self._events:
            with suppress(Exception):
                self._events.close()
