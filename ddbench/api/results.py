"""Calls that read records and sets: tables, scores, comparisons, plots, facts. Records are read without torch."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ddbench.errors import UsageError
from ddbench.records.store import read_record, read_records
from ddbench.report import significance, tables
from ddbench.report.commands import commands_again
from ddbench.report.frame import left_out, results_frame
from ddbench.report.plots.registry import plot as draw_plot
from ddbench.report.score_table import data, score_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Folders = Sequence[Path | str] | Path | str | None


def table(
    results: Folders = None,
    *,
    datasets: Collection[str] | None = None,
    protocols: Collection[str] | None = None,
    methods: Collection[str] | None = None,
    networks: Collection[str] | None = None,
    view: str = "long",
    superseded: bool = False,
    former: bool = False,
) -> pd.DataFrame:
    """Pool records into one row per cell; accuracies are fractions, and `ddbench.report.columns` explains each column.

    Args:
        results: folder of records, or several; None: DDBENCH_RESULTS, else ./results/measured.
        datasets: only these; None: all, as for the next three.
        protocols: only these ("hard-v1") or these families ("hard").
        methods: only these.
        networks: only these student networks.
        view: "long"; "pivot", "variance" or "networks" as in `ddbench.report.tables.table`.
        superseded: also records that a newer one supersedes.
        former: also rows of code that is no longer there.

    Raises:
        UsageError: no records, or a name that no record has.
    """
    folders = [results] if isinstance(results, str | Path) else results
    frame = results_frame(
        read_records([Path(folder) for folder in folders] if folders else None),
        datasets=datasets,
        protocols=protocols,
        methods=methods,
        networks=networks,
        superseded=superseded,
        former=former,
    )
    return tables.table(frame, view)


def scores(
    results: Folders = None,
    *,
    methods: Collection[str] | None = None,
    weight: float = 0.5,
    ars_weight: float = 0.5,
    **chosen: Any,
) -> pd.DataFrame:
    """Score sets from records, a row per method, data set, budget and student network: HLR, IOR, LRS, ARS, cost.

    Args:
        results: see `table`.
        methods: only rows of these; baselines are looked for among all.
        weight: weight of IOR in LRS; that of -HLR is 1 - weight.
        ars_weight: weight of the augmented protocol in ARS.
        chosen: `datasets`, `protocols`, `networks`, `former` as for `table`.

    Raises:
        UsageError: see `table`; or no set has an accuracy under a hard, soft or shipped protocol.
    """
    return data(scored(table(results, **chosen), methods=methods, weight=weight, ars_weight=ars_weight))


def scored(frame: pd.DataFrame, **how: Any) -> pd.DataFrame:
    """`score_table` of a results frame; UsageError where it is empty."""
    rows = score_table(frame, **how)
    if rows.empty:
        raise UsageError("no scores: none of the chosen sets has an accuracy under a hard, soft or shipped protocol")
    return rows


def compare(
    results: Folders = None, *, view: str = "pairs", against: str | None = None, alpha: float = 0.05, **chosen: Any
) -> pd.DataFrame:
    """Compare methods within each data set, protocol, student network and budget, corrected for many comparisons.

    Args:
        results: see `table`.
        view: "pairs": difference, interval, p, p adjusted by Holm; "ranks": each method's range of ranks.
        against: only pairs with this method, corrected for these.
        alpha: level of the tests.
        chosen: as for `table`.

    Raises:
        UsageError: see `table`; nothing to compare; a level outside (0, 1).
    """
    return significance.compare(table(results, **chosen), view, against=against, alpha=alpha)


def plot(
    kind: str | None = None,
    results: Folders = None,
    *,
    ipc: int | None = None,
    fraction: float | None = None,
    sets: Sequence[Path | str] = (),
    say: Callable[[str], object] = lambda text: None,
    **chosen: Any,
) -> "Figure":
    """Draw one plot of records, or the images of sets.

    Args:
        kind: a name of `ddbench.report.plots.registry.PLOTS`; None: "ipc" where there are several, else "bars".
        results: see `table`.
        ipc: budget, of a plot of one budget; or
        fraction: of the training images.
        sets: for "images": files of sets, and folders of them; no records are read.
        say: called with a line on what was left out, or chosen among several student networks.
        chosen: as for `table`; what a plot shows one of, such as a protocol, must be chosen where the records have several.

    Raises:
        UsageError: see `table`; an unknown kind, a choice that is left open, nothing to show.
    """
    if kind == "images":
        from ddbench.report.plots.images import images_of  # imports torch

        return images_of([Path(path) for path in sets], next(iter(chosen.get("datasets") or ()), None))
    frame = table(results, **chosen)
    if line := left_out(frame):
        say(line)
    return draw_plot(frame, kind, ipc=ipc, fraction=fraction, say=say)


def show(file: Path | str) -> dict[str, Any]:
    """Facts of a set, or of a record (.json) with the commands that make its runs again, as plain data."""
    path = Path(file)
    if path.suffix.lower() != ".json":
        from ddbench.report.facts import set_facts  # imports torch
        from ddbench.synset.synset import load

        return set_facts(load(path), path)
    record = read_record(path)
    commands = list(dict.fromkeys(commands_again(record)))  # runs of two codes are made by one
    return {"record": record.model_dump(mode="json", by_alias=True), "reproduce": commands}
