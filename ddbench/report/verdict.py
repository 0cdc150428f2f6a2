"""The table of a reproduction: paper, ours, difference, n, interval and verdict, a line per figure; reduced runs apart.

Percent in what people read; csv and json are data, in fractions.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ddbench.evaluation.protocol import find_protocol
from ddbench.report.format import DASH, between, percent, signed
from ddbench.report.renderers import Grid, Shown, data_text, grids_text, is_data
from ddbench.report.reproduce import RULE, Compared

FULL = ("cell", "student", "paper %", "ours %", "difference", "n", "95 % interval", "verdict")
REDUCED = ("cell", "recipe", "full setting's figure %", "ours %", "n", "95 % interval", "status")
SHORT = 40  # characters of a reason that stand in the table


def grids(title: str, compared: Sequence[Compared]) -> list[Grid]:
    """One table of the published recipes and one of the reduced ones; those that have no line are left out."""
    made = []
    for reduced, heads in ((False, FULL), (True, REDUCED)):
        part = [each for each in compared if each.item.reduced == reduced]
        lines = [(_label(each), [Shown(text) for text in _texts(each)]) for each in part]
        what = f"{title}: REDUCED recipes, on other data or cheaper than the paper's" if reduced else title
        made += [Grid(what, "method", [(head,) for head in heads], lines, _notes(part, reduced))] if part else []
    return made


def render(title: str, compared: Sequence[Compared], form: str) -> str:
    """The tables as text in one of `ddbench.report.renderers.FORMATS`; UsageError for another."""
    if is_data(form):
        return data_text(pd.DataFrame(rows(compared), dtype=object), form)
    return grids_text(grids(title, compared), form)


def rows(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Every line as plain data, fractions; `paper_` names belong to the full setting where `reduced` is true."""
    return [_row(each) for each in compared]


def _row(each: Compared) -> dict[str, Any]:
    item, figure = each.item, each.item.figure
    return {
        **item.plain(),
        "paper_dataset": figure and figure.dataset,
        "paper_network": figure and figure.printed,
        "paper_protocol": figure and figure.protocol,
        "paper_top1": figure and figure.top1,
        "paper_std": figure and figure.std,
        "read_in": figure and figure.read_in,
        "quoted": figure and figure.quoted,
        "note": figure and figure.note,
        "top1": each.mean,
        "difference": each.difference,
        "n": each.n,
        "draws": each.draws,
        "ci_low": each.low,
        "ci_high": each.high,
        "verdict": None if item.reduced and each.verdict == "no verdict" else each.verdict,
        "why": each.why,
        "setting": each.setting,
    }


def _label(each: Compared) -> str:
    """The method, and the protocol where that is not the paper's own post-evaluation."""
    shipped = find_protocol(each.item.protocol).shipped
    return each.item.method if shipped else f"{each.item.method}, {each.item.protocol}"


def _cell(each: Compared) -> str:
    return f"{each.item.dataset_id} {each.item.budget}"


def _texts(each: Compared) -> list[str]:
    """A line below `FULL`, or of a reduced recipe below `REDUCED`."""
    item = each.item
    paper = item.figure.words() if item.figure else DASH
    ours, tail = percent(each.mean), [str(each.n), between(each.low, each.high)]
    if not item.reduced:
        words = [_cell(each), item.network or DASH, paper, ours, signed(each.difference)]
        return [*words, *tail, _status(each.verdict, each)]
    paper += f" ({item.figure.dataset}, full setting)" if item.figure else ""
    status = "run" if each.verdict == "no verdict" else _status(each.verdict, each)
    return [_cell(each), item.recipe.name if item.recipe else DASH, paper, ours, *tail, status]


def _status(word: str, each: Compared) -> str:
    """The verdict with the first words of its reason; `_notes` has the whole of it."""
    short = (each.why or "").partition(":")[0]
    return f"{word}: {short}" if short and len(short) <= SHORT else word


def _notes(compared: Sequence[Compared], reduced: bool) -> list[str]:
    """The rule and the sources of the figures, why cells were not run or failed, and our settings, once each."""
    lines = [
        "A reduced recipe is not the paper's setting: the paper's figure is shown for reference, without a verdict."
    ]
    if not reduced:
        figures = [each.item.figure for each in compared if each.item.figure]
        lines = [RULE, "Paper: mean ± the paper's own standard deviation, where it gives one."]
        sources = dict.fromkeys(f"{figure.read_in}{' (quoted there)' if figure.quoted else ''}" for figure in figures)
        lines += [f"Source: {source}." for source in sources]
        lines += [f"Note: {note}." for note in dict.fromkeys(figure.note for figure in figures) if note]
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for each in compared:
        if each.why and _status("", each) != f": {each.why}":  # longer than the table has room for
            reasons.setdefault((each.verdict, each.why), {})[_cell(each)] = None
    lines += [f"{verdict}, {', '.join(cells)}: {why}." for (verdict, why), cells in reasons.items()]
    return lines + [f"Ours: {setting}." for setting in dict.fromkeys(each.setting for each in compared if each.setting)]
