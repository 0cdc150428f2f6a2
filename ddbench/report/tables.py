"""Tables of results in five formats: a pivot (methods by data set, protocol and budget), a row per result, the components
of its variance, and methods by student network.

A missing result is a dash, one that a method does not define n/a, a failed one failed; results that are not significantly
different from the best share its mark. Percent in what people read (terminal, Markdown, LaTeX, every pivot); CSV
and JSON of the other views are data, in fractions: `ddbench.report.columns` says what each column is.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ddbench.errors import unknown
from ddbench.records.statistics import variance_parts
from ddbench.report.cross_architecture import PLACE as NETWORK_PLACE
from ddbench.report.cross_architecture import network_grids, network_notes, network_table
from ddbench.report.format import DAGGER, DASH, MARK, budget_words, duration, half, percent, size
from ddbench.report.frame import COMPARED, left_out
from ddbench.report.renderers import Grid, Shown, data_text, grids_text, is_data

VIEWS = ("pivot", "long", "variance", "networks")
REDUCED = f"{DAGGER}: a reduced recipe, cheaper than the published one."
TELLING = (
    *("recipe", "lender", "distill_network", "imported", "student_recipe", "space", "device", "precision", "threads"),
    *("build", "compiled", "stacked", "devices", "code", "synthesis", "training", "teacher", "synset", "recipe_hash"),
    "group",
)  # what is added to a method's name, in this order, where it alone would not tell two rows apart
SHOWN = ["budget", "status", "top1", "ci_low", "ci_high", "tied", "reduced", "failed"]  # of a result in a table
SHARED = ("device", "precision", "threads", "build")
LONG = "data set|protocol|student|budget|recipe|top-1 %|std|runs|sets|failed|bytes|distillation|training"
VARIANCE = "data set|protocol|student|budget|top-1 %|std of a run|between sets|between evaluations|runs|sets"
WIDEST = 7  # columns of a terminal table
Head = tuple[str, str, str]


def table(frame: pd.DataFrame, view: str = "long") -> pd.DataFrame:
    """A view of the results as data; accuracies are fractions.

    Args:
        frame: see `ddbench.report.frame.results_frame`.
        view: "pivot": mean top-1 of methods (rows) by data set, protocol and budget; "long": the frame itself;
            "variance" and "networks": the frame with the columns `columns.VARIANCE`, or `columns.NETWORKS`.

    UsageError for another view.
    """
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)
    if view == "pivot":
        places = [(label, *head) for label, head in zip(row_labels(frame), column_heads(frame), strict=True)]
        names = ["method", "dataset", "protocol", "budget"]
        return pd.Series(frame["top1"].array, pd.MultiIndex.from_tuples(places, names=names)).unstack(
            names[1:], sort=False
        )
    if view == "variance":
        return variance_table(frame)
    return network_table(_labeled(frame)).drop(columns="label") if view == "networks" else frame


def render(frame: pd.DataFrame, form: str = "terminal", view: str = "pivot", *, width: int = 100) -> str:
    """Write results (see `ddbench.report.frame.results_frame`) as text in one of `renderers.FORMATS` and `VIEWS`.

    `width` is the terminal's, in characters. UsageError for another format or view.
    """
    if is_data(form) and view != "pivot":
        return data_text(table(frame, view), form)
    return grids_text(grids(frame, view, cut=form == "terminal"), form, width)


def grids(frame: pd.DataFrame, view: str, *, cut: bool = False) -> list[Grid]:
    """The results as people read them; the notes are those of the last grid.

    Several for the student networks, and for a pivot wider than `WIDEST` columns where it is to be cut: one per data
    set and protocol. UsageError for another view.
    """
    if view not in VIEWS:
        raise unknown("view", view, VIEWS)
    if view == "networks":
        return networks(frame)
    if view != "pivot":
        return [long(frame) if view == "long" else variance(frame)]
    whole = pivot(frame)
    if not cut or len(whole.headers) <= WIDEST:
        return [whole]
    parts = [replace(pivot(piece), notes=[]) for _, piece in frame.groupby(["dataset", "protocol"], sort=False)]
    return [*parts[:-1], replace(parts[-1], notes=whole.notes)]


def pivot(frame: pd.DataFrame) -> Grid:
    """Rows: methods (with what else tells them apart); columns: data set, protocol (and student), budget."""
    heads, placed = column_heads(frame), dict[str, dict[Head, Any]]()
    for label, head, row in zip(row_labels(frame), heads, frame[SHOWN].itertuples(), strict=True):
        placed.setdefault(label, {})[head] = row
    last = {label for label, own in placed.items() if all(row.budget == "all" for row in own.values())}
    rows = []
    for label in sorted(placed, key=lambda label: (label in last, label)):
        good = [row.reduced for row in placed[label].values() if row.status == "ok"]
        whole = bool(good) and all(good)
        texts = [_shown(placed[label].get(head), mark_reduced=not whole) for head in dict.fromkeys(heads)]
        rows.append((label + DAGGER * whole, texts))
    return Grid("Top-1 accuracy (%)", "method", list(dict.fromkeys(heads)), rows, notes(frame))


def long(frame: pd.DataFrame) -> Grid:
    """One row per cell: what it is, its accuracy, its runs, its bytes and its times."""
    rows = []
    for label, row in zip(row_labels(frame), frame.itertuples(), strict=True):
        what = [row.dataset, row.protocol, row.student, row.budget, row.recipe]
        runs = [percent(row.std), str(row.n), str(row.draws), str(row.failed)]
        cost = [size(row.bytes), duration(row.distill_seconds), duration(row.train_seconds)]
        shown = [Shown(text) for text in what] + [_shown(row, mark_reduced=False)] + [Shown(t) for t in runs + cost]
        rows.append((label + DAGGER * row.reduced, shown))
    title, heads = "Top-1 accuracy (%), one row per result", LONG.split("|")
    return Grid(title, "method", [(head,) for head in heads], rows, notes(frame), keys=4)


def variance_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells with their parts of the variance as standard deviations (see `statistics.variance_parts`)."""
    parts = [variance_parts(samples) if samples else None for samples in frame["samples"]]
    names = ("total", "between", "within")
    roots = {f"std_{name}": [_root(getattr(part, name, None)) for part in parts] for name in names}
    return frame.assign(**{name: pd.Series(found, frame.index, float) for name, found in roots.items()})


def variance(frame: pd.DataFrame) -> Grid:
    """One row per cell: the standard deviations of one run, between syntheses, and between evaluations of one."""
    rows, table = [], variance_table(frame)
    for label, row in zip(row_labels(frame), table.itertuples(), strict=True):
        what = [Shown(text) for text in (row.dataset, row.protocol, row.student, row.budget)]
        spreads = [_points(row.std_total), _points(row.std_between), _points(row.std_within)]
        tail = [Shown(text) for text in (*spreads, str(row.n), str(row.draws))]
        rows.append((label + DAGGER * row.reduced, [*what, _shown(row, mark_reduced=False), *tail]))
    lines = [
        "Standard deviations in points: of one run on a newly distilled set, between distilled sets, and between evaluation "
        "seeds of one set (one-way random effects, groups of unequal sizes, never negative).",
        "The deviation between sets needs two distilled sets and two runs of one of them.",
    ]
    title, heads = "Variance components, one row per result", VARIANCE.split("|")
    return Grid(title, "method", [(head,) for head in heads], rows, lines + notes(frame), keys=4)


def networks(frame: pd.DataFrame) -> list[Grid]:
    """Methods by student network, a grid per data set, protocol and budget with several."""
    table = network_table(_labeled(frame))
    shown = {row.Index: _shown(row, mark_reduced=True) for row in table.itertuples()}
    made = list(network_grids(table, shown)) or [Grid("Top-1 accuracy (%) by student network", "method", [], [])]
    own = network_notes(table)
    lines = [line for line in notes(table) if line not in own] if len(table) else []
    return [*made[:-1], replace(made[-1], notes=own + lines)]


def _labeled(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells with a label that tells a place's rows apart, the same for all student networks."""
    needed = frame[["method", "borrowed", *COMPARED, *TELLING]]
    places = [piece for _, piece in needed.groupby(NETWORK_PLACE, sort=False)]
    labels = [pd.Series(row_labels(piece), piece.index) for piece in places]
    return frame.assign(label=pd.concat(labels) if labels else pd.Series(dtype=object))


def row_labels(frame: pd.DataFrame) -> list[str]:
    """A label per cell that is unique within its column: the method, and what else is needed ("dm (paper, cuda)")."""
    rows = frame[["method", "borrowed", *COMPARED, *TELLING]].to_dict("records")
    alike: dict[tuple[str, str | None], list[dict[Any, Any]]] = {}
    for row in rows:
        alike.setdefault((row["method"], row["borrowed"]), []).append(row)
    telling = {names: _telling(part) for names, part in alike.items()}
    return [_label(row, telling[row["method"], row["borrowed"]]) for row in rows]


def _telling(rows: Sequence[dict[Any, Any]]) -> list[str]:
    """The columns that tell apart the cells of a method, and of one that it borrows from, where several are in one place."""
    names = ["borrowed"]
    for name in TELLING:
        places: dict[tuple[Any, ...], list[Any]] = {}
        for row in rows:
            places.setdefault(tuple(row[each] for each in (*COMPARED, *names)), []).append(row[name])
        if len(places) == len(rows):
            break
        if any(len(set(values)) > 1 for values in places.values()):
            names.append(name)
    return names


def column_heads(frame: pd.DataFrame) -> list[Head]:
    """(data set, protocol, budget) per row; the student is named where a protocol has several on one data set."""
    places = frame[["dataset", "protocol", "student", "budget"]]
    students: dict[tuple[str, str], set[str]] = {}
    for row in places.itertuples():
        students.setdefault((row.dataset, row.protocol), set()).add(row.student)
    return [
        (
            row.dataset,
            f"{row.protocol} ({row.student})" if len(students[row.dataset, row.protocol]) > 1 else row.protocol,
            budget_words(row.budget),
        )
        for row in places.itertuples()
    ]


def notes(frame: pd.DataFrame) -> list[str]:
    """Footnotes: what the signs mean, how many runs a mean is of, the shared setting, the teachers."""
    good = frame[frame["status"] == "ok"]
    lines = []
    if good["ci_low"].notna().any():
        over = {"synthesis": "distilled sets (the mean of each)", "evaluation": "the evaluation seeds of a single set"}
        spans = " or over ".join(over[name] for name in over if name in set(good["over"]))
        lines.append(f"±: 95 % confidence half-width (Student's t) over {spans}.")
    if len(good):
        sets = span(good["draws"])
        lines.append(
            f"n = {span(good['n'])} runs ({sets} distilled set{'' if sets == '1' else 's'} x evaluation seeds)."
        )
    if good["best"].any():
        lines.append(
            f"{MARK}: the best of its column, and those that are not significantly different from it (p > 0.05; paired t "
            "test, else Welch's; not corrected)."
        )
    if (good["n"] == 1).any():
        lines.append("A single run has no interval, and two single runs cannot be tested against each other.")
    if good["reduced"].any():
        lines.append(REDUCED)
    if (frame["status"] == "n/a").any():
        lines.append("n/a: the method is not defined there.")
    lines += [line for line in [left_out(frame)] if line]
    shared = [f"{name} {frame[name].iloc[0]}" for name in SHARED if len(frame) and frame[name].nunique() == 1]
    lines += [f"All results: {', '.join(shared)}."] if shared else []
    for row in good[good["teacher"].notna()].drop_duplicates(["dataset", "protocol", "teacher"]).itertuples():
        name = f"{row.teacher_network} {str(row.teacher)[:8]}"
        lines.append(
            f"{row.protocol} on {row.dataset}: teacher {name}, test accuracy {percent(row.teacher_accuracy)} %."
        )
    return lines


def _shown(row: Any, *, mark_reduced: bool) -> Shown:
    if row is None:
        return Shown(DASH)
    if row.status != "ok":
        return Shown(str(row.status))
    dagger = DAGGER if row.reduced and mark_reduced else ""
    failed = f" ({row.failed} failed)" if row.failed else ""
    return Shown(percent(row.top1) + half(row.ci_low, row.ci_high) + dagger + failed, bool(row.tied))


def _label(row: dict[Any, Any], names: Sequence[str]) -> str:
    parts = [_word(name, row[name]) for name in names if row[name] is not None]
    return f"{row['method']} ({', '.join(parts)})" if parts else str(row["method"])


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if name == "borrowed":
        return f"as {value}"
    shown = (
        str(value)[:8]
        if name in ("lender", "teacher", "synset", "recipe_hash", "student_recipe", "imported", "group", "code")
        else value
    )
    return f"{shown}" if name in ("recipe", "device", "precision") else f"{name.replace('_', ' ')} {shown}"


def span(values: Iterable[int]) -> str:
    """Counts in words: "5", or "5-15"."""
    kept = list(values)
    low, high = min(kept), max(kept)
    return str(low) if low == high else f"{low}-{high}"


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(variance)


def _points(value: float) -> str:
    return DASH if pd.isna(value) else f"{100 * value:.2f}"
