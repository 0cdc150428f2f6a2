"""Plots of cells, each the answer to a question. PNG, SVG or PDF by suffix; see `ddbench.plots.style` for their looks."""

from ddbench.plots.budgets import accuracy_against_ipc as accuracy_against_ipc
from ddbench.plots.budgets import bars as bars
from ddbench.plots.costs import accuracy_against_bytes as accuracy_against_bytes
from ddbench.plots.costs import accuracy_against_seconds as accuracy_against_seconds
from ddbench.plots.costs import front_cells as front_cells
from ddbench.plots.curves import learning_curves as learning_curves
from ddbench.plots.every import comparisons as comparisons
from ddbench.plots.every import figures as figures
from ddbench.plots.every import plot_all as plot_all
from ddbench.plots.images import images_side_by_side as images_side_by_side
from ddbench.plots.label_bytes import accuracy_against_label_bytes as accuracy_against_label_bytes
from ddbench.plots.labels import hard_and_soft as hard_and_soft
from ddbench.plots.labels import lrs_against_weight as lrs_against_weight
from ddbench.plots.students import accuracy_by_student as accuracy_by_student
from ddbench.plots.style import SUFFIXES as SUFFIXES
from ddbench.plots.style import labelled as labelled
from ddbench.plots.style import save as save
