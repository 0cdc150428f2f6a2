"""What people see: data on stdout, messages and progress on stderr."""

import json
import logging
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ddbench.errors import unknown
from ddbench.progress import LineReporter, Reporter, TerminalReporter
from ddbench.report.format import DASH
from ddbench.report.renderers import FORMATS, Grid, blocks, plain_table, rich_table
from ddbench.system.files import write_atomic

if TYPE_CHECKING:
    import pandas as pd

    from ddbench.jobs.sweep import Report
    from ddbench.records.record import Record


def console() -> Console:
    """Stdout, as wide as the terminal (COLUMNS; 80 where it is none)."""
    return Console(highlight=False)


def print_json(value: Any) -> None:
    """One JSON value on stdout; numbers that are not finite are refused rather than written."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=False))


def say(text: str, *, quiet: bool = False) -> None:
    """One message on stderr."""
    if not quiet:
        sys.stdout.flush()
        print(text, file=sys.stderr)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = (), title: str | None = None
) -> None:
    """A table on stdout: the columns named in `right`, of numbers, are set to the right and never cut; long texts wrap."""
    table = plain_table(title)
    texts = [[str(value) for value in row] for row in rows]
    for place, name in enumerate(columns):
        number = name in right
        width = max((len(row[place]) for row in texts), default=0) if number else None
        table.add_column(
            name, justify="right" if number else "left", no_wrap=place == 0, min_width=width, overflow="fold"
        )
    for row in texts:
        table.add_row(*map(Text, row))
    console().print(table, "")


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values in two columns, long values wrapped under themselves; empty values are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, "", ()):
            table.add_row(Text(name), Text(str(value)))
    console().print(table)


def print_cells(frame: "pd.DataFrame", view: str = "pivot") -> None:
    """Cells as a table on stdout, notes below; one too wide for the terminal becomes one per protocol."""
    from ddbench.report.tables import grids  # imports pandas

    pieces = [piece for _, piece in frame.groupby(["dataset", "protocol"], sort=False)] if view != "networks" else []
    compact = view in ("long", "variance")
    print_grids(
        grids(frame, view), lambda: [table for piece in pieces for table in grids(piece, view)], compact=compact
    )


def print_records(records: "Iterable[Record]") -> None:
    """The table of some records on stdout."""
    from ddbench.report.frame import results_frame  # imports pandas

    print_cells(results_frame(records))


def write_table(text: str, out: Path | None) -> None:
    """A table's text on stdout, or in a file whose name is printed."""
    if out is None:
        print(text, end="")
        return
    write_atomic(out, text)
    print(out)


def table_format(form: str, as_json: bool) -> str:
    """The format of a table; UsageError for an unknown one."""
    form = "json" if as_json else form
    if form not in FORMATS:
        raise unknown("table format", form, FORMATS)
    return form


def say_left_out(frame: "pd.DataFrame") -> None:
    """Tell on stderr what a results frame leaves out."""
    from ddbench.report.frame import left_out  # imports pandas

    if line := left_out(frame):
        say(line)


def explain_columns(meanings: Mapping[str, str], *, as_json: bool) -> None:
    """What the columns of a table's data mean."""
    if as_json:
        print_json(dict(meanings))
    else:
        print_table(("column", "meaning"), meanings.items())


def tell(report: "Report", *, quiet: bool = False) -> None:
    """Say on stderr what was reused, made and left out; failures and bad input with their reasons, also when quiet."""
    parts = [f"{report.reused} runs reused", f"{report.done} made"]
    if report.snapshots:
        parts.append(f"{report.snapshots} snapshots scored")
    if report.failed:
        parts.append(f"{len(report.failed)} failed" if report.snapshots else f"{len(report.failed)} of them failed")
    say(", ".join(parts), quiet=quiet)
    for line in dict.fromkeys(report.skipped):
        say(f"n/a: {line}", quiet=quiet)
    seeds: dict[tuple[str, str], list[str]] = {}
    for what, reason in report.failed:
        head, _, seed = what.rpartition(", seed ")
        seeds.setdefault((head, reason), []).append(seed)
    for (head, reason), some in seeds.items():
        say(f"failed: {head}, seed {', '.join(some)}: {reason}")
    for line in dict.fromkeys(report.problems):
        say(f"ddbench: error: {line}")


def print_grids(
    tables: Sequence[Grid], narrower: Callable[[], Sequence[Grid]] = tuple, *, compact: bool = False
) -> None:
    """Grids on stdout, the notes of the last below all of them; one that is too wide comes in blocks of columns.

    Args:
        tables: what to print.
        narrower: gives the same in smaller pieces, where the first is too wide for the terminal.
        compact: columns of one and the same text go into the title.
    """
    out, shape = console(), _shared_into_title if compact else (lambda table: table)
    shown = [shape(table) for table in tables if table.headers]
    if shown and Measurement.get(out, out.options.update(width=1000), rich_table(shown[0], [])).maximum > out.width:
        shown = [shape(table) for table in narrower()] or shown
    for table in shown:
        for part in blocks(table, out.width):
            out.print(rich_table(part, []), "")
    for note in tables[-1].notes:
        print_prose(note)


def _shared_into_title(table: Grid) -> Grid:
    """The table with columns of one and the same text in its title instead; of dashes alone, left out."""
    texts = [{cells[place].text for _, cells in table.rows} for place in range(len(table.headers))]
    kept = [
        place for place, values in enumerate(texts) if len(values) > 1 or table.headers[place][0].startswith("top-1")
    ]
    others = [(table.headers[place][0], *texts[place]) for place in range(len(texts)) if place not in kept]
    shared = [f"{name} {text}" for name, *values in others for text in values if text != DASH]
    return replace(
        table,
        title=", ".join([table.title, *shared]),
        headers=[table.headers[place] for place in kept],
        keys=sum(place < table.keys for place in kept),
        rows=[(label, [cells[place] for place in kept]) for label, cells in table.rows],
    )


def print_prose(text: str) -> None:
    """A docstring on stdout, filled to the terminal's width; list items keep their indent."""
    items: list[str] = []
    for line in text.splitlines():
        begins = not line.strip() or not items or not items[-1].strip()
        if begins or re.match(r"\s*(\d+\.|[a-z]\.|-|\*)\s", line):
            items.append(line.rstrip())
        else:
            items[-1] += " " + line.strip()
    width = console().width
    for item in items:
        match = re.match(r"\s*((\d+\.|[a-z]\.|-|\*)\s+)?", item)
        hanging = " " * (match.end() if match else 0)
        print(textwrap.fill(item, width, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False))


@contextmanager
def progress(quiet: bool) -> Iterator[Reporter]:
    """A reporter that shows bars on stderr within the block; warnings of ddbench appear above them as lines."""
    if quiet:
        yield Reporter()
        return
    reporter: Reporter = TerminalReporter() if sys.stderr.isatty() else LineReporter()
    handler = _Lines(reporter)
    log = logging.getLogger("ddbench")
    log.addHandler(handler)
    try:
        with reporter.shown() if isinstance(reporter, TerminalReporter) else nullcontext():
            yield reporter
    finally:
        log.removeHandler(handler)


class _Lines(logging.Handler):
    """Log records as lines of a reporter."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self.reporter.line(f"{record.levelname.lower()}: {record.getMessage()}")
