"""Tables and plots of records."""

from pathlib import Path
from typing import Annotated

import typer

import ddbench
from ddbench.api.results import scored
from ddbench.cli import options as o
from ddbench.cli.output import explain_columns, print_cells, print_grids, say, say_left_out, table_format, write_table
from ddbench.errors import UsageError, unknown
from ddbench.report import columns, score_table, significance, tables
from ddbench.report.plots import SUFFIXES
from ddbench.report.plots.registry import PLOTS, plot_all
from ddbench.system.files import check_writable


@o.command(
    "ddbench table --dataset digits --protocol hard-v1",
    "ddbench table --results ddbench-demo/records --format latex --out table.tex",
    "ddbench table --protocol hard-v1 --view variance",
)
def table(
    chosen: o.RecordFlags,
    how: o.TableFlags,
    view: Annotated[
        str | None,
        typer.Option(
            "--view",
            metavar="NAME",
            help="pivot; long: a row per cell (default for csv and json); variance: its parts; networks: by student.",
        ),
    ] = None,
    superseded: o.Superseded = False,
) -> None:
    """Make a table of records, with 95 % intervals.

    In csv and json all views but pivot are data: every column, accuracies as fractions.
    """
    form = table_format(how.form, how.as_json)
    view = view or ("long" if form in ("csv", "json") else "pivot")
    if view not in tables.VIEWS:
        raise unknown("view", view, tables.VIEWS)
    if how.explain:
        more = {"variance": columns.VARIANCE, "networks": columns.NETWORKS}
        explain_columns(columns.CELL | more.get(view, {}), as_json=form == "json")
        return
    frame = ddbench.table(**chosen.chosen(), superseded=superseded)
    if form in ("csv", "json"):  # in other formats a footnote says it
        say_left_out(frame)
    if how.out is None and form == "terminal":
        print_cells(frame, view)
    else:
        write_table(tables.render(frame, form, view), how.out)


@o.command(
    "ddbench scores --dataset digits",
    "ddbench scores --results ddbench-demo/records --format csv --out scores.csv",
)
def scores(
    chosen: o.RecordFlags,
    how: o.TableFlags,
    weight: Annotated[float, typer.Option("--weight", metavar="W", help="Weight of IOR in LRS; of -HLR: 1 - W.")] = 0.5,
    ars_weight: Annotated[
        float, typer.Option("--ars-weight", metavar="W", help="Weight of the augmented protocol in ARS.")
    ] = 0.5,
) -> None:
    """Score sets from records: HLR, IOR, LRS, ARS, and accuracy per cost.

    A row per method, data set, budget and student network. Baselines are found among the records that --dataset,
    --protocol and --network leave; what a score lacks is named with the command that makes it.
    """
    form = table_format(how.form, how.as_json)
    if how.explain:
        explain_columns(columns.SCORES, as_json=form == "json")
        return
    words = chosen.chosen()
    methods = words.pop("methods")
    frame = ddbench.table(**words)
    say_left_out(frame)
    table = scored(frame, methods=methods, weight=weight, ars_weight=ars_weight)
    if how.out is None and form == "terminal":
        pieces = [score_table.grid(piece) for _, piece in table.groupby(["dataset", "student"], sort=False)]
        print_grids([score_table.grid(table)], lambda: pieces, compact=True)
    else:
        write_table(score_table.render(table, form), how.out)


@o.command(
    "ddbench compare --dataset digits --protocol hard-v1",
    "ddbench compare --dataset digits --view pairs --against random",
)
def compare(
    chosen: o.RecordFlags,
    how: o.TableFlags,
    view: Annotated[
        str | None,
        typer.Option(
            "--view",
            metavar="NAME",
            help="ranks, or pairs (default: ranks, and pairs too where one column is left; pairs for csv and json).",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="METHOD", help="Only pairs with this method, corrected for these."),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", metavar="A", help="Level of the verdicts.")] = 0.05,
    superseded: o.Superseded = False,
) -> None:
    """Compare methods within each column, corrected for many comparisons.

    A column is one data set, protocol, student network and budget. Pairs: difference, interval, p, p adjusted by Holm.
    Ranks are ranges: methods that do not differ significantly share them.
    """
    form = table_format(how.form, how.as_json)
    if how.explain:
        explain_columns(columns.RANKS if view == "ranks" else columns.PAIRS, as_json=form == "json")
        return
    frame = ddbench.table(**chosen.chosen(), superseded=superseded)
    say_left_out(frame)
    if how.out is None and form == "terminal":
        print_grids(significance.grids(frame, view, against=against, alpha=alpha))
    else:
        write_table(significance.render(frame, form, view, against=against, alpha=alpha), how.out)


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
            help="What a single file answers. " + " ".join(f"{kind}: {each.question}" for kind, each in PLOTS.items()),
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
    single = out.suffix.lower() in SUFFIXES
    if kind is not None and kind not in PLOTS:
        raise unknown("plot kind", kind, PLOTS)
    if kind is not None and not single:
        raise UsageError(f"--kind {kind} makes one plot: --out FILE with one of {', '.join(SUFFIXES)} is needed")
    if not single and out.suffix and not out.is_dir():
        raise UsageError(f"--out {out}: a plot is written as one of {', '.join(SUFFIXES)}, or give a folder")
    if (kind == "images") != (sets is not None):
        raise UsageError("--kind images draws the sets that --sets FILES|DIR names, and no other kind does")
    check_writable(out if single else out / "plot")
    if single:
        figure = ddbench.plot(
            kind, **chosen.chosen(), ipc=ipc, fraction=fraction, sets=o.listed(sets, "--sets") or (), say=say
        )
        from ddbench.report.plots.style import save  # matplotlib, which tables do not need

        written = [save(figure, out)]
    else:
        from ddbench.system.environment import cores  # imports torch

        frame = ddbench.table(**chosen.chosen())
        say_left_out(frame)
        written = plot_all(frame, out, [".png"], workers=cores())
    if not written:
        raise UsageError("nothing to plot: the chosen records hold no accuracy")
    for path in written:
        print(path)
