"""Progress of several tasks and the time left: a bar on a terminal, a line a minute in a file."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from walkthrough.experiments.task import Task

LINE_EVERY_S = 60.0
"""Seconds between lines where there is no terminal, as in the log of a CI job."""


class Progress:
    """Progress bar of ``tasks``, which report their positions in multiply-adds, with the ``names`` of those at work.

    The time left follows from the mean speed since this start; what was done before counts as done, not for the speed.
    """

    def __init__(self, tasks: Sequence[Task], title: str, names: Sequence[str] = ()):
        self._tasks, self._title, self._names = tasks, title, names
        self._positions = [task.done() for task in tasks]
        self._ended: set[int] = set()
        self._at_work: dict[int, str] = {}  # loss by task
        self._watched = sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")
        self._began = self._written = time.monotonic()
        self._bar = tqdm(
            total=sum(task.total for task in tasks),
            initial=sum(self._positions),
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left{postfix}",
            desc=self._describe(),
            smoothing=0,  # the mean speed: side by side, steps of all sizes come in any order
            mininterval=1,
            dynamic_ncols=True,
            leave=False,
            disable=not self._watched,
        )
        self._before, self._total = sum(self._positions), sum(task.total for task in tasks)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def moved(self, number: int, position: int, loss: float | None = None) -> None:
        """Show that task ``number`` is at ``position``, with the loss of its last step."""
        change = position - self._positions[number]
        self._positions[number] = position
        if number not in self._ended:
            before = self._at_work.get(number, "")
            self._at_work[number] = before if loss is None else f"loss={loss:.3f}"
        self._show(change)

    def ended(self, number: int, failed: bool = False) -> None:
        """Show that task ``number`` is done, or has failed and does not count any more."""
        self._ended.add(number)
        self._at_work.pop(number, None)
        rest = self._tasks[number].total - self._positions[number]
        if failed:
            self._total -= rest
            self._bar.total = self._total
            rest = 0
        self._positions[number] += rest
        self._show(rest)

    def seconds_left(self) -> float | None:
        """Seconds until all tasks are done; None before the first report."""
        done = sum(self._positions) - self._before
        left = self._total - sum(self._positions)
        return (time.monotonic() - self._began) / done * left if done > 0 else None

    def _describe(self) -> str:
        return f"{self._title}, {len(self._ended)} of {len(self._tasks)} runs"

    def _now(self) -> str:
        """Names and losses of the tasks at work, at most two of them."""
        texts = []
        for number, loss in list(self._at_work.items())[:2]:
            texts.append(" ".join(text for text in (self._names[number] if self._names else "", loss) if text))
        more = len(self._at_work) - 2
        return "; ".join(filter(None, [*texts, f"{more} more" if more > 0 else ""]))

    def _show(self, change: int) -> None:
        if self._watched:
            self._bar.set_description_str(self._describe(), refresh=False)
            self._bar.set_postfix_str(self._now(), refresh=False)
            self._bar.update(change)
        elif time.monotonic() - self._written >= LINE_EVERY_S:
            self._written = time.monotonic()
            left = self.seconds_left()
            share = 100 * sum(self._positions) / max(self._total, 1)
            rest = f", {tqdm.format_interval(left)} left" if left is not None else ""
            now = f", {self._now()}" if self._now() else ""
            print(f"{self._describe()}, {share:.0f}%{rest}{now}", file=sys.stderr, flush=True)
