"""What does a byte buy, and what a second of distillation: accuracy against a cost, with the front of what pays."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from ddbench.errors import UsageError
from ddbench.report.format import duration, size
from ddbench.report.plots.style import GRAY, chosen, draw_line, figure_for, finish, settings, styles_of

TIMES = (0.001, 0.01, 0.1, 1, 10, 60, 600, 3_600, 36_000, 86_400, 864_000, 8_640_000)
"""Ticks of an axis of seconds."""


def accuracy_against_bytes(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> Figure:
    """Accuracy against the bytes that a student needs, a point per cell, the budgets of one method joined; the front.

    UsageError where no cell has both.
    """
    with settings():
        figure, axes, part = _against(frame, "bytes", dataset, protocol, student)
        axes.set_xscale("log", base=2)
        bytes_axis(axes, "Bytes that a student needs")
        finish(figure, axes, part, f"{dataset}, {protocol}\n{student} students")
    return figure


def accuracy_against_seconds(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> Figure:
    """Accuracy against the seconds that the distillation took, a point per cell, likewise; stages from the cache are free.

    UsageError where no cell has both.
    """
    with settings():
        figure, axes, part = _against(frame, "distill_seconds", dataset, protocol, student)
        axes.set_xscale("log")
        _seconds_axis(axes)
        finish(figure, axes, part, f"{dataset}, {protocol}\n{student} students")
    return figure


def on_front(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Which points lie on the Pareto front: no other costs at most as much and gains at least as much, one strictly."""
    points = list(zip(costs, gains, strict=True))
    return [not any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in points) for cost, gain in points]


def front_cells(frame: pd.DataFrame, cost: str, dataset: str, protocol: str, student: str) -> pd.DataFrame:
    """The labeled cells on the front of accuracy against a column of costs, the cheapest first."""
    part = chosen(frame, dataset, protocol, student)
    part = part[part[cost] > 0].sort_values([cost, "top1"])
    return part[on_front(part[cost].tolist(), part["top1"].tolist())]


def _against(
    frame: pd.DataFrame, cost: str, dataset: str, protocol: str, student: str
) -> tuple[Figure, Axes, pd.DataFrame]:
    part, styles = chosen(frame, dataset, protocol, student), styles_of(frame)
    part = part[part[cost] > 0].sort_values(cost)
    if part.empty:
        raise UsageError(f"no {cost.replace('_', ' ')} for {dataset}, {protocol}, {student}")
    figure, axes = figure_for(part["label"].nunique() + 1)
    _draw_front(axes, front_cells(part, cost, dataset, protocol, student), cost)
    for label, cells in part.groupby("label"):
        draw_line(axes, str(label), styles[str(label)], cells[cost], cells, linewidth=0.7)
    low, high = part[cost].min(), part[cost].max()
    room = max(1.15, (high / low) ** 0.05)
    axes.set_xlim(low / room, high * room)
    return figure, axes, part


def _draw_front(axes: Axes, cells: pd.DataFrame, cost: str) -> None:
    """A broad gray stair through the cells on the front, and a ring around each."""
    x, y = [*cells[cost], 2 * cells[cost].max() ** 1.5], [*(100 * cells["top1"]), 100 * cells["top1"].max()]
    axes.plot(x, y, drawstyle="steps-post", color="#CCCCCC", linewidth=3.5, solid_capstyle="butt", zorder=1)
    ring: Any = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": GRAY}
    axes.plot(cells[cost], 100 * cells["top1"], linestyle="none", zorder=2, label="Pareto front", **ring)


def bytes_axis(axes: Axes, label: str) -> None:
    """Ticks in KiB, MiB, GiB, five at most: powers of two, or round numbers where the range is narrow."""
    low, high = (math.log2(max(1.0, value)) for value in axes.get_xlim())
    unit = 1024.0 ** (low // 10)
    step = max(1, math.ceil((high - low) / 5))
    ticks = [2.0**power for power in range(math.ceil(low), math.floor(high) + 1) if power % step == 0]
    if len(ticks) < 3:
        found = MaxNLocator(4).tick_values(2**low / unit, 2**high / unit)
        ticks = [unit * tick for tick in found if 2**low <= unit * tick <= 2**high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([size(tick) for tick in ticks])
    axes.set_xlabel(label)


def _seconds_axis(axes: Axes) -> None:
    """Ticks at round times, or round numbers of seconds where the range is narrow."""
    low, high = axes.get_xlim()
    ticks = {float(time): duration(time) for time in TIMES if low <= time <= high}
    if len(ticks) < 2:
        ticks = {float(t): f"{t:.4g} s" for t in MaxNLocator(3).tick_values(low, high) if low <= t <= high and t > 0}
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(list(ticks.values()))
    axes.set_xlabel("Distillation time")
