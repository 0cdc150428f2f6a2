"""How far are hard and soft labels apart, and does the ranking survive another weight of LRS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddbench.errors import UsageError
from ddbench.report import scores
from ddbench.report.baselines import soft_twins
from ddbench.report.format import budget_words
from ddbench.report.frame import protocol_family
from ddbench.report.plots.style import (
    ACCURACY,
    COLUMN,
    GRAY,
    PAGE,
    add_legend,
    figure_for,
    labeled,
    room_for,
    settings,
    settle,
    styles_of,
)
from ddbench.report.score_table import score_table

PUBLISHED = 0.5
"""LRS's published weight."""


def hard_and_soft(frame: pd.DataFrame, dataset: str, budget: str, protocol: str = "hard-v1") -> Figure:
    """A dumbbell per method: its accuracy with hard and with soft labels, and how far they are apart, in points.

    The soft protocol is the twin of the hard one. Each by the student that most methods have. Sorted by the hard
    accuracy, so that a soft column out of order is another ranking. UsageError where no method has both.
    """
    hard, soft = protocol, soft_twins(frame.loc[frame["status"] == "ok", "protocol"]).get(protocol, "")
    (one, ones), (two, others) = (_by_student(labeled(frame), dataset, budget, name) for name in (hard, soft))
    rows = sorted(ones.keys() & others.keys(), key=lambda label: ones[label].top1)
    if all(ones[label].budget == "all" for label in rows):
        raise UsageError(f"no method with {hard} and its soft twin for {dataset} at {budget}")
    with settings():
        width = COLUMN if room_for(rows) <= COLUMN / 2.5 else PAGE
        figure = Figure(figsize=(width, 1.2 + 0.2 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        left, right = ([100 * side[label].top1 for label in rows] for side in (ones, others))
        places = range(len(rows))
        axes.hlines(places, left, right, color="#BBBBBB", linewidth=2.5, zorder=1)
        _draw_side(axes, [ones[label] for label in rows], f"{hard}, {one}", "o", "white")
        _draw_side(axes, [others[label] for label in rows], f"{soft}, {two}", "s", "#0072B2")
        for place, low, high in zip(places, left, right, strict=True):
            text = f"{high - low:+.1f}".replace("-", "\N{MINUS SIGN}")
            axes.text(1.02, place, text, transform=axes.get_yaxis_transform(), va="center")
        axes.set_yticks(places, rows)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"{ACCURACY}, 95 % interval")
        axes.margins(x=0.08)
        figure.suptitle(f"{dataset}, {budget_words(budget)}: what soft labels add")
        figure.legend(loc="outside lower center", ncols=1, handlelength=1.2)
        settle(figure)
    return figure


def _by_student(frame: pd.DataFrame, dataset: str, budget: str, protocol: str) -> tuple[str, dict[str, Any]]:
    """The student of a protocol that most methods have, and its cells by label; all the data among them."""
    here = (frame["dataset"] == dataset) & (frame["protocol"] == protocol) & (frame["status"] == "ok")
    part = frame[here & frame["budget"].isin((budget, "all"))]
    student = _usual(part["student"])
    return student, {row.label: row for row in part[part["student"] == student].itertuples()}


def _usual(students: "pd.Series[str]") -> str:
    """The most frequent student, of several the first by name."""
    counts = students.value_counts()
    return str(min(counts[counts == counts.max()].index, default=""))


def _draw_side(axes: Axes, cells: Sequence[Any], label: str, marker: str, face: str) -> None:
    places = range(len(cells))
    known = [(place, row) for place, row in enumerate(cells) if row.ci_low == row.ci_low]
    low, high = ([100 * getattr(row, name) for _, row in known] for name in ("ci_low", "ci_high"))
    axes.hlines([place for place, _ in known], low, high, color="black", linewidth=0.7, zorder=2)
    look: Any = {"markerfacecolor": face, "markeredgecolor": "black", "markeredgewidth": 0.8, "markersize": 5}
    axes.plot([100 * row.top1 for row in cells], places, marker, label=label, zorder=3, **look)


@dataclass(frozen=True)
class LrsParts:
    """What LRS is made of: differences of fractions; `shipped` says that IOR is of the shipped student recipe."""

    hlr: float
    ior: float
    shipped: bool

    def lrs(self, weight: float) -> float:
        """The score at a weight of IOR; see `ddbench.report.scores.lrs`."""
        return scores.lrs(self.hlr, self.ior, weight)


def lrs_parts(frame: pd.DataFrame, dataset: str, budget: str, protocol: str = "hard-v1") -> dict[str, LrsParts]:
    """HLR and IOR of every method that has both, by its label, at one budget; by the student that most methods have.

    They are those of the table of scores (`ddbench.report.score_table`).
    """
    frame = labeled(frame)
    table = score_table(frame[(frame["dataset"] == dataset) & frame["budget"].isin((budget, "all"))])
    known = table["hlr"].notna() & table["ior"].notna() & (table["hard"] == protocol_family(protocol))
    part = table[known & (table["budget"] == budget)]
    rows = part[part["student"] == _usual(part["student"])].itertuples()
    return {row.label: LrsParts(row.hlr, row.ior, row.ior_baseline == "borrowed") for row in rows}


def crossings(parts: Mapping[str, LrsParts]) -> list[tuple[float, str, str]]:
    """The weights inside (0, 1) at which two methods change places, with their labels, sorted.

    LRS rises with a = w IOR - (1 - w) HLR, which is linear in w: the places change where w (IOR_1 - IOR_2 + HLR_1 - HLR_2)
    = HLR_1 - HLR_2.
    """
    found = []
    for (first, one), (second, two) in combinations(sorted(parts.items()), 2):
        gap, slope = one.hlr - two.hlr, one.hlr - two.hlr + one.ior - two.ior
        if slope and 0 < gap / slope < 1:
            found.append((gap / slope, first, second))
    return sorted(found)


def lrs_against_weight(frame: pd.DataFrame, dataset: str, budget: str, protocol: str = "hard-v1") -> Figure:
    """LRS of each method over the weight of IOR from 0 to 1, a cross where two methods change places.

    UsageError where fewer than two methods have HLR and IOR.
    """
    parts, styles = lrs_parts(frame, dataset, budget, protocol), styles_of(frame)
    if len(parts) < 2:
        raise UsageError(
            f"no two methods with HLR and IOR for {dataset}, {protocol} at {budget}: whole and random are needed"
        )
    weights = [i / 20 for i in range(21)]
    with settings():
        figure, axes = figure_for(len(parts) + 1)
        for label, each in sorted(parts.items(), key=lambda item: -item[1].lrs(PUBLISHED)):
            style, note = styles[label], "" if each.shipped else " (hard baseline)"
            values = [each.lrs(weight) for weight in weights]
            axes.plot(weights, values, linestyle=style.line, label=label + note, markevery=5, zorder=3, **style.point)
        points = [(weight, parts[first].lrs(weight)) for weight, first, _ in crossings(parts)]
        if points:
            look: Any = {"markeredgecolor": "black", "markersize": 5, "markeredgewidth": 1.0}
            axes.plot(*zip(*points, strict=True), "x", color="black", label="ranking changes", zorder=4, **look)
        axes.axvline(PUBLISHED, color=GRAY, linestyle=":", linewidth=0.9, zorder=1)
        axes.set_xlim(0, 1)
        axes.set_xlabel("Weight of IOR, the rest is HLR's (dotted: published)")
        axes.set_ylabel("Label-robust score (LRS)")
        axes.set_title(f"{dataset}, {budget_words(budget)}, {protocol}")
        add_legend(figure)
        settle(figure)
    return figure
