"""Results: tables and plots of records, and what is in a file."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.options import examples
from ddbench.cli.output import print_cells, print_json, print_table, say
from ddbench.errors import UsageError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        "table",
        epilog=examples(
            "ddbench table --dataset digits --protocol hard-v1",
            "ddbench table --results ddbench-demo/records --format latex --out table.tex",
            "ddbench table --protocol hard-v1 --view variance",
        ),
    )(table)
    app.command(
        "plot",
        epilog=examples(
            "ddbench plot --results ddbench-demo/records --out plots",
            "ddbench plot --kind ipc --dataset digits --protocol hard-v1 --out figure.pdf",
            "ddbench plot --kind images --sets ddbench-demo/sets --out images.png",
        ),
    )(plot)
    app.command(
        "show",
        epilog=examples(
            "ddbench show dm.safetensors --out dm.png", "ddbench show results/measured/digits/.../dm_....json"
        ),
    )(show)


Shown = Annotated[str | None, typer.Option("--dataset", "--datasets", metavar="NAMES", help="Only these data sets.")]
ShownProtocols = Annotated[
    str | None,
    typer.Option(
        "--protocol", "--protocols", metavar="NAMES", help="Only these protocols (hard-v1) or families (hard)."
    ),
]
ShownMethods = Annotated[str | None, typer.Option("--methods", "--method", metavar="NAMES", help="Only these methods.")]
ShownNetworks = Annotated[
    str | None, typer.Option("--network", "--networks", metavar="NAMES", help="Only these student networks.")
]
Superseded = Annotated[bool, typer.Option("--superseded", help="Also records that a newer one supersedes.")]
Former = Annotated[
    bool, typer.Option("--former", help="Also rows of code that is no longer there: the method's, or the core's.")
]
Form = Annotated[str, typer.Option("--format", metavar="NAME", help="terminal, markdown, csv, latex or json.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to a file, not to stdout.")]
Explain = Annotated[
    bool, typer.Option("--columns", help="Say what each column of the csv and json means; read nothing.")
]


def table(
    results: o.ResultsToRead = None,
    dataset: Shown = None,
    protocol: ShownProtocols = None,
    methods: ShownMethods = None,
    network: ShownNetworks = None,
    form: Form = "terminal",
    view: Annotated[
        str | None,
        typer.Option(
            "--view",
            metavar="NAME",
            help="pivot; long: a row per cell (default for csv and json); variance: its parts; networks: by student.",
        ),
    ] = None,
    superseded: Superseded = False,
    former: Former = False,
    out: Out = None,
    explain: Explain = False,
    as_json: o.Json = False,
) -> None:
    """Make a table of records, with 95 % intervals.

    In csv and json all views but pivot are data: every column, accuracies as fractions.
    """
    from ddbench.report import columns, tables

    form = checked_form(form, as_json)
    view = view or ("long" if form in ("csv", "json") else "pivot")
    if view not in tables.VIEWS:
        raise unknown("view", view, tables.VIEWS)
    if explain:
        more = {"variance": columns.VARIANCE, "networks": columns.NETWORKS}
        explain_columns(columns.CELL | more.get(view, {}), as_json=form == "json")
        return
    frame = read_cells(results, dataset, protocol, methods, network, superseded=superseded, former=former)
    say_left_out(frame, noted=form not in ("csv", "json"))
    if out is None and form == "terminal":
        print_cells(frame, view)
    else:
        deliver(tables.render(frame, form, view), out)


def checked_form(form: str, as_json: bool) -> str:
    """The format of a table; UsageError for another."""
    from ddbench.report.tables import FORMATS

    form = "json" if as_json else form
    if form not in FORMATS:
        raise unknown("table format", form, FORMATS)
    return form


def deliver(text: str, out: Path | None) -> None:
    """A table's text on stdout, or in a file whose name is printed."""
    from ddbench.system.files import write_atomic

    if out is None:
        print(text, end="")
        return
    write_atomic(out, text)
    print(out)


def explain_columns(meanings: Mapping[str, str], *, as_json: bool) -> None:
    """What the columns of a table's data mean."""
    if as_json:
        print_json(dict(meanings))
    else:
        print_table(("column", "meaning"), meanings.items())


def read_cells(
    results: Sequence[Path] | None,
    dataset: str | None,
    protocol: str | None,
    methods: str | None,
    network: str | None,
    *,
    superseded: bool = False,
    former: bool = False,
) -> "pd.DataFrame":
    """The cells of the chosen records; UsageError if there are none, or a name that no record has."""
    from ddbench.records.store import read_records
    from ddbench.report.frame import results_frame

    return results_frame(
        read_records(results),
        datasets=_names(dataset, "--dataset"),
        protocols=_names(protocol, "--protocol"),
        methods=_names(methods, "--methods"),
        networks=_names(network, "--network"),
        superseded=superseded,
        former=former,
    )


def _names(text: str | None, flag: str) -> list[str] | None:
    return None if text is None else o.words(text, flag)


def say_left_out(frame: "pd.DataFrame", *, noted: bool = False) -> None:
    """Tell on stderr what cells leave out, unless a footnote does."""
    from ddbench.report.frame import left_out

    if not noted and (line := left_out(frame)):
        say(line)


def plot(
    results: o.ResultsToRead = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind",
            metavar="NAME",
            help="What a single file answers. " + " ".join(f"{kind}: {asks}" for kind, asks in KINDS.items()),
        ),
    ] = None,
    dataset: Shown = None,
    protocol: ShownProtocols = None,
    methods: ShownMethods = None,
    network: ShownNetworks = None,
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
    former: Former = False,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE|DIR", help="FILE.png, .svg or .pdf; or a folder for all plots, as PNG."),
    ] = Path("plots"),
) -> None:
    """Plot records, or sets: each kind of plot answers a question.

    A folder gets every plot that the records allow; a file gets the one that --kind and the other flags choose.
    """
    from ddbench.report import plots
    from ddbench.system.environment import cores
    from ddbench.system.files import check_writable

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
        figure = _images_of(sets, dataset)
        check_writable(out)
        print(plots.save(figure, out))
        return
    frame = read_cells(results, dataset, protocol, methods, network, former=former)
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


def _one_plot(frame: "pd.DataFrame", kind: str | None, ipc: int | None, fraction: float | None) -> "Figure":
    """The plot that the flags choose; UsageError where they leave several."""
    from ddbench.report import plots

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


def _of_labels(frame: "pd.DataFrame", kind: str, dataset: str, budget: str) -> "Figure":
    """The plots that read several protocols: those of the one hard family among the records."""
    from ddbench.report import plots
    from ddbench.report.baselines import soft_twins

    twins = soft_twins(frame.loc[frame["status"] == "ok", "protocol"])
    if len(twins) != 1:
        raise UsageError(f"one plot reads one hard protocol: choose with --protocol among {', '.join(twins) or 'none'}")
    ((hard, soft),) = twins.items()
    if kind == "weights":
        return plots.lrs_against_weight(frame, dataset, budget, hard)
    return plots.hard_and_soft(frame, dataset, budget, hard, soft)


def _budget(cells: "pd.DataFrame", ipc: int | None, fraction: float | None) -> str:
    """The budget that the flags name, or the only one that there is."""
    from ddbench.records.store import budget_label

    if ipc is not None or fraction is not None:
        return budget_label({"ipc": ipc} if ipc is not None else {"fraction": fraction})
    return _single(cells[cells["budget"] != "all"], "budget", "--ipc")


def _images_of(text: str, dataset: str | None) -> "Figure":
    """Sets of one data set side by side, named by their methods, or by their files where those are not enough."""
    from ddbench.data.registry import load_dataset
    from ddbench.report import plots
    from ddbench.report.set_images import images_of_set
    from ddbench.synset.synset import load

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


def _student(cells: "pd.DataFrame") -> str:
    """The only student network, or else the one that most cells have; UsageError where that leaves several."""
    counts = cells["student"].value_counts()
    if len(counts) < 2 or counts.iloc[0] == counts.iloc[1]:
        return _single(cells, "student", "--network")
    return str(counts.index[0])


def _say_student(cells: "pd.DataFrame") -> None:
    """Tell which of several was drawn."""
    first, *others = cells["student"].value_counts().index
    if others:
        say(f"students of {first}, which has most of the cells; --network draws another of {', '.join(sorted(others))}")


def _single(frame: "pd.DataFrame", column: str, flag: str) -> str:
    values = sorted(set(frame[column]))
    if len(values) != 1:
        raise UsageError(f"one plot shows one {column}: choose with {flag} among {', '.join(values) or 'none'}")
    return str(values[0])


def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A set (.safetensors), or a record (.json).")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.png", help="Draw the set's images, a row per class.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="NAME", help="folder:PATH, for a set made on a folder.")
    ] = None,
    dataset_name: o.GivenName = None,
    as_json: o.Json = False,
) -> None:
    """Show what is in a set or a record; draw a set.

    A record comes with the commands that make its runs again.
    """
    from ddbench.cli import showing

    if file.suffix.lower() == ".json":
        if out is not None:
            raise UsageError(f"--out draws a set's images; {file} is a record")
        showing.show_record(file, as_json=as_json)
        return
    synset = showing.show_set(file, as_json=as_json)
    if out is not None:
        showing.draw(synset, out, dataset, dataset_name)
        say(f"{out} written")
