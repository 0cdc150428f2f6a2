"""Everything that the cells allow, into a folder."""

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ddbench.errors import JobFailed
from ddbench.jobs.pool import opened
from ddbench.report.baselines import soft_twins
from ddbench.report.plots.budgets import accuracy_against_ipc, bars
from ddbench.report.plots.costs import accuracy_against_bytes, accuracy_against_seconds
from ddbench.report.plots.curves import learning_curves
from ddbench.report.plots.label_bytes import accuracy_against_label_bytes, some_packed
from ddbench.report.plots.labels import hard_and_soft, lrs_against_weight, lrs_parts
from ddbench.report.plots.students import accuracy_by_student
from ddbench.report.plots.style import SUFFIXES, labelled, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Drawing = tuple[str, Callable[[], "Figure"]]
"""A plot's name, and what makes it."""
COLLECTED = 20  # plots between two looks for garbage: some 5 MB each
SHARE = 10  # plots of a process: fewer are drawn here sooner than one has started


def plot_all(frame: pd.DataFrame, folder: Path, suffixes: Sequence[str] = SUFFIXES, workers: int = 1) -> list[Path]:
    """Draw everything that the cells allow and return the files, sorted.

    Per data set, protocol and student: accuracy against IPC, bytes and seconds, those of the labels alone where some are
    packed, and, per budget, learning curves. Per data set and budget: bars, students, hard and soft labels, LRS over its weight.

    Args:
        frame: cells.
        folder: of the files.
        suffixes: forms of every plot, of `SUFFIXES`.
        workers: processes, at most one for every `SHARE` plots. A script that asks for several must guard its main
            part by `if __name__ == "__main__"`.

    Raises:
        JobFailed: a process was killed; the plots that were drawn stay.
    """
    frame = labelled(frame)
    if workers > 1:
        workers = min(workers, sum(1 for _ in figures(frame)) // SHARE)
    if workers <= 1:
        return sorted(_drawn(frame, folder, suffixes, 0, 1))
    try:
        with opened(workers, preload=()) as pool:
            parts = [pool.submit(_drawn, frame, folder, suffixes, first, workers) for first in range(workers)]
            return sorted(path for part in parts for path in part.result())
    except BrokenProcessPool as error:
        raise JobFailed("a process that drew plots was killed, for want of memory perhaps") from error


def _drawn(frame: pd.DataFrame, folder: Path, suffixes: Sequence[str], first: int, step: int) -> list[Path]:
    """Every `step`-th plot, from the `first` on."""
    written = []
    with _collected_by_hand():
        for number, (name, make) in enumerate(islice(figures(frame), first, None, step)):
            if number % COLLECTED == 0:
                gc.collect()
            figure, stem = make(), re.sub(r"[^A-Za-z0-9@.-]+", "-", name).lstrip(".-")
            written += [save(figure, folder / f"{stem}{suffix}") for suffix in suffixes]
    return written


@contextmanager
def _collected_by_hand() -> Iterator[None]:
    """Nothing looks for garbage within the block: a figure is many small objects, and the search took a fifth."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def figures(frame: pd.DataFrame) -> Iterator[Drawing]:
    """Every plot of labelled cells."""
    good = frame[frame["status"] == "ok"]
    for (dataset, protocol, student), part in good.groupby(["dataset", "protocol", "student"]):
        name = f"{dataset}_{protocol}_{student}"
        if part["ipc"].notna().any():
            yield f"accuracy-ipc_{name}", partial(accuracy_against_ipc, frame, dataset, protocol, student)
        if (part["bytes"] > 0).any():
            yield f"accuracy-bytes_{name}", partial(accuracy_against_bytes, frame, dataset, protocol, student)
        if (part["distill_seconds"] > 0).any():
            yield f"accuracy-seconds_{name}", partial(accuracy_against_seconds, frame, dataset, protocol, student)
        if some_packed(part):
            yield (
                f"accuracy-label-bytes_{name}",
                partial(accuracy_against_label_bytes, frame, dataset, protocol, student),
            )
        for budget in part.loc[part["snapshots"].map(bool), "budget"].unique():
            yield f"curves_{name}_{budget}", partial(learning_curves, frame, dataset, protocol, student, budget)
    for (dataset, budget), part in good[good["budget"] != "all"].groupby(["dataset", "budget"]):
        yield f"bars_{dataset}_{budget}", partial(bars, frame, dataset, budget)
        yield from comparisons(frame, part, dataset, budget)


def comparisons(frame: pd.DataFrame, part: pd.DataFrame, dataset: str, budget: str) -> Iterator[Drawing]:
    """What compares methods at one budget beside the bars; `part` are its cells with an accuracy."""
    for protocol, cells in part.groupby("protocol"):
        if cells["student"].nunique() > 1:
            name = f"students_{dataset}_{budget}_{protocol}"
            yield name, partial(accuracy_by_student, frame, dataset, str(protocol), budget)
    for hard, soft in soft_twins(part["protocol"]).items():
        if set(part.loc[part["protocol"] == hard, "label"]) & set(part.loc[part["protocol"] == soft, "label"]):
            yield f"labels_{dataset}_{budget}_{hard}", partial(hard_and_soft, frame, dataset, budget, hard, soft)
        if len(lrs_parts(frame, dataset, budget, hard)) > 1:
            yield f"weights_{dataset}_{budget}_{hard}", partial(lrs_against_weight, frame, dataset, budget, hard)
