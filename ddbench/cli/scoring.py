"""Results judged: scores of sets, and methods compared with each other."""

from typing import Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.options import examples
from ddbench.cli.output import print_grids
from ddbench.cli.viewing import (
    Explain,
    Form,
    Former,
    Out,
    Shown,
    ShownMethods,
    ShownNetworks,
    ShownProtocols,
    Superseded,
    checked_form,
    deliver,
    explain_columns,
    read_cells,
    say_left_out,
)
from ddbench.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        "scores",
        epilog=examples(
            "ddbench scores --dataset digits",
            "ddbench scores --results ddbench-demo/records --format csv --out scores.csv",
        ),
    )(scores)
    app.command(
        "compare",
        epilog=examples(
            "ddbench compare --dataset digits --protocol hard-v1",
            "ddbench compare --dataset digits --view pairs --against random",
        ),
    )(compare)


def scores(
    results: o.ResultsToRead = None,
    dataset: Shown = None,
    protocol: ShownProtocols = None,
    methods: ShownMethods = None,
    network: ShownNetworks = None,
    weight: Annotated[float, typer.Option("--weight", metavar="W", help="Weight of IOR in LRS; of -HLR: 1 - W.")] = 0.5,
    ars_weight: Annotated[
        float, typer.Option("--ars-weight", metavar="W", help="Weight of the augmented protocol in ARS.")
    ] = 0.5,
    form: Form = "terminal",
    former: Former = False,
    out: Out = None,
    explain: Explain = False,
    as_json: o.Json = False,
) -> None:
    """Score sets from records: HLR, IOR, LRS, ARS, and accuracy per cost.

    A row per method, data set, budget and student network. Baselines are found among the records that --dataset,
    --protocol and --network leave; what a score lacks is named with the command that makes it.
    """
    from ddbench.report import columns, score_table

    form = checked_form(form, as_json)
    if explain:
        explain_columns(columns.SCORES, as_json=form == "json")
        return
    frame = read_cells(results, dataset, protocol, None, network, former=former)
    say_left_out(frame)
    chosen = o.words(methods, "--methods") if methods is not None else None
    table = score_table.score_table(frame, methods=chosen, weight=weight, ars_weight=ars_weight)
    if table.empty:
        raise UsageError("no scores: none of the chosen sets has an accuracy under a hard, soft or shipped protocol")
    if out is None and form == "terminal":
        pieces = [score_table.grid(piece) for _, piece in table.groupby(["dataset", "student"], sort=False)]
        print_grids([score_table.grid(table)], lambda: pieces, compact=True)
    else:
        deliver(score_table.render(table, form), out)


def compare(
    results: o.ResultsToRead = None,
    dataset: Shown = None,
    protocol: ShownProtocols = None,
    methods: ShownMethods = None,
    network: ShownNetworks = None,
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
    form: Form = "terminal",
    superseded: Superseded = False,
    former: Former = False,
    out: Out = None,
    explain: Explain = False,
    as_json: o.Json = False,
) -> None:
    """Compare methods within each column, corrected for many comparisons.

    A column is one data set, protocol, student network and budget. Pairs: difference, interval, p, p adjusted by Holm.
    Ranks are ranges: methods that are not told apart share them.
    """
    from ddbench.report import columns, significance

    form = checked_form(form, as_json)
    if explain:
        explain_columns(columns.RANKS if view == "ranks" else columns.PAIRS, as_json=form == "json")
        return
    frame = read_cells(results, dataset, protocol, methods, network, superseded=superseded, former=former)
    say_left_out(frame)
    if out is None and form == "terminal":
        print_grids(significance.grids(frame, view, against=against, alpha=alpha))
    else:
        deliver(significance.render(frame, form, view, against=against, alpha=alpha), out)
