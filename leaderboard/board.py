"""The rows of the site: cells of records with their ranks, and what papers report, beside them or in rows of their own.

Numbers are those of `ddbench.report.frame` and `ddbench.report.significance`, fractions, bytes and seconds; nothing is computed here.
Cells of one data set, protocol, version, student and budget share a place and are ranked there; versions never mix.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from ddbench.data.registry import dataset_names, describe
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import entries_for, published
from ddbench.errors import UsageError
from ddbench.networks import canonical
from ddbench.records.record import Record
from ddbench.records.store import budget_label, budget_size
from ddbench.report.baselines import FULL
from ddbench.report.frame import COMPARED, curve_of, left_out, pooled, protocol_label
from ddbench.report.papers import OWN, Figure, Paper, figures_of
from ddbench.report.significance import compare
from ddbench.report.tables import row_labels

from .entries import RANKED, STANDINGS, Entry, Standing

log = logging.getLogger("ddbench")
_TEXTS = ("method", "dataset", "budget", "protocol", "student", "status")
_NUMBERS = ("top1", "bytes", "distill_seconds", "train_seconds")
PAPERS = "paper: "  # before a reported row's protocol, so that none is taken for a protocol of the suite


@dataclass(frozen=True)
class Row:
    """One row of the site.

    Attributes:
        standing: see `STANDINGS`.
        method, dataset, budget, protocol, student: what it is; the budget in words, "ipc 10".
        what: what else tells it apart from other rows of its place.
        order: sorts rows: records before papers, then place, then accuracy.
        status, reason: "ok", or why there is no accuracy.
        top1, low, high: mean and ends of the 95 % interval, fractions; None where there is none.
        std: of a reported figure, the paper's own deviation.
        first, last, ranked: the ranks that it may have and how many rows are ranked; None where it is not ranked.
        bytes, distill_seconds, train_seconds: what it costs.
        figures: what papers report for the same cell; of a reported row, its own.
        records: the ids of its entries.
        cell: the cell as `ddbench.report.frame.results_frame` gives it; of a reported row, nothing.
    """

    standing: str
    method: str
    dataset: str
    budget: str
    protocol: str
    student: str
    what: str = ""
    order: tuple[Any, ...] = ()
    status: str = "ok"
    reason: str | None = None
    reduced: bool = False
    top1: float | None = None
    low: float | None = None
    high: float | None = None
    std: float | None = None
    runs: int = 0
    draws: int = 0
    failed: int = 0
    first: int | None = None
    last: int | None = None
    ranked: int | None = None
    bytes: float | None = None
    distill_seconds: float | None = None
    train_seconds: float | None = None
    figures: tuple[Figure, ...] = ()
    records: tuple[str, ...] = ()
    cell: Mapping[str, Any] | None = None

    @property
    def size(self) -> float:
        """A number that sorts budgets: images per class below fractions below all."""
        kind, size = budget_size(self.budget)
        return kind * 1e9 + size

    @property
    def best(self) -> bool:
        """Whether nothing of its place is told apart above it."""
        return self.first == 1 and self.ranked is not None and self.ranked > 1


def rows(entries: Sequence[Entry], papers: Mapping[str, Paper]) -> list[Row]:
    """Every row of the site, sorted: records first, then what is only reported.

    UsageError where two digests of one version of a protocol meet.
    """
    frame, ids = _frame(entries)
    ranks = _ranks(frame, ids)
    reported = Reported(papers)
    cells = frame.to_dict("records")
    found = [_row(cell, ids[cell["group"]], ranks.get(cell["group"]), reported) for cell in cells]
    beside = {id(figure) for row in found for figure in row.figures}
    found += [_reported(figure) for figure in reported.figures if id(figure) not in beside]
    return sorted(found, key=lambda row: row.order)


def _frame(entries: Sequence[Entry]) -> tuple[pd.DataFrame, dict[str, tuple[str, ...]]]:
    """The cells of every standing and protocol, with `standing` and `label`; and the entries behind each cell."""
    parts: dict[tuple[Standing, str], list[Record]] = {}
    for entry in entries:
        parts.setdefault((entry.standing, protocol_label(entry.record)), []).append(entry.record)
    names = {(entry.standing, entry.record.key_hash()): entry.id for entry in entries}
    frames: list[pd.DataFrame] = []
    ids: dict[str, tuple[str, ...]] = {}
    for (standing, _), records in sorted(parts.items()):
        found, behind = pooled(records)
        if line := left_out(found):
            log.warning("%s records: %s", standing, line.partition(";")[0])
        own = {group: f"{group}-{standing}" for group in found["group"]}
        frames.append(found.assign(standing=standing, group=found["group"].map(own)))
        for group, members in behind.items():
            ids[own[group]] = tuple(names[standing, record.key_hash()] for record in members)
    whole = pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
    return whole.assign(label=row_labels(whole)), ids


def _ranks(frame: pd.DataFrame, ids: Mapping[str, Sequence[str]]) -> dict[str, tuple[int, int, int]]:
    """First and last rank and how many are ranked, by cell; a cell alone in its place is the first of one.

    A claim whose cell was measured here is the same contender: it has the rank of what was measured.
    """
    ok = frame[frame["standing"].isin(RANKED) & (frame["status"] == "ok")]
    places = dict(zip(ok["group"], ok["standing"], strict=True))
    measured = {entry: group for group, standing in places.items() if standing == "measured" for entry in ids[group]}
    keys = {group: ids[group][0].removesuffix("-verified") for group, place in places.items() if place == "verified"}
    same = {claim: measured[key] for claim, key in keys.items() if key in measured}
    found = _ranked(ok[~ok["group"].isin(list(same))])
    return found | {claim: found[measured] for claim, measured in same.items()}


def _ranked(ranked: pd.DataFrame) -> dict[str, tuple[int, int, int]]:
    """The ranks of cells that are all ranked."""
    sizes = ranked.groupby(list(COMPARED))["group"].transform("size")
    alone = dict.fromkeys(ranked.loc[sizes == 1, "group"], (1, 1, 1)) if len(ranked) else {}
    if not len(ranked) or not (sizes > 1).any():
        return alone
    table = compare(ranked, "ranks")
    found = zip(table["group"], table["first"], table["last"], table["cells"], strict=True)
    return alone | {group: (int(first), int(last), int(count)) for group, first, last, count in found}


def _row(
    cell: Mapping[str, Any], records: tuple[str, ...], rank: tuple[int, int, int] | None, reported: "Reported"
) -> Row:
    first, last, ranked = rank or (None, None, None)
    texts: dict[str, Any] = {name: str(cell[name]) for name in _TEXTS}
    numbers: dict[str, Any] = {name: _known(cell[name]) for name in _NUMBERS}
    place = (cell["dataset"], cell["protocol"], cell["student"], *budget_size(cell["budget"]))
    return Row(
        standing=cell["standing"],
        what=cell["label"].removeprefix(cell["method"]).strip().removeprefix("(").removesuffix(")"),
        order=(0, *place, -(numbers["top1"] or 0), cell["label"], cell["group"]),
        reason=cell["reason"],
        reduced=bool(cell["reduced"]),
        low=_known(cell["ci_low"]),
        high=_known(cell["ci_high"]),
        runs=int(cell["n"]),
        draws=int(cell["draws"]),
        failed=int(cell["failed"]),
        first=first,
        last=last,
        ranked=ranked,
        figures=reported.beside(cell),
        records=records,
        cell=cell,
        **texts,
        **numbers,
    )


def _reported(figure: Figure) -> Row:
    """A figure in a row of its own."""
    protocol, budget = PAPERS + figure.protocol, budget_label(figure.budget.to_json())
    place = (figure.dataset, protocol, figure.network, *budget_size(budget))
    return Row(
        standing="reported",
        method=figure.method,
        dataset=figure.dataset,
        budget=budget,
        protocol=protocol,
        student=figure.network,
        what="" if figure.protocol == OWN else figure.paper,
        order=(1, *place, -figure.top1, figure.method, figure.paper, figure.read_in),
        top1=figure.top1,
        std=figure.std,
        figures=(figure,),
    )


class Reported:
    """The figures of papers, found by cell."""

    def __init__(self, papers: Mapping[str, Paper]) -> None:
        self.figures = [figure for key, paper in papers.items() for figure in figures_of(key, paper)]
        self.own: dict[tuple[str, str, str], list[Figure]] = {}
        for figure in self.figures:
            if figure.protocol == OWN:
                key = (figure.method, figure.dataset, budget_label(figure.budget.to_json()))
                self.own.setdefault(key, []).append(figure)

    def beside(self, cell: Mapping[str, Any]) -> tuple[Figure, ...]:
        """What papers report for the cell: their own post-evaluation, the same student, the recipe that it is of.

        Nothing for a reduced, borrowed or imported cell, nor for a protocol under which figures are no targets.
        """
        if cell["protocol_family"] != FULL.shipped or cell["reduced"] or cell["borrowed"] or cell["imported"]:
            return ()
        near = self.own.get((cell["method"], cell["dataset"], cell["budget"]), [])
        return tuple(figure for figure in near if _same_student(figure, cell) and _same_recipe(figure, cell))


def _same_student(figure: Figure, cell: Mapping[str, Any]) -> bool:
    if figure.network == cell["student"]:
        return True
    try:
        side = describe(figure.dataset).side if figure.dataset in dataset_names() else None
        return side is not None and canonical(figure.network, side=side) == cell["student"]
    except UsageError:
        return False


def _same_recipe(figure: Figure, cell: Mapping[str, Any]) -> bool:
    """Whether the cell's recipe is the one that the figure is of: the one it names, else the default."""
    return bool(cell["recipe"] == (figure.recipe or default_recipe(figure)))


@cache
def default_recipe(figure: Figure) -> str | None:
    """The name of the default recipe of a figure's cell; None where there is none."""
    try:
        fitting = entries_for(published(find_method(figure.method)), figure.dataset, figure.budget)
    except UsageError:
        return None
    chosen = [entry for entry in fitting if entry.default] or fitting
    return chosen[0].name if len(chosen) == 1 else None


def choices(found: Iterable[Row], field: str) -> list[str]:
    """The values of a field for a filter: budgets by size, standings in their order, the rest by name."""
    values = {str(getattr(row, field)) for row in found}
    if field == "standing":
        return [name for name in STANDINGS if name in values]
    return sorted(values, key=budget_size) if field == "budget" else sorted(values)


def curves(found: Iterable[Row]) -> Iterator[tuple[Row, pd.DataFrame]]:
    """The rows with snapshots, each with step, mean and interval on the way of the distillation."""
    for row in found:
        if row.cell is not None and row.cell["snapshots"]:
            yield row, curve_of(row.cell["snapshots"])


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)
