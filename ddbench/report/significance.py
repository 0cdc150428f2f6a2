"""Methods compared within a column (data set, protocol, student, budget): pairs with corrected p values, and ranks.

Every pair of a column's cells is compared as `statistics.compare` does; p values are adjusted by Holm for the number of
pairs of the column. A rank is a range: from 1 + how many are told apart above, to how many there are less how many are
told apart below. So ties show as ties, and a column of single runs as one tie.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ddbench.errors import UsageError, unknown
from ddbench.records.statistics import Pair, pairwise, rank_ranges
from ddbench.report import columns
from ddbench.report.format import between, budget_words, half, percent, signed
from ddbench.report.frame import COMPARED
from ddbench.report.renderers import DASH, MARK, Grid, Shown
from ddbench.report.tables import row_labels

VIEWS = ("ranks", "pairs")
NUMBERS = {
    "pairs": ("top1_a", "top1_b", "difference", "low", "high", "p", "p_holm", "alpha"),
    "ranks": ("top1", "ci_low", "ci_high", "alpha"),
}
RANK_HEADS = "rank|top-1 %|runs|draws"
PAIR_HEADS = "than|points|{:g} % interval|p|p (Holm)|test|n|verdict"
Cells = Mapping[str, Mapping[str, Any]]


def compared(
    frame: pd.DataFrame, view: str = "ranks", *, against: str | None = None, alpha: float = 0.05
) -> pd.DataFrame:
    """The "pairs" (columns `columns.PAIRS`) or "ranks" (columns `columns.RANKS`) of every column with several cells.

    Args:
        frame: see `ddbench.report.frame.results_frame`; cells without an accuracy are left out.
        view: one of `VIEWS`.
        against: a method; only pairs with it, and p values adjusted for their number. Ranks need all pairs.
        alpha: level of the verdicts, in (0, 1); intervals of pairs are at 1 - alpha.

    UsageError for an alpha out of range, another view, an unknown method, or where no column has a pair.
    """
    if not 0 < alpha < 1:
        raise UsageError(f"alpha = {alpha}: a level between 0 and 1 is needed, such as 0.05")
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)
    if against is not None and view == "ranks":
        raise UsageError("ranks need every pair: leave out --against, or choose the pairs")
    if against is not None and against not in set(frame["method"]):
        raise unknown("method (among the records)", against, set(frame["method"]))
    good = frame[frame["status"] == "ok"]
    rows: list[dict[str, Any]] = []
    for place, column in good.groupby(list(COMPARED), sort=False):
        cells = column.assign(label=row_labels(column)).set_index("group", drop=False).to_dict("index")
        chosen = None if against is None else [name for name, cell in cells.items() if cell["method"] == against]
        rows += [dict(zip(COMPARED, place, strict=True)) | row for row in _rows(view, cells, chosen, alpha)]
    if not rows:
        raise UsageError("nothing to compare: no data set, protocol, student and budget has a pair with accuracies")
    return _frame(rows, view)


def _rows(view: str, cells: Cells, against: Collection[str] | None, alpha: float) -> Iterator[dict[str, Any]]:
    samples = {name: cell["samples"] for name, cell in cells.items()}
    pairs = pairwise(samples, against=against, level=1 - alpha)
    shared = {"tested": sum(pair.adjusted is not None for pair in pairs), "alpha": alpha}
    if view == "pairs":
        yield from (_pair_row(pair, cells[pair.a], cells[pair.b], alpha) | shared for pair in pairs)
    elif len(cells) > 1:
        for name, (first, last) in rank_ranges(samples, pairs, alpha).items():
            cell = cells[name]
            own = {key: cell[key] for key in ("top1", "ci_low", "ci_high", "n", "draws", "group")}
            yield shared | own | {"method": cell["label"], "first": first, "last": last, "cells": len(cells)}


def _pair_row(pair: Pair[str], a: Mapping[str, Any], b: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    found = pair.difference
    told = "a is higher" if pair.told_apart(alpha) else "not told apart"
    return {
        "a": a["label"],
        "b": b["label"],
        "top1_a": a["top1"],
        "top1_b": b["top1"],
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "p": found.p,
        "p_holm": pair.adjusted,
        "test": found.test,
        "over_a": a["over"],
        "over_b": b["over"],
        "n": found.n,
        "verdict": told if found.p is not None else "not tested",
        "group_a": pair.a,
        "group_b": pair.b,
    }


def _frame(rows: Sequence[Mapping[str, Any]], view: str) -> pd.DataFrame:
    names = list(columns.PAIRS if view == "pairs" else columns.RANKS)
    made = pd.DataFrame([[row[name] for name in names] for row in rows], columns=names, dtype=object)
    return made.astype(dict.fromkeys(NUMBERS[view], float))


def grids(frame: pd.DataFrame, view: str) -> list[Grid]:
    """A grid per column of the compared cells, best first; the notes stand below the last."""
    pieces = [(place, piece) for place, piece in frame.groupby(list(COMPARED), sort=False)]
    draw, below = (_pair_grid, pair_notes) if view == "pairs" else (_rank_grid, rank_notes)
    made = [draw(_title(place), piece) for place, piece in pieces]
    return [*made[:-1], replace(made[-1], notes=below(frame))]


def _title(place: Sequence[str]) -> str:
    dataset, protocol, student, budget = place
    return f"{dataset}, {protocol} ({student}), {budget_words(budget)}"


def _rank_grid(title: str, piece: pd.DataFrame) -> Grid:
    rows = []
    for row in piece.itertuples():
        rank = str(row.first) if row.first == row.last else f"{row.first} to {row.last}"
        texts = [rank, percent(row.top1) + half(row.ci_low, row.ci_high), str(row.n), str(row.draws)]
        rows.append((row.method, [Shown(text, best=row.first == 1) for text in texts[:1]] + [*map(Shown, texts[1:])]))
    return Grid(title, "method", [(head,) for head in RANK_HEADS.split("|")], rows)


def _pair_grid(title: str, piece: pd.DataFrame) -> Grid:
    rows = []
    for row in piece.itertuples():
        verdict = row.verdict.replace("a is higher", "higher")
        span = between(row.low, row.high, signed)
        texts = [row.b, signed(row.difference), span, _p(row.p), _p(row.p_holm), row.test, str(row.n), verdict]
        rows.append((row.a, [Shown(text, best=verdict == "higher" and text == verdict) for text in texts]))
    heads = PAIR_HEADS.format(100 * (1 - piece["alpha"].iloc[0])).split("|")
    return Grid(title, "method", [(head,) for head in heads], rows, keys=1)


def rank_notes(frame: pd.DataFrame) -> list[str]:
    """Footnotes: what a rank is, and what was tested."""
    alpha = f"{100 * frame['alpha'].iloc[0]:g} %"
    lines = [
        f"Rank: from 1 + how many are told apart above, to the number of cells less how many are told apart below "
        f"(paired t on the same seeds, else Welch; Holm over all pairs of the column, {alpha}).",
        "Ranges that overlap: the order is not settled; ddbench compare --view pairs says which pairs are told apart.",
    ]
    lines.append(f"{MARK}: nothing is told apart above it.")
    return lines + _shared_notes(frame["n"], frame["draws"])


def pair_notes(frame: pd.DataFrame) -> list[str]:
    """Footnotes: the tests, the correction, and what the values are."""
    alpha, counts = f"{100 * frame['alpha'].iloc[0]:g} %", frame["tested"]
    span = str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
    lines = [
        f"{MARK}: higher, told apart at {alpha} by p (Holm), corrected for the {span} tested pairs of the column.",
        "The interval is of one difference alone; n: pairs of seeds, or values of the smaller side.",
    ]
    if "evaluation" in {*frame["over_a"], *frame["over_b"]}:
        lines.append("With one synthesis, a difference is one of sets, not of methods.")
    return lines


def _shared_notes(n: "pd.Series[Any]", draws: "pd.Series[Any]") -> list[str]:
    lines = ["One run cannot be tested against another: such cells share their ranks."] if (n == 1).any() else []
    return lines + (
        ["With one synthesis (draws), a rank is one of sets, not of methods."] if (draws == 1).any() else []
    )


def _p(value: float) -> str:
    return DASH if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
