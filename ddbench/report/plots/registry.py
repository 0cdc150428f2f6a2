"""Kinds of plots: `PLOTS` has an entry for each, from which `ddbench plot`, its help, `plot_all` and the docs are made."""

import gc
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from ddbench.errors import JobFailed, UsageError, unknown
from ddbench.report.plots import SUFFIXES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    Rows = Callable[[pd.DataFrame], pd.DataFrame]

LINES, COMPARED = ("dataset", "protocol", "student"), ("dataset", "budget", "protocol")  # places of plots
FLAGS = {"dataset": "--dataset", "protocol": "--protocol", "student": "--network", "budget": "--ipc"}
COLLECTED = 20  # plots between two garbage collections: some 5 MB each
SHARE = 10  # plots of a process: fewer are drawn here sooner than one has started


@dataclass(frozen=True)
class Plot:
    """One kind of plot.

    Attributes:
        question: that it answers.
        function: "module:function" in this package, loaded when it is called as f(frame, **place); it raises UsageError
            where a place has nothing to show.
        place: the columns of the results frame that it shows one value of; none: it is drawn of sets, not of results.
        rows: of the results with an accuracy, those that it is about; `plot_all` draws a plot for each of their places.
    """

    question: str
    function: str
    place: tuple[str, ...]
    rows: "Rows" = lambda good: good

    def draw(self, frame: "pd.DataFrame", **place: str) -> "Figure":
        """The plot of one place."""
        figure: Figure = resolve_name(f"{__package__}.{self.function}")(frame, **place)
        return figure


def _sized(good: "pd.DataFrame") -> "pd.DataFrame":
    return good[good["budget"] != "all"]


def _watched(good: "pd.DataFrame") -> "pd.DataFrame":
    return good[good["snapshots"].map(bool).astype(bool)]


def _packed(good: "pd.DataFrame") -> "pd.DataFrame":
    """The rows with labels, where some of their place are packed."""
    from ddbench.report.frame import UNPACKED

    held = good[good["label_bytes"] > 0]
    packed = ~held["labels"].isin(UNPACKED)
    return held[packed.groupby([held[name] for name in LINES]).transform("any").astype(bool)]


def _several_students(good: "pd.DataFrame") -> "pd.DataFrame":
    sized = _sized(good)
    return sized[sized.groupby(["dataset", "protocol", "budget"])["student"].transform("nunique") > 1]


def _hard(good: "pd.DataFrame") -> "pd.DataFrame":
    from ddbench.report.baselines import soft_twins

    return _sized(good[good["protocol"].isin(soft_twins(good["protocol"]).keys())])


PLOTS = {
    "ipc": Plot(
        "what does more IPC buy?", "budgets:accuracy_against_ipc", LINES, lambda good: good[good["ipc"].notna()]
    ),
    "bytes": Plot("what does a byte buy?", "costs:accuracy_against_bytes", LINES, lambda good: good[good["bytes"] > 0]),
    "seconds": Plot(
        "what does a second of distillation buy?",
        "costs:accuracy_against_seconds",
        LINES,
        lambda good: good[good["distill_seconds"] > 0],
    ),
    "bars": Plot("who is best at one budget?", "budgets:bars", ("dataset", "budget"), _sized),
    "students": Plot("does it transfer across networks?", "students:accuracy_by_student", COMPARED, _several_students),
    "labels": Plot("how far are hard and soft labels apart?", "labels:hard_and_soft", COMPARED, _hard),
    "label-bytes": Plot("what does a byte of labels buy?", "label_bytes:accuracy_against_label_bytes", LINES, _packed),
    "weights": Plot("does the ranking survive another LRS weight?", "labels:lrs_against_weight", COMPARED, _hard),
    "curves": Plot("when is a distillation done?", "curves:learning_curves", (*LINES, "budget"), _watched),
    "images": Plot("what do the images look like?", "images:images_of", ()),
}
"""Every kind of plot by its name."""


def plot(
    frame: "pd.DataFrame",
    kind: str | None = None,
    *,
    dataset: str | None = None,
    protocol: str | None = None,
    network: str | None = None,
    ipc: int | None = None,
    fraction: float | None = None,
    say: Callable[[str], object] | None = None,
) -> "Figure":
    """One plot of results.

    Args:
        frame: see `ddbench.report.frame.results_frame`.
        kind: a name of `PLOTS` other than "images"; None: "ipc" where there are several, else "bars".
        dataset: to show; needed where the results have several, as are
        protocol: a label such as "hard-v1", and
        network: the student network; None: the one with the most results.
        ipc: budget of what is drawn at one budget, or
        fraction: of the training images.
        say: called with a line on what was chosen among several student networks.

    Raises:
        UsageError: an unknown kind, a choice that is left open, or nothing to show.
    """
    from ddbench.records.store import budget_label

    if kind is not None and kind not in PLOTS:
        raise unknown("plot kind", kind, PLOTS)
    good = frame[frame["status"] == "ok"]
    each = PLOTS[kind or ("ipc" if good["ipc"].nunique() > 1 else "bars")]
    if not each.place:
        raise UsageError(f"--kind {kind} draws sets, not results: name them by --sets")
    budget = None if ipc is fraction is None else budget_label({"fraction": fraction} if ipc is None else {"ipc": ipc})
    rows = each.rows(good)
    rows = rows if len(rows) else good
    place = {"dataset": dataset, "protocol": protocol, "student": network, "budget": budget}
    for name in each.place:
        chosen = place[name] or _only(rows, name, say)
        place[name], rows = chosen, rows[rows[name] == chosen]
    return each.draw(frame, **{name: str(place[name]) for name in each.place})


def _only(rows: "pd.DataFrame", name: str, say: Callable[[str], object] | None) -> str:
    """The only value of a column, or of student networks the one that most rows have; UsageError where several are left."""
    counts = rows.loc[rows[name] != "all", name].value_counts()
    if len(counts) == 1:
        return str(counts.index[0])
    if name != "student" or not len(counts) or counts.iloc[0] == counts.iloc[1]:
        raise UsageError(
            f"one plot shows one {name}: choose with {FLAGS[name]} among {', '.join(sorted(counts.index)) or 'none'}"
        )
    first, *others = counts.index
    if say is not None:
        say(f"students of {first}, which has the most results; --network draws another of {', '.join(sorted(others))}")
    return str(first)


def plot_all(frame: "pd.DataFrame", folder: Path, suffixes: Sequence[str] = SUFFIXES, workers: int = 1) -> list[Path]:
    """Draw every plot of `PLOTS` that the results allow and return the files, sorted.

    Args:
        frame: see `ddbench.report.frame.results_frame`.
        folder: of the files.
        suffixes: forms of every plot, of `SUFFIXES`.
        workers: processes, at most one for every `SHARE` plots. A script that asks for several must guard its main
            part by `if __name__ == "__main__"`.

    Raises:
        JobFailed: a process was killed; the plots that were drawn stay.
    """
    workers = min(workers, sum(1 for _ in figures(frame)) // SHARE) if workers > 1 else 1
    if workers <= 1:
        return sorted(_written(frame, folder, suffixes, 0, 1))
    from ddbench.jobs.pool import opened

    try:
        with opened(workers, preload=()) as pool:
            parts = [pool.submit(_written, frame, folder, suffixes, first, workers) for first in range(workers)]
            return sorted(path for part in parts for path in part.result())
    except BrokenProcessPool as error:
        raise JobFailed("a process that drew plots was killed, for want of memory perhaps") from error


def figures(frame: "pd.DataFrame") -> Iterator[tuple[str, Callable[[], "Figure"]]]:
    """The name of every plot that may have something to show, and what draws it; UsageError where it has nothing."""
    from ddbench.report.plots.style import labeled

    frame = labeled(frame)
    good = frame[frame["status"] == "ok"]
    for kind, each in PLOTS.items():
        for place, _ in each.rows(good).groupby(list(each.place)) if each.place else ():
            name = "_".join([f"accuracy-{kind}" if each.place == LINES else kind, *map(str, place)])
            yield name, partial(each.draw, frame, **dict(zip(each.place, place, strict=True)))


def _written(frame: "pd.DataFrame", folder: Path, suffixes: Sequence[str], first: int, step: int) -> list[Path]:
    """The files of every `step`-th plot, from the `first` on."""
    from ddbench.report.plots.style import save

    written = []
    with _collected_by_hand():
        for number, (name, draw) in enumerate(islice(figures(frame), first, None, step)):
            if number % COLLECTED == 0:
                gc.collect()
            stem = re.sub(r"[^A-Za-z0-9@.-]+", "-", name).lstrip(".-")
            try:
                figure = draw()
            except UsageError:  # nothing to show there
                continue
            written += [save(figure, folder / f"{stem}{suffix}") for suffix in suffixes]
    return written


@contextmanager
def _collected_by_hand() -> Iterator[None]:
    """Switch automatic garbage collection off: a figure is many small objects, and the search took a fifth of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
