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


class TerminalReporter(Reporter):
    """Bars with an estimate on stderr, on a terminal; plain lines where stderr is a file or a pipe."""

    def __init__(self) -> None:
        """Prepare; nothing is shown before the first call."""
        self.console = Console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._last_line = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator["TerminalReporter"]:
        """Show bars within the block."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        with Progress(*columns, *times, console=self.console, transient=True) as bars:
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
        if not self.console.is_terminal:
            self._plain(label, done, total)
            return
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total)
        self._bars.update(self._tasks[label], completed=done, total=total)
        if done >= total:
            self._bars.remove_task(self._tasks.pop(label))

    def _plain(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last_line > 30:
            self._last_line = now
            self.console.print(f"{label}: {done} of {total}", highlight=False)

    def line(self, text: str) -> None:
        """See the base class."""
        self.console.print(text, highlight=False, markup=False)
