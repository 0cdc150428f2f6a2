"""Cross-architecture: methods by student network, where a method has several under one protocol, data set and budget."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from ddbench.records.statistics import combine
from ddbench.report import columns
from ddbench.report.format import DAGGER, DASH, DDAGGER, budget_words, half, percent
from ddbench.report.frame import framed
from ddbench.report.renderers import Grid, Shown

PLACE = ["dataset", "protocol", "budget"]
NUMBERS = ("top1_others", "low_others", "high_others")


def network_table(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of places (data set, protocol, budget) where some method has several student networks, a row each.

    Args:
        frame: cells (see `ddbench.report.frame.results_frame`) with a `label` each, that tells a place's methods apart.

    Columns `columns.CELL`, `columns.NETWORKS` and `label`. The mean over other networks stands in every row of a method;
    a set without a distillation network (an imported one) leaves none out.
    """
    several = frame.groupby([*PLACE, "label"])["student"].transform("nunique") > 1
    kept = frame[several.groupby([frame[name] for name in PLACE]).transform("any").astype(bool)]
    found: dict[int, dict[str, Any]] = {}
    needed = kept[[*PLACE, "label", "student", "distill_network", "status", "samples"]]  # grouping copies every column
    for _, place in needed.groupby(PLACE, sort=False):
        students = list(dict.fromkeys(place["student"]))
        for _, own in place.groupby("label", sort=False):
            others = _others(own, students)
            for index, row in own[["student", "distill_network"]].iterrows():
                found[index] = others | {"is_distill_network": row["student"] == row["distill_network"]}
    added = framed((found[index] for index in kept.index), list(columns.NETWORKS))
    return pd.concat([kept, added.set_axis(kept.index)], axis=1)


def _others(own: pd.DataFrame, students: list[str]) -> dict[str, Any]:
    """Mean over the networks other than the distillation network, with its interval; {} unless all are there once."""
    wanted = [name for name in students if name not in set(own["distill_network"])]
    cells = own[own["student"].isin(wanted) & (own["status"] == "ok")]
    if not wanted or sorted(cells["student"]) != sorted(wanted):
        return {}
    found = combine([(1 / len(wanted), samples) for samples in cells["samples"]])
    return {"top1_others": found.mean, "low_others": found.low, "high_others": found.high, "others": len(wanted)}


def network_grids(table: pd.DataFrame, shown: Mapping[int, Shown]) -> Iterator[Grid]:
    """A grid per data set, protocol and budget, without notes; `shown` holds every cell as it is read, by index."""
    needed = table[[*PLACE, "label", "student", "is_distill_network", *NUMBERS]]
    for (dataset, protocol, budget), place in needed.groupby(PLACE, sort=False):
        students = list(dict.fromkeys(place["student"]))
        rows = []
        for label, own in place.groupby("label", sort=True):
            texts = {row.student: _marked(shown[row.Index], row.is_distill_network) for row in own.itertuples()}
            last = own.iloc[0]
            mean = percent(last["top1_others"]) + half(last["low_others"], last["high_others"])
            rows.append((str(label), [*(texts.get(name, Shown(DASH)) for name in students), Shown(mean)]))
        title = f"Top-1 accuracy (%) by student network: {dataset}, {protocol}, {budget_words(budget)}"
        yield Grid(title, "method", [(name,) for name in [*students, "mean of others"]], rows)


def network_notes(table: pd.DataFrame) -> list[str]:
    """Footnotes on the sign of the distillation network and on the mean."""
    if table.empty:
        return [
            "No method has several student networks on one data set, protocol and budget (ddbench sweep ... --networks NAMES)."
        ]
    lines = [
        "mean of others: the mean over all student networks but the one that the set was distilled with; a dash where one "
        "is missing."
    ]
    if (table["is_distill_network"] == True).any():  # noqa: E712 - a column of objects
        lines.append(f"{DDAGGER}: the student network is the distillation network.")
    if (table["reduced"] == True).any():  # noqa: E712
        lines.append(f"{DAGGER}: a reduced recipe, cheaper than the published one.")
    return lines


def _marked(cell: Shown, own: bool) -> Shown:
    return Shown(cell.text + DDAGGER, cell.best) if own and cell.text != DASH else cell
