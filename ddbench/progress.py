"""Progress of long work. Data goes to stdout, progress to stderr; a worker process or a library call shows none."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """Takes progress and metrics, and shows nothing."""

    def advance(self, label: str, done: int, total: int) -> None:
        """`done` of `total` steps of the work named `label` are done; total reached ends it."""

    def metrics(self, step: int | None, values: dict[str, float]) -> None:
        """Numbers that a running job reports, at a step if it has one."""

    def line(self, text: str) -> None:
        """One line for the person who waits."""


class LineReporter(Reporter):
    """For a stderr that is a file or a pipe: a line now and then."""

    def __init__(self, every: float = 30.0) -> None:
        """Print a line of progress at most every so many seconds."""
        self.console = Console(stderr=True)
        self._every, self._last = every, time.monotonic()

    def advance(self, label: str, done: int, total: int) -> None:
        """See the base class."""
        if time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            self.line(f"{label}: {done} of {total}")

    def line(self, text: str) -> None:
        """See the base class."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class TerminalReporter(Reporter):
    """Bars with an estimate on a terminal's stderr."""

    def __init__(self) -> None:
        """Prepare; nothing is shown before the first call."""
        self.console = Console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}

    @contextmanager
    def shown(self) -> Iterator["TerminalReporter"]:
        """Show bars within the block."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        # jobs may take long: an estimate from the last half hour, not from rich's last half minute
        with Progress(*columns, *times, console=self.console, transient=True, speed_estimate_period=1800) as bars:
            self._bars = bars
            try:
                yield self
            finally:
                self._bars = None
                self._tasks.clear()

    def advance(self, label: str, done: int, total: int) -> None:
        """See the base class."""
        if self._bars is None:
            return
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total)
        self._bars.update(self._tasks[label], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(label))

    def line(self, text: str) -> None:
        """See the base class."""
        self.console.print(text, highlight=False, markup=False)
