"""Choose hyper-parameters on a held-out part of train."""

from pathlib import Path
from typing import Annotated

import typer

from ddbench.cli import options as o
from ddbench.cli.output import print_json, print_table, progress, say
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import parse_overrides
from ddbench.errors import UsageError
from ddbench.extras.tune import Candidate, TuneReport, parse_grid
from ddbench.extras.tune import tune as search
from ddbench.jobs.job import DataName
from ddbench.report.format import duration, half, percent, settings


@o.command(
    "ddbench tune dm --ipc 1 --grid lr_img=0.3,1,3,10 --out dm-tuned.toml",
    "ddbench tune dm --ipc 1 --grid lr_img=1,10 --grid batch_real=16,64 --trials 3 --set iterations=100 --out t.toml",
)
def tune(
    method: o.MethodName,
    chosen: o.SetFlags,
    grid: Annotated[
        list[str],
        typer.Option("--grid", metavar="KEY=V,..", help="Values to try; may be repeated.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE.toml", help="Recipe file to write the winner to.", show_default=False),
    ],
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Combinations to draw (default: all, in order).")
    ] = None,
    holdout: Annotated[
        float, typer.Option("--holdout", metavar="F", help="Part of each class of train that scores.")
    ] = 0.2,
    protocol: o.ProtocolName = "hard-v1",
    network: o.NetworkName = None,
    seeds: o.FewSeeds = "3",
    *,
    where: o.DeviceFlags,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Choose hyper-parameters on a holdout of train.

    The test split is never looked at. The winner becomes a recipe file for --recipe; what the search cost is
    written into it. An interrupted search is resumed by the same command.
    """
    found, budget = find_method(method), chosen.budget(method)
    if out.suffix != ".toml":
        raise UsageError(f"--out {out}: a recipe file's name ends in .toml")
    with progress(quiet) as reporter:
        report = search(
            found,
            DataName(chosen.dataset, chosen.dataset_name),
            budget,
            grid=parse_grid(found, grid),
            trials=trials,
            protocol=protocol,
            network=network,
            holdout=holdout,
            seeds=o.seeds(seeds),
            seed=chosen.seed,
            recipe=chosen.recipe,
            distill_network=chosen.distill_network,
            overrides=parse_overrides(found, chosen.overrides or []),
            compute=where.compute(),
            reporter=reporter,
            out=out,
        )
    _show(report, as_json=as_json)
    say(
        f"{len(report.candidates)} candidates ({report.reused} of an earlier run), {report.trainings} trainings, "
        f"{duration(report.seconds)}; use the winner with --recipe {report.path}",
        quiet=quiet,
    )


def _show(report: TuneReport, *, as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "values": c.values,
                "top1": list(c.top1),
                "reason": c.reason,
                "seconds": c.seconds,
                "winner": c == report.winner,
            }
            for c in report.candidates
        ]
        print_json({"candidates": rows, "recipe": report.recipe, "path": str(report.path)})
        return
    columns = ("values", "holdout top-1 %", "seconds", "")
    print_table(columns, [_row(c, report.winner) for c in report.candidates], right=columns[1:3])


def _row(candidate: Candidate, winner: Candidate) -> tuple[str, str, str, str]:
    values = settings(candidate.values)
    if candidate.mean is None:
        return values, "failed", f"{candidate.seconds:.1f}", candidate.reason or ""
    interval = candidate.interval() or (None, None)
    return (
        values,
        percent(candidate.mean) + half(*interval),
        f"{candidate.seconds:.1f}",
        "best" if candidate == winner else "",
    )
