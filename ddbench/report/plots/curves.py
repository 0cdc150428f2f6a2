"""When is a distillation done: accuracy on the way of it, from the snapshots of runs."""

import pandas as pd
from matplotlib.figure import Figure

from ddbench.errors import UsageError
from ddbench.report.baselines import FULL
from ddbench.report.format import budget_words
from ddbench.report.frame import curve_of
from ddbench.report.plots.style import CROWD, GRAY, chosen, draw_line, figure_for, finish, settings, styles_of


def learning_curves(frame: pd.DataFrame, dataset: str, protocol: str, student: str, budget: str) -> Figure:
    """Accuracy against the steps of the distillation, with its 95 % interval; random and all the data as lines across.

    Where methods make different numbers of steps, against the share of their own. UsageError where no run has snapshots.
    """
    part, styles = chosen(frame, dataset, protocol, student), styles_of(frame)
    curves = {row.label: curve_of(row.snapshots) for row in part[part["budget"] == budget].itertuples()}
    curves = {label: curve for label, curve in sorted(curves.items()) if not curve.empty}
    if not curves:
        raise UsageError(f"no snapshots for {dataset}, {protocol}, {student} at {budget}: make some by --snapshots")
    totals = {label: int(curve["step"].max()) for label, curve in curves.items()}
    alike = len(set(totals.values())) == 1
    across = part[(part["budget"] == "all") | ((part["method"] == FULL.random) & (part["budget"] == budget))]
    with settings():
        figure, axes = figure_for(len(curves) + len(across))
        for label, curve in curves.items():
            x = curve["step"] if alike else 100 * curve["step"] / totals[label]
            name = label if alike else f"{label}, {totals[label]:,} steps"
            draw_line(axes, name, styles[label], x, curve, band=len(curves) <= CROWD)
        for row in across.itertuples():
            line = "--" if row.budget == "all" else ":"
            label = f"{row.label}: {100 * row.top1:.1f}"
            axes.axhline(100 * row.top1, color=GRAY, linestyle=line, linewidth=1.0, label=label, zorder=1)
        axes.set_xlabel("Distillation steps" if alike else "Distillation steps (% of each method's)")
        shown = pd.concat([*curves.values(), across[["top1", "ci_low", "ci_high"]]])
        title = f"{dataset}, {budget_words(budget)}, {protocol}\n{student} students"
        finish(figure, axes, shown, title, "bands and error bars" if len(curves) <= CROWD else "error bars")
    return figure
