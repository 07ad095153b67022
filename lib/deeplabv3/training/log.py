"""What a run writes while it trains: ``log.csv`` always, TensorBoard's events where that is installed."""

import csv
from pathlib import Path

from deeplabv3.files import write_atomically, writing

COLUMNS = ("step", "loss", "lr", "seconds")


class Log:
    """``log.csv`` in a run's folder: step, loss, learning rate of the head, seconds of training so far.

    A run that resumes at ``start`` drops the lines from there on: they belong to steps that are done again.
    """

    def __init__(self, folder: Path, start: int):
        path = folder / "log.csv"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        rows = [line.split(",") for line in lines[1:]]
        kept = [row for row in rows if len(row) >= 3 and row[0].isdigit() and int(row[0]) < start]
        with writing(path):
            # At once: a run that is killed before its first flush should not take the earlier lines with it.
            write_atomically(path, "".join(",".join(row) + "\n" for row in (COLUMNS, *kept)))
            self._path, self._file = path, path.open("a", newline="")
            self._events = _tensorboard(folder, start)
        self._writer = csv.writer(self._file, lineterminator="\n")

    def __enter__(self) -> "Log":
        return self

    def write(self, step: int, loss: float, lr: float, seconds: float) -> None:
        with writing(self._path):
            self._writer.writerow([step, f"{loss:.6f}", f"{lr:.8f}", f"{seconds:.2f}"])
            if self._events:
                self._events.add_scalar("loss", loss, step)
                self._events.add_scalar("lr", lr, step)

    def write_score(self, step: int, score: float) -> None:
        """The mIoU, in percent, that a validation on the way found."""
        if self._events:
            with writing(self._path):
                self._events.add_scalar("mIoU", score, step)

    def flush(self) -> None:
        """Put on disk what was written so far."""
        with writing(self._path):
            self._file.flush()

    def __exit__(self, *_: object) -> None:
        with writing(self._path):
            self._file.close()
            if self._events:
                self._events.close()


def _tensorboard(folder: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard", purge_step=start, flush_secs=30)
