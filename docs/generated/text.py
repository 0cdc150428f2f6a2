"""How generated text is written: as HTML, so that no sign of a docstring or a range is taken for Markdown."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from textwrap import dedent

from ddbench.leaderboard.forms import prose
from markupsafe import Markup, escape

ITEM = re.compile(r"(?P<mark>\d+\.|[a-z]\.|-) +")
FEW = 4  # values that stand in a cell openly
Lines = Sequence[str]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what stands between backticks is code, and a cell that is Markup is HTML already."""
    lines = ["<table>", f"<thead><tr>{''.join(f'<th>{prose(name)}</th>' for name in head)}</tr></thead>", "<tbody>"]
    lines += [f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return "\n".join([*lines, "</tbody>", "</table>"])


def _cell(cell: str) -> Markup:
    return cell if isinstance(cell, Markup) else prose(cell)


def facts(pairs: Mapping[str, str]) -> str:
    """Names and values in two columns, without a head."""
    rows = "".join(f"<tr><th>{prose(name)}</th><td>{_cell(value)}</td></tr>\n" for name, value in pairs.items())
    return f'<table class="facts">\n<tbody>\n{rows}</tbody>\n</table>'


def folded(values: Sequence[str]) -> Markup:
    """Values as code, each unbroken; more than a few behind a line that opens them."""
    codes = Markup(" ").join(Markup("<code>{}</code>").format(value) for value in values)
    if len(values) <= FEW:
        return codes
    return Markup("<details><summary>{} fields</summary>{}</details>").format(len(values), codes)


def code(text: str) -> str:
    """A block of plain text."""
    return f"```text\n{text.strip()}\n```"


def description(docstring: str) -> str:
    """A docstring as paragraphs, nested lists and formulas.

    `1.`, `a.` and `-` begin the items of a list, whose further lines are indented to the item's text. What is indented
    beyond its surroundings is a formula and keeps its lines.
    """
    return "\n".join(_blocks(docstring.splitlines()))


def _blocks(lines: Lines) -> Iterator[str]:
    """The blocks of lines whose own indentation is none."""
    place = 0
    while place < len(lines):
        if not lines[place].strip():
            place += 1
            continue
        take = _list if ITEM.match(lines[place]) else _formula if lines[place].startswith(" ") else _paragraph
        block, place = take(lines, place)
        yield block


def _list(lines: Lines, place: int) -> tuple[str, int]:
    """The list that begins at `place`, and where it ends: at an item of another kind, or what is no item."""
    kind, items = _kind(lines[place]), []
    while place < len(lines) and _kind(lines[place]) == kind:
        item, place = _item(lines, place)
        items.append(f"<li>{''.join(_blocks(item))}</li>")
    return "\n".join([f"<{kind}>", *items, f"</{kind.split()[0]}>"]), place


def _item(lines: Lines, place: int) -> tuple[list[str], int]:
    """The lines of the item that begins at `place`, without its mark and their indentation, and where it ends."""
    mark = ITEM.match(lines[place])
    indent = len(mark[0]) if mark else 0
    end = _first(lines, place + 1, lambda line: bool(line[:indent].strip()))
    return [line[indent:] for line in lines[place:end]], end


def _kind(line: str) -> str:
    """The element of the list that a line begins an item of; empty where it begins none."""
    item = ITEM.match(line)
    if item is None:
        return ""
    return "ul" if item["mark"] == "-" else "ol" if item["mark"][0].isdigit() else 'ol type="a"'


def _formula(lines: Lines, place: int) -> tuple[str, int]:
    end = _first(lines, place, lambda line: bool(line[:1].strip()))
    text = dedent("\n".join(lines[place:end])).strip("\n").replace("`", "")
    return f'<pre class="formula">{escape(text)}</pre>', end


def _paragraph(lines: Lines, place: int) -> tuple[str, int]:
    end = _first(lines, place + 1, lambda line: not line.strip() or bool(ITEM.match(line)))
    return f"<p>{prose(' '.join(line.strip() for line in lines[place:end]))}</p>", end


def _first(lines: Lines, start: int, wanted: Callable[[str], bool]) -> int:
    """The place of the first line from `start` on that is wanted; past the last where there is none."""
    return next((place for place in range(start, len(lines)) if wanted(lines[place])), len(lines))
