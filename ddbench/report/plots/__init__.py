"""Plots of cells, each the answer to a question. PNG, SVG or PDF by suffix; see `ddbench.report.plots.style` for their looks."""

from ddbench.report.plots.budgets import accuracy_against_ipc as accuracy_against_ipc
from ddbench.report.plots.budgets import bars as bars
from ddbench.report.plots.costs import accuracy_against_bytes as accuracy_against_bytes
from ddbench.report.plots.costs import accuracy_against_seconds as accuracy_against_seconds
from ddbench.report.plots.costs import front_cells as front_cells
from ddbench.report.plots.curves import learning_curves as learning_curves
from ddbench.report.plots.every import comparisons as comparisons
from ddbench.report.plots.every import figures as figures
from ddbench.report.plots.every import plot_all as plot_all
from ddbench.report.plots.images import images_side_by_side as images_side_by_side
from ddbench.report.plots.label_bytes import accuracy_against_label_bytes as accuracy_against_label_bytes
from ddbench.report.plots.labels import hard_and_soft as hard_and_soft
from ddbench.report.plots.labels import lrs_against_weight as lrs_against_weight
from ddbench.report.plots.students import accuracy_by_student as accuracy_by_student
from ddbench.report.plots.style import SUFFIXES as SUFFIXES
from ddbench.report.plots.style import labelled as labelled
from ddbench.report.plots.style import save as save
