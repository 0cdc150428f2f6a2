"""Everything that the cells allow, into a folder."""

import gc
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.ingredients import soft_twins
from ddbench.plots.budgets import accuracy_against_ipc, bars
from ddbench.plots.costs import accuracy_against_bytes, accuracy_against_seconds
from ddbench.plots.curves import learning_curves
from ddbench.plots.label_bytes import accuracy_against_label_bytes, some_packed
from ddbench.plots.labels import hard_and_soft, lrs_against_weight, lrs_parts
from ddbench.plots.students import accuracy_by_student
from ddbench.plots.style import SUFFIXES, labelled, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_all(frame: pd.DataFrame, folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Draw everything that the cells allow and return the files, sorted.

    Per data set, protocol and student: accuracy against IPC, bytes and seconds, those of the labels alone where some are
    packed, and, per budget, learning curves. Per data set and budget: bars, students, hard and soft labels, LRS over its weight.
    """
    written = []
    with _collected_rarely():
        for name, figure in figures(labelled(frame)):
            stem = re.sub(r"[^A-Za-z0-9@.-]+", "-", name).lstrip(".-")
            written += [save(figure, folder / f"{stem}{suffix}") for suffix in suffixes]
    return sorted(written)


@contextmanager
def _collected_rarely() -> Iterator[None]:
    """Look for garbage less often within the block: a figure is many small objects, and the search took a seventh."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def figures(frame: pd.DataFrame) -> "Iterator[tuple[str, Figure]]":
    """Every plot of labelled cells with its name; each is made when it is asked for."""
    good = frame[frame["status"] == "ok"]
    for (dataset, protocol, student), part in good.groupby(["dataset", "protocol", "student"]):
        name = f"{dataset}_{protocol}_{student}"
        if part["ipc"].notna().any():
            yield f"accuracy-ipc_{name}", accuracy_against_ipc(frame, dataset, protocol, student)
        if (part["bytes"] > 0).any():
            yield f"accuracy-bytes_{name}", accuracy_against_bytes(frame, dataset, protocol, student)
        if (part["distill_seconds"] > 0).any():
            yield f"accuracy-seconds_{name}", accuracy_against_seconds(frame, dataset, protocol, student)
        if some_packed(part):
            yield f"accuracy-label-bytes_{name}", accuracy_against_label_bytes(frame, dataset, protocol, student)
        for budget in part.loc[part["snapshots"].map(bool), "budget"].unique():
            yield f"curves_{name}_{budget}", learning_curves(frame, dataset, protocol, student, budget)
    for (dataset, budget), part in good[good["budget"] != "all"].groupby(["dataset", "budget"]):
        yield f"bars_{dataset}_{budget}", bars(frame, dataset, budget)
        yield from comparisons(frame, part, dataset, budget)


def comparisons(frame: pd.DataFrame, part: pd.DataFrame, dataset: str, budget: str) -> "Iterator[tuple[str, Figure]]":
    """What compares methods at one budget beside the bars; `part` are its cells with an accuracy."""
    for protocol, cells in part.groupby("protocol"):
        if cells["student"].nunique() > 1:
            name = f"students_{dataset}_{budget}_{protocol}"
            yield name, accuracy_by_student(frame, dataset, str(protocol), budget)
    for hard, soft in soft_twins(part["protocol"]).items():
        if set(part.loc[part["protocol"] == hard, "label"]) & set(part.loc[part["protocol"] == soft, "label"]):
            yield f"labels_{dataset}_{budget}_{hard}", hard_and_soft(frame, dataset, budget, hard, soft)
        if len(lrs_parts(frame, dataset, budget, hard)) > 1:
            yield f"weights_{dataset}_{budget}_{hard}", lrs_against_weight(frame, dataset, budget, hard)
