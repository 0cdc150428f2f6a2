"""Methods compared within a column (data set, protocol, student, budget): pairs with corrected p values, and ranks.

Every pair of a column's results is compared as `statistics.compare` does; p values are adjusted by Holm for the number
of pairs of the column. A rank is a range: from 1 + how many are significantly higher, to how many are not significantly
lower. So ties show as ties, and a column of single runs as one tie.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ddbench.errors import UsageError, unknown
from ddbench.records.statistics import Pair, pairwise, rank_ranges
from ddbench.report import columns
from ddbench.report.format import DASH, MARK, between, budget_words, half, percent, signed
from ddbench.report.frame import COMPARED, framed
from ddbench.report.renderers import Grid, Shown, data_text, grids_text, is_data
from ddbench.report.tables import row_labels, span

VIEWS = ("ranks", "pairs")
RANK_HEADS = "rank|top-1 %|runs|sets"
PAIR_HEADS = "than|points|{:g} % interval|p|p (Holm)|test|n|verdict"
SHOWN = {"a is higher": "higher", "not told apart": "not significant"}  # verdicts as people read them
Cells = Mapping[str, Mapping[str, Any]]


def compare(
    frame: pd.DataFrame, view: str = "ranks", *, against: str | None = None, alpha: float = 0.05
) -> pd.DataFrame:
    """The "pairs" (columns `columns.PAIRS`) or "ranks" (columns `columns.RANKS`) of every column with several results.

    Args:
        frame: see `ddbench.report.frame.results_frame`; rows without an accuracy are left out.
        view: one of `VIEWS`.
        against: a method; only pairs with it, and p values adjusted for their number. Ranks need all pairs.
        alpha: significance level, in (0, 1); intervals of pairs are at 1 - alpha.

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
    return framed(rows, list(columns.PAIRS if view == "pairs" else columns.RANKS))


def grids(
    frame: pd.DataFrame, view: str | None = None, *, against: str | None = None, alpha: float = 0.05
) -> list[Grid]:
    """The comparison as people read it, a grid per column of results, best first; the notes stand below the last.

    Without a `view`: ranks, and the pairs too where there is one column; the pairs alone `against` a method.
    """
    first = view or ("ranks" if against is None else "pairs")
    table = compare(frame, first, against=against, alpha=alpha)
    draw, below = (_pair_grid, pair_notes) if first == "pairs" else (_rank_grid, rank_notes)
    made = [draw(_title(place), piece) for place, piece in table.groupby(list(COMPARED), sort=False)]
    made[-1] = replace(made[-1], notes=below(table))
    return made + grids(frame, "pairs", alpha=alpha) if view is None and first == "ranks" and len(made) == 1 else made


def render(
    frame: pd.DataFrame,
    form: str = "terminal",
    view: str | None = None,
    *,
    against: str | None = None,
    alpha: float = 0.05,
) -> str:
    """The comparison as text in one of `renderers.FORMATS`; without a `view`, csv and json have the pairs."""
    if is_data(form):
        return data_text(compare(frame, view or "pairs", against=against, alpha=alpha), form)
    return grids_text(grids(frame, view, against=against, alpha=alpha), form)


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
    gap = pair.difference
    verdict = "a is higher" if pair.told_apart(alpha) else "not told apart"
    return {
        "a": a["label"],
        "b": b["label"],
        "top1_a": a["top1"],
        "top1_b": b["top1"],
        "difference": gap.mean,
        "low": gap.low,
        "high": gap.high,
        "p": gap.p,
        "p_holm": pair.adjusted,
        "test": gap.test,
        "over_a": a["over"],
        "over_b": b["over"],
        "n": gap.n,
        "verdict": verdict if gap.p is not None else "not tested",
        "group_a": pair.a,
        "group_b": pair.b,
    }


def _title(place: Sequence[str]) -> str:
    dataset, protocol, student, budget = place
    return f"{dataset}, {protocol} ({student}), {budget_words(budget)}"


def _rank_grid(title: str, piece: pd.DataFrame) -> Grid:
    rows = []
    for row in piece.itertuples():
        texts = [
            span((row.first, row.last)),
            percent(row.top1) + half(row.ci_low, row.ci_high),
            str(row.n),
            str(row.draws),
        ]
        rows.append((row.method, [Shown(text, best=row.first == 1) for text in texts[:1]] + [*map(Shown, texts[1:])]))
    return Grid(title, "method", [(head,) for head in RANK_HEADS.split("|")], rows)


def _pair_grid(title: str, piece: pd.DataFrame) -> Grid:
    rows = []
    for row in piece.itertuples():
        verdict = SHOWN.get(row.verdict, row.verdict)
        span = between(row.low, row.high, signed)
        texts = [row.b, signed(row.difference), span, _p(row.p), _p(row.p_holm), row.test, str(row.n), verdict]
        rows.append((row.a, [Shown(text, best=verdict == "higher" and text == verdict) for text in texts]))
    heads = PAIR_HEADS.format(100 * (1 - piece["alpha"].iloc[0])).split("|")
    return Grid(title, "method", [(head,) for head in heads], rows, keys=1)


def rank_notes(frame: pd.DataFrame) -> list[str]:
    """Footnotes: what a rank is, and what was tested."""
    lines = [
        "Rank: from 1 + how many methods are significantly higher, to how many are not significantly lower (paired t test "
        f"on the same seeds, else Welch's; Holm over all pairs of the column, p < {frame['alpha'].iloc[0]:g}).",
        "Where ranges overlap, the order is not settled; ddbench compare --view pairs shows which pairs differ significantly.",
        f"{MARK}: no method is significantly higher.",
    ]
    if (frame["n"] == 1).any():
        lines.append("A single run cannot be tested against another: such methods share their ranks.")
    if (frame["draws"] == 1).any():
        lines.append("With one distilled set, a rank is that of a set, not of a method.")
    return lines


def pair_notes(frame: pd.DataFrame) -> list[str]:
    """Footnotes: the tests, the correction, and what the values are."""
    alpha, pairs = f"{frame['alpha'].iloc[0]:g}", span(frame["tested"])
    lines = [
        f"{MARK}: significantly higher, p (Holm) < {alpha}, corrected for the {pairs} tested pairs of the column.",
        "The interval is that of one difference, not corrected; n: pairs of seeds, or values of the smaller side.",
    ]
    if "evaluation" in {*frame["over_a"], *frame["over_b"]}:
        lines.append("With one distilled set, a difference is one between sets, not between methods.")
    return lines


def _p(value: float) -> str:
    return DASH if pd.isna(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
