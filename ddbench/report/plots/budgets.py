"""What does more IPC buy, and who is best at one budget: accuracy against IPC, and bars."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ddbench.errors import UsageError
from ddbench.report.format import budget_words
from ddbench.report.plots.style import (
    ACCURACY,
    COLUMN,
    CROWD,
    PAGE,
    chosen,
    draw_line,
    draw_references,
    figure_for,
    finish,
    labeled,
    panels_for,
    room_for,
    settings,
    settle,
    styles_of,
)

PANEL = 0.8  # inches that a panel of bars is wide, at least


def accuracy_against_ipc(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> Figure:
    """A line per method with its 95 % interval as a band; methods on all data as dashed horizontal lines.

    The IPC axis is logarithmic and only the measured IPCs are ticks. A line is broken where a cell is missing. Where
    some methods have several IPCs, those with one are left to `bars`.
    UsageError where no cell has an IPC and an accuracy.
    """
    part, styles = chosen(frame, dataset, protocol, student), styles_of(frame)
    lines = part[part["ipc"].notna()]
    counts = lines.groupby("label")["ipc"].transform("size")
    lines = lines[counts > 1] if (counts > 1).any() else lines
    if lines.empty:
        raise UsageError(f"no accuracy by IPC for {dataset}, {protocol}, {student}")
    with settings():
        figure, axes = figure_for(lines["label"].nunique() + int((part["budget"] == "all").sum()))
        ticks = sorted(set(lines["ipc"]))
        shifts = _shifts(ticks, lines["label"].nunique())
        for shift, (label, cells) in zip(shifts, lines.groupby("label"), strict=True):
            laid = cells.set_index("ipc")[["top1", "ci_low", "ci_high"]].reindex(ticks)
            x, band = [tick * shift for tick in ticks], len(shifts) <= CROWD
            draw_line(axes, str(label), styles[str(label)], x, laid, band=band)  # a missing cell breaks the line
        draw_references(axes, part)
        _ipc_axis(axes, ticks)
        drawn = "bands and error bars" if len(shifts) <= CROWD else "error bars"
        shown = pd.concat([lines, part[part["budget"] == "all"]])
        finish(figure, axes, shown, f"{dataset}, {protocol}\n{student} students", drawn)
    return figure


def bars(frame: pd.DataFrame, dataset: str, budget: str) -> Figure:
    """Horizontal bars with 95 % intervals: a panel per protocol (and student), a row per method, for one budget.

    A dashed line marks what all the data give. UsageError where there is no such cell.
    """
    part = labeled(frame)
    part = part[(part["dataset"] == dataset) & part["budget"].isin((budget, "all"))]
    rows = sorted(set(part.loc[part["budget"] == budget, "label"]), reverse=True)
    if not rows:
        raise UsageError(f"no cell for {dataset} at {budget}")
    panels = list(part[part["budget"] == budget].groupby(["protocol", "student"]).groups)
    names, panel = room_for(rows), max(PANEL, room_for(word for place in panels for word in place))
    width = COLUMN if len(panels) <= 2 and names + len(panels) * panel <= COLUMN else PAGE
    columns = max(1, min(len(panels), 4, int((width - names) / panel)))
    with settings():
        figure, grid = panels_for(width, columns, math.ceil(len(panels) / columns), len(rows))
        for axes, (protocol, student) in zip(grid, panels, strict=False):
            here = part[(part["protocol"] == protocol) & (part["student"] == student)]
            _draw_bars(axes, here[here["budget"] == budget], rows)
            for value in 100 * here.loc[(here["budget"] == "all") & (here["status"] == "ok"), "top1"]:
                axes.axvline(value, color="#555555", linestyle="--", linewidth=0.9)
            axes.set_title(f"{protocol}\n{student}", fontsize=8)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        whole = "; dashed: all data" if (part["budget"] == "all").any() else ""
        whole += "; dark: best or tied" if part["best"].any() and width == PAGE else ""
        figure.supxlabel(f"{ACCURACY}, 95 % interval{whole}", fontsize=8)
        figure.suptitle(f"{dataset}, {budget_words(budget)}")
        settle(figure)
    return figure


def _shifts(ticks: Sequence[int], count: int) -> list[float]:
    """Factors that set the methods at one IPC a little apart, so that equal accuracies do not hide each other."""
    gaps = [math.log(high / low) for low, high in pairwise(ticks)]
    spread = min(0.16, 0.02 * count) * min(gaps, default=1.0)
    return [math.exp(spread * (i / (count - 1) - 0.5)) if count > 1 else 1.0 for i in range(count)]


def _draw_bars(axes: Axes, cells: pd.DataFrame, rows: Sequence[str]) -> None:
    found = {row.label: row for row in cells.itertuples()}
    good = [(place, found[label]) for place, label in enumerate(rows) if label in found and found[label].status == "ok"]
    places, faces = [place for place, _ in good], ["#0072B2" if row.tied else "#9CC3DD" for _, row in good]
    axes.barh(places, [100 * row.top1 for _, row in good], height=0.7, color=faces)
    axes.hlines(places, [100 * row.ci_low for _, row in good], [100 * row.ci_high for _, row in good], color="black")
    for place, row in good:
        _write_value(axes, place, row)
    for place, label in enumerate(rows):
        if place not in places:
            axes.text(2, place, found[label].status if label in found else "—", va="center", color="#777777")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlim(0, 100)
    axes.grid(axis="y", visible=False)


def _write_value(axes: Axes, place: int, row: Any) -> None:
    """The mean in its bar, or behind the interval of a bar too short for it."""
    inside = row.top1 > 0.3
    right = 100 * (row.top1 if pd.isna(row.ci_high) else row.ci_high)
    color = "white" if row.tied and inside else "black"
    axes.text(2 if inside else right + 2, place, f"{100 * row.top1:.1f}", va="center", color=color)


def _ipc_axis(axes: Axes, ticks: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), [str(tick) for tick in ticks])
    axes.set_xlim(min(ticks) / 1.25, max(ticks) * 1.25)
    axes.set_xlabel("Images per class (IPC)")
