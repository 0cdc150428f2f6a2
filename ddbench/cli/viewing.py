"""Plots of records and sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from matplotlib.figure import Figure

import ddbench
from ddbench.cli import options as o
from ddbench.cli.output import say, say_left_out
from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError, unknown
from ddbench.records.store import budget_label
from ddbench.report import plots
from ddbench.report.baselines import soft_twins
from ddbench.report.set_images import images_of_set
from ddbench.synset.synset import load
from ddbench.system.environment import cores
from ddbench.system.files import check_writable

KINDS = {
    "ipc": "what does more IPC buy?",
    "bytes": "what does a byte buy?",
    "seconds": "what does a second of distillation buy?",
    "bars": "who is best at one budget?",
    "students": "does it transfer across networks?",
    "labels": "how far are hard and soft labels apart?",
    "label-bytes": "what does a byte of labels buy?",
    "weights": "does the ranking survive another LRS weight?",
    "curves": "when is a distillation done?",
    "images": "what do the images look like?",
}
"""Every kind of plot and the question that it answers."""


@o.command(
    "ddbench plot --results ddbench-demo/records --out plots",
    "ddbench plot --kind ipc --dataset digits --protocol hard-v1 --out figure.pdf",
    "ddbench plot --kind images --sets ddbench-demo/sets --out images.png",
)
def plot(
    chosen: o.RecordFlags,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="NAME",
            help="What a single file answers. " + " ".join(f"{kind}: {asks}" for kind, asks in KINDS.items()),
        ),
    ] = None,
    ipc: Annotated[int | None, typer.Option("--ipc", metavar="N", help="Budget, for what is drawn of one.")] = None,
    fraction: Annotated[
        float | None, typer.Option("--fraction", metavar="F", help="Budget, for what is drawn of one.")
    ] = None,
    sets: Annotated[
        str | None,
        typer.Option(
            "--sets", metavar="FILES|DIR", help="Sets of --kind images, comma-separated, or a folder of them."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE|DIR", help="FILE.png, .svg or .pdf; or a folder for all plots, as PNG."),
    ] = Path("plots"),
) -> None:
    """Plot records, or sets: each kind of plot answers a question.

    A folder gets every plot that the records allow; a file gets the one that --kind and the other flags choose.
    """
    single = out.suffix.lower() in plots.SUFFIXES
    if kind is not None and kind not in KINDS:
        raise unknown("plot kind", kind, KINDS)
    if kind is not None and not single:
        raise UsageError(f"--kind {kind} makes one plot: --out FILE with one of {', '.join(plots.SUFFIXES)} is needed")
    if not single and out.suffix and not out.is_dir():
        raise UsageError(f"--out {out}: a plot is written as one of {', '.join(plots.SUFFIXES)}, or give a folder")
    if (kind == "images") != (sets is not None):
        raise UsageError("--kind images draws the sets that --sets FILES|DIR names, and no other kind does")
    if sets is not None:
        figure = _images_of(sets, chosen.dataset)
        check_writable(out)
        print(plots.save(figure, out))
        return
    frame = ddbench.table(**chosen.chosen())
    say_left_out(frame)
    check_writable(out if single else out / "plot")
    if single:
        written = [plots.save(_one_plot(frame, kind, ipc, fraction), out)]
    else:
        written = plots.plot_all(frame, out, (".png",), workers=cores())
    if not written:
        raise UsageError("nothing to plot: the chosen records hold no accuracy")
    for path in written:
        print(path)


def _one_plot(frame: pd.DataFrame, kind: str | None, ipc: int | None, fraction: float | None) -> Figure:
    """The plot that the flags choose; UsageError where they leave several."""
    good = frame[frame["status"] == "ok"]
    watched = good[good["snapshots"].map(bool)]
    if kind == "curves" and len(watched):
        good = watched
    kind = kind or ("ipc" if good["ipc"].nunique() > 1 else "bars")
    dataset = _single(good, "dataset", "--dataset")
    if kind == "bars":
        return plots.bars(frame, dataset, _budget(good, ipc, fraction))
    if kind in ("labels", "weights"):
        return _of_labels(frame, kind, dataset, _budget(good, ipc, fraction))
    protocol = _single(good, "protocol", "--protocol")
    if kind == "students":
        return plots.accuracy_by_student(frame, dataset, protocol, _budget(good, ipc, fraction))
    student = _student(good)
    against: dict[str, Callable[[pd.DataFrame, str, str, str], Figure]] = {
        "ipc": plots.accuracy_against_ipc,
        "bytes": plots.accuracy_against_bytes,
        "seconds": plots.accuracy_against_seconds,
        "label-bytes": plots.accuracy_against_label_bytes,
    }
    if kind == "curves":
        figure = plots.learning_curves(frame, dataset, protocol, student, _budget(good, ipc, fraction))
    else:
        figure = against[kind](frame, dataset, protocol, student)
    _say_student(good)
    return figure


def _of_labels(frame: pd.DataFrame, kind: str, dataset: str, budget: str) -> Figure:
    """The plots that read several protocols: those of the one hard family among the records."""
    twins = soft_twins(frame.loc[frame["status"] == "ok", "protocol"])
    if len(twins) != 1:
        raise UsageError(f"one plot reads one hard protocol: choose with --protocol among {', '.join(twins) or 'none'}")
    ((hard, soft),) = twins.items()
    if kind == "weights":
        return plots.lrs_against_weight(frame, dataset, budget, hard)
    return plots.hard_and_soft(frame, dataset, budget, hard, soft)


def _budget(cells: pd.DataFrame, ipc: int | None, fraction: float | None) -> str:
    """The budget that the flags name, or the only one that there is."""
    if ipc is not None or fraction is not None:
        return budget_label({"ipc": ipc} if ipc is not None else {"fraction": fraction})
    return _single(cells[cells["budget"] != "all"], "budget", "--ipc")


def _images_of(text: str, dataset: str | None) -> Figure:
    """Sets of one data set side by side, named by their methods, or by their files where those are not enough."""
    given = [Path(word) for word in o.words(text, "--sets")]
    files = [file for path in given for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    sets = {file: load(file) for file in files}
    names = {synset.dataset for synset in sets.values()}
    if len(names) != 1:
        raise UsageError(f"--sets: sets of one data set are needed, these are of {', '.join(sorted(names)) or 'none'}")
    data = load_dataset(dataset or names.pop())
    methods = [synset.provenance.method for synset in sets.values()]
    alike = len(set(methods)) < len(methods)
    rows = {
        file.stem if alike else synset.provenance.method: images_of_set(synset, data)[:2]
        for file, synset in sets.items()
    }
    return plots.images_side_by_side(rows, data.class_names, data.id)


def _student(cells: pd.DataFrame) -> str:
    """The only student network, or else the one that most cells have; UsageError where that leaves several."""
    counts = cells["student"].value_counts()
    if len(counts) < 2 or counts.iloc[0] == counts.iloc[1]:
        return _single(cells, "student", "--network")
    return str(counts.index[0])


def _say_student(cells: pd.DataFrame) -> None:
    """Tell which of several was drawn."""
    first, *others = cells["student"].value_counts().index
    if others:
        say(f"students of {first}, which has most of the cells; --network draws another of {', '.join(sorted(others))}")


def _single(frame: pd.DataFrame, column: str, flag: str) -> str:
    values = sorted(set(frame[column]))
    if len(values) != 1:
        raise UsageError(f"one plot shows one {column}: choose with {flag} among {', '.join(values) or 'none'}")
    return str(values[0])
