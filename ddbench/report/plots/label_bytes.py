"""What does a byte of labels buy: accuracy against the bytes of the labels alone, packed and as a method gives them."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ddbench.errors import UsageError
from ddbench.report.format import DAGGER
from ddbench.report.frame import UNPACKED
from ddbench.report.plots.costs import bytes_axis
from ddbench.report.plots.style import COLORS, LINES, MARKERS, Style, chosen, draw_line, figure_for, finish, settings


def accuracy_against_label_bytes(frame: pd.DataFrame, dataset: str, protocol: str, student: str) -> Figure:
    """Accuracy against the bytes of the labels alone, a line per method and form: its label batches, fewer and fewer.

    Color, line and filling tell methods apart, markers the forms: teachers that label online (their weights are the
    bytes), fp16, int8, the k largest logits. UsageError where no cell has both.
    """
    part = _families(chosen(frame, dataset, protocol, student))
    if part.empty:
        raise UsageError(f"no bytes of labels for {dataset}, {protocol}, {student}")
    families, forms = sorted(set(part["family"])), sorted(set(part["labels"]), key=_form_order)
    with settings():
        figure, axes = figure_for(part.groupby(["family", "labels"]).ngroups)
        for (family, form), cells in part.groupby(["family", "labels"]):
            place = families.index(family)
            color, marker = COLORS[place % len(COLORS)], MARKERS[forms.index(form) % len(MARKERS)]
            style = Style(color, marker, LINES[place % len(LINES)])
            face: Any = {"markerfacecolor": "white" if place % 2 else color, "markeredgecolor": color}
            draw_line(axes, f"{family}, {form}", style, cells["label_bytes"], cells, markeredgewidth=1.0, **face)
        axes.set_xscale("log", base=2)
        bytes_axis(axes, "Bytes of the labels")
        finish(figure, axes, part, f"{dataset}, {protocol}\n{student} students")
    return figure


def some_packed(part: pd.DataFrame) -> bool:
    """Whether some cells' labels are packed: then the plot says something."""
    return not part.loc[part["label_bytes"] > 0, "labels"].isin(UNPACKED).all()


def _families(part: pd.DataFrame) -> pd.DataFrame:
    """The cells with labels, in the order of their bytes, and whose they are: the method, the recipe too if it has several."""
    part = part[part["label_bytes"] > 0].sort_values("label_bytes")
    pairs = zip(part["recipe"], part["labels"], strict=True)
    part = part.assign(base=[name if form in UNPACKED else name.rpartition("+")[0] for name, form in pairs])
    several = part.groupby("method")["base"].transform("nunique") > 1
    named = zip(part["method"], part["base"], several, part["reduced"], strict=True)
    return part.assign(
        family=[method + f" ({base})" * many + DAGGER * reduced for method, base, many, reduced in named]
    )


def _form_order(form: str) -> tuple[int, str]:
    first = (*UNPACKED, "fp16", "int8")
    return (first.index(form) if form in first else len(first), form)
