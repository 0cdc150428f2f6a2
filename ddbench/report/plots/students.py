"""Does it transfer across networks: a map of methods by student networks, with numbers."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddbench.errors import UsageError
from ddbench.report.format import DASH, budget_words
from ddbench.report.plots.style import ACCURACY, COLUMN, PAGE, labeled, room_for, settings, settle

CELL = 0.6  # inches of width, at least
PALEST, DARKEST = 0.05, 0.85  # of the color map, so that no cell is as white as the paper


def accuracy_by_student(frame: pd.DataFrame, dataset: str, protocol: str, budget: str) -> Figure:
    """Methods by student networks at one budget, the best on average first, all data last; darker is better.

    A missing cell is a dash, a failed one and one that is excluded say so. UsageError where no cell has an accuracy.
    """
    part = labeled(frame)
    here = (part["dataset"] == dataset) & (part["protocol"] == protocol)
    part = part[here & part["budget"].isin((budget, "all"))]
    good = part[(part["status"] == "ok") & (part["budget"] == budget)]
    if good.empty:
        raise UsageError(f"no accuracy by student network for {dataset}, {protocol} at {budget}")
    students = sorted(set(part["student"]))
    rows = good.groupby("label")["top1"].mean().sort_values(ascending=False).index.tolist()
    rows += sorted(set(part.loc[part["budget"] == budget, "label"]) - set(rows))
    rows += sorted(set(part.loc[part["budget"] == "all", "label"]))
    found = {(row.label, row.student): row for row in part.itertuples()}
    names = room_for(rows)
    width = COLUMN if names + CELL * len(students) <= COLUMN else PAGE
    with settings():
        slanted = room_for(students) * len(students) > width - names
        figure = Figure(figsize=(width, 0.9 + 0.6 * slanted + 0.2 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        _draw_map(axes, [[found.get((label, student)) for student in students] for label in rows])
        axes.set_yticks(range(len(rows)), rows)
        turned: Any = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        axes.set_xticks(range(len(students)), students, **turned)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.suptitle(f"{dataset}, {budget_words(budget)}, {protocol}\n{ACCURACY} by student network")
        settle(figure)
    return figure


def _draw_map(axes: Axes, rows: Sequence[Sequence[Any]]) -> None:
    good = [row.top1 for line in rows for row in line if row is not None and row.status == "ok"]
    low, span = min(good), max(max(good) - min(good), 1e-9)
    shades = colormaps["Blues"]
    for y, line in enumerate(rows):
        for x, row in enumerate(line):
            if row is None or row.status != "ok":
                axes.text(x, y, DASH if row is None else row.status, ha="center", va="center", color="#777777")
                continue
            share = (row.top1 - low) / span
            face = shades(PALEST + (DARKEST - PALEST) * share)
            axes.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, color=face, linewidth=0)
            color = "white" if share > 0.6 else "black"
            axes.text(x, y, f"{100 * row.top1:.1f}", ha="center", va="center", color=color)
    axes.grid(visible=False)
    axes.set_xlim(-0.5, len(rows[0]) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
