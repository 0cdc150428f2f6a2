"""How numbers, names and texts of the site are written: percent, words for bytes and seconds, file names, JSON in scripts."""

import json
import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from ddbench.report.format import DAGGER, DASH, half, percent

from .board import Row


def accuracy(row: Row) -> str:
    """The accuracy in percent, or why there is none: "71.2 ±1.4", "failed", "n/a"."""
    if row.top1 is None:
        return row.status
    return percent(row.top1) + spread(row) + (DAGGER if row.reduced else "")


def spread(row: Row) -> str:
    """Half of the 95 % interval in points, or a paper's own deviation; empty where there is neither."""
    return f" ±{percent(row.std)}" if row.std is not None else half(row.low, row.high)


def rank(row: Row) -> str:
    """The rank, or from which to which it may be; a dash where the row is not ranked."""
    if row.first is None:
        return DASH
    return str(row.first) if row.first == row.last else f"{row.first}–{row.last}"


def reported(row: Row) -> str:
    """What papers report beside the row, each once, in percent; a dash where they report nothing."""
    found = dict.fromkeys(figure.words() for figure in row.figures)
    return " / ".join(found) or DASH


def runs(row: Row) -> str:
    """Runs and synthesis seeds: "15 (5 sets)", and those that failed."""
    if row.standing == "reported":
        return DASH
    sets = f" ({row.draws} sets)" if row.draws > 1 else ""
    return f"{row.runs}{sets}" + (f", {row.failed} failed" if row.failed and row.status == "ok" else "")


def number(value: float | None) -> str:
    """A number to sort by, short and exact enough; empty where there is none."""
    return "" if value is None else f"{value:.7g}"


def prose(text: str) -> Markup:
    """A text of a docstring, escaped, with what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def script_json(value: Any) -> str:
    """JSON that a script file may hold as it stands: no tag, no comment and no line end of JavaScript within it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@dataclass(frozen=True)
class Step:
    """One paragraph or list item of a docstring: how far it is indented, its mark ("1.", "a.", "-"), its text."""

    level: int
    mark: str
    text: str


def steps(description: str) -> list[Step]:
    """A docstring as paragraphs and list items, lines joined; a blank line or a new mark begins another."""
    found: list[list[Any]] = []
    joined = False
    for line in description.splitlines():
        item = re.match(r"(\s*)((?:\d+|[a-z])\.|[-*])\s+(?=\S)", line)
        if not line.strip():
            joined = False
        elif item:
            found.append([len(item[1]) // 2, item[2], line[item.end() :].strip()])
            joined = True
        elif joined:
            found[-1][2] += " " + line.strip()
        else:
            found.append([(len(line) - len(line.lstrip())) // 2, "", line.strip()])
            joined = True
    return [Step(min(level, 4), mark, text) for level, mark, text in found]
