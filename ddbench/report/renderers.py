"""Grids of text and how they are written: terminal, Markdown, LaTeX, CSV, JSON. Nothing here knows what is shown."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

from ddbench.errors import unknown
from ddbench.report.format import DAGGER, DASH, DDAGGER, MARK

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

FORMATS = ("terminal", "markdown", "csv", "latex", "json")


@dataclass(frozen=True)
class Shown:
    """One cell as people read it; `best` puts the mark on it."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table to be written: a title, columns with one or more header levels, labeled rows, footnotes.

    The first `keys` columns say, with the label, what a row is.
    """

    title: str
    corner: str
    headers: list[tuple[str, ...]]
    rows: list[tuple[str, list[Shown]]]
    notes: list[str] = field(default_factory=list)
    keys: int = 0


def markdown(table: Grid) -> str:
    """A Markdown table with a bold mark for the best, the notes as a list below."""
    heads = [table.corner, *(" ".join(dict.fromkeys(part for part in head if part)) for head in table.headers)]
    lines = [heads, ["---"] + ["---:"] * len(table.headers)]
    for label, shown in table.rows:
        lines.append([label] + [f"**{cell.text}**" if cell.best else cell.text for cell in shown])
    body = ["| " + " | ".join(str(text).replace("|", "\\|") for text in line) + " |" for line in lines]
    below = [f"- {note}".replace(f"- {MARK}:", "- **bold**:") for note in table.notes]
    return "\n".join([f"**{table.title}**", "", *body, "", *below]) + "\n"


def latex(table: Grid) -> str:
    """A tabular in the style of booktabs, which it needs; bold for the best, the notes below it."""
    levels = [_latex_level(table, level) for level in range(len(table.headers[0]) if table.headers else 1)]
    body = []
    for label, shown in table.rows:
        texts = [f"\\textbf{{{_escape(cell.text)}}}" if cell.best else _escape(cell.text) for cell in shown]
        body.append(" & ".join([_escape(label), *texts]) + r" \\")
    below = [_escape(note.replace(f"{MARK}:", "Bold:")) + r"\par" for note in table.notes]
    columns = "l" + "r" * len(table.headers)
    opening = [f"% {table.title}", f"\\begin{{tabular}}{{{columns}}}", r"\toprule"]
    closing = [r"\bottomrule", r"\end{tabular}", r"\par{\footnotesize", *below, "}"]
    return "\n".join([*opening, *levels, r"\midrule", *body, *closing]) + "\n"


def data_csv(frame: "pd.DataFrame") -> str:
    """Every column but samples and snapshots, one line per row, fractions."""
    return frame.drop(columns=["samples", "snapshots"], errors="ignore").to_csv(index=False, lineterminator="\n")


def data_json(frame: "pd.DataFrame") -> str:
    """Every column, a list with one object per row, fractions.

    Samples as [synthesis seed, evaluation seed, top-1], snapshots as [synthesis seed, evaluation seed, step, top-1].
    """
    rows = []
    for row in frame.to_dict("records"):
        row = {str(name): None if isinstance(value, float) and value != value else value for name, value in row.items()}
        if "samples" in row:
            row["samples"] = [[*seeds, top1] for seeds, top1 in row["samples"].items()]
        if "snapshots" in row:
            curves = row["snapshots"].items()
            row["snapshots"] = [[*seeds, step, top1] for seeds, curve in curves for step, top1 in sorted(curve.items())]
        rows.append(row)
    return json.dumps(rows, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def data_text(frame: "pd.DataFrame", form: str) -> str:
    """Data as "csv" or "json"."""
    return data_csv(frame) if form == "csv" else data_json(frame)


def is_data(form: str) -> bool:
    """Whether a format is read by programs rather than by people; UsageError unless it is one of `FORMATS`."""
    if form not in FORMATS:
        raise unknown("table format", form, FORMATS)
    return form in ("csv", "json")


def grids_text(tables: Sequence[Grid], form: str, width: int = 100) -> str:
    """Several grids in one of `WRITERS`, or on a terminal of `width` characters, one below the other."""
    if form != "terminal":
        return "\n".join(WRITERS[form](table) for table in tables)
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width)
    for table in tables:
        for part in blocks(table, width):
            console.print(rich_table(part, part.notes), "")
    return out.getvalue()


def blocks(table: Grid, width: int) -> list[Grid]:
    """A grid in parts that are no wider than `width` characters, so that no number is cut; notes below the last.

    A part has the key columns, at least one more, and only rows that say something in those.
    """
    mark, gap = 2, 2  # after a cell's text; between columns
    shared = _shared_levels(table)

    def needed(place: int) -> int:
        texts = [len(part) for level, part in enumerate(table.headers[place]) if level not in shared]
        texts += [len(shown[place].text) + mark for _, shown in table.rows]
        return gap + max(texts, default=0)

    left = max(len(text) for text in (table.corner, *(label for label, _ in table.rows)))
    free = width - left - sum(map(needed, range(table.keys)))
    parts, room = [list[int]()], free
    for place in range(table.keys, len(table.headers)):
        if needed(place) > room and parts[-1]:
            parts, room = [*parts, []], free
        parts[-1].append(place)
        room -= needed(place)
    if len(parts) == 1:
        return [table]
    made = [_columns(table, places) for places in parts]
    return [*made[:-1], replace(made[-1], notes=table.notes)]


def _columns(table: Grid, places: Sequence[int]) -> Grid:
    """Some columns beside those that are keys, and the rows that have more than dashes in them."""
    kept = [*range(table.keys), *places]
    said = [row for row in table.rows if any(row[1][place].text != DASH for place in places)]
    rows = [(label, [shown[place] for place in kept]) for label, shown in said or table.rows]
    return replace(table, headers=[table.headers[place] for place in kept], rows=rows, notes=[])


def grid_csv(table: Grid) -> str:
    """The grid as people read it, in CSV, without its notes."""
    heads = [" ".join(head) for head in table.headers]
    rows = [[label, *(cell.text for cell in shown)] for label, shown in table.rows]
    import pandas as pd  # `--help` and bad input need no frames, which take half a second to import

    return pd.DataFrame(rows, columns=[table.corner, *heads]).to_csv(index=False, lineterminator="\n")


def grid_json(table: Grid) -> str:
    """The grid as people read it, in JSON, with its notes."""
    rows = [{"label": label, "cells": [cell.text for cell in shown]} for label, shown in table.rows]
    value = {"title": table.title, "columns": table.headers, "rows": rows, "notes": table.notes}
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def plain_table(title: str | None, caption: str | None = None) -> "Table":
    """A table of rich without columns yet, in the look of all tables on a terminal: no frame, two spaces between columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, title=title, caption=caption, collapse_padding=True, show_edge=False, pad_edge=False)
    made.title_justify = made.caption_justify = "left"
    return made


def rich_table(table: Grid, below: Sequence[str]) -> "Table":
    """A table of rich, with `below` as its caption; a header level that all columns share goes into the title."""
    from rich.markup import escape

    shared = _shared_levels(table)
    title = ", ".join([table.title, *(table.headers[0][level] for level in shared)])
    caption = escape("\n".join(below)) or None
    made = plain_table(escape(title), caption)
    made.add_column(table.corner, no_wrap=True)
    for head in table.headers:
        words = [text for level, text in enumerate(head) if level not in shared or len(shared) == len(head)]
        made.add_column(escape("\n".join(words)), justify="right", vertical="bottom")
    for label, shown in table.rows:
        texts = [
            f"[bold]{escape(cell.text)} {MARK}[/bold]" if cell.best else escape(cell.text) + "  " for cell in shown
        ]
        made.add_row(escape(label), *texts)
    return made


def _shared_levels(table: Grid) -> list[int]:
    """Header levels at which all of several columns say the same."""
    if len(table.headers) < 2:
        return []
    return [level for level in range(len(table.headers[0])) if len({head[level] for head in table.headers}) == 1]


WRITERS: dict[str, Callable[[Grid], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": grid_csv,
    "json": grid_json,
}


def _latex_level(table: Grid, level: int) -> str:
    """One header line: equal neighbors span one column, with a rule below all levels but the last."""
    if not table.headers or level == len(table.headers[0]) - 1:
        return " & ".join([_escape(table.corner), *(_escape(head[level]) for head in table.headers)]) + r" \\"
    texts, rules, first = [""], [], 2
    for names, spanned in groupby(table.headers, key=lambda head: head[: level + 1]):
        width = len(list(spanned))
        texts.append(f"\\multicolumn{{{width}}}{{c}}{{{_escape(names[-1])}}}")
        rules.append(f"\\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return " & ".join(texts) + r" \\" + "\n" + " ".join(rules)


def _escape(text: str) -> str:
    """Text that LaTeX prints as it stands, with the table's signs as commands."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {char: "\\" + char for char in "&%$#_{}"}
    special |= {"±": r"$\pm$", DASH: "--", DAGGER: r"$^\dagger$", DDAGGER: r"$^\ddagger$"}
    return "".join(special.get(char, char) for char in text)
