"""A paper's table: what it would cost, running what is missing, and what the records say of it."""

from collections.abc import Sequence
from typing import Annotated

import typer

import ddbench
from ddbench.api.reproducing import Cost, Reproduction, item_cost
from ddbench.cli import options as o
from ddbench.cli.output import print_json, print_prose, print_table, progress, say, table_format, tell
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.estimate import Estimator
from ddbench.report.format import DASH, duration, size
from ddbench.report.verdict import grids, render
from ddbench.settings import default_workers


@o.command(
    "ddbench reproduce mtt --dry-run",
    "ddbench reproduce 2110.04181 --cells cifar10/1,cifar10/10 --workers 2",
    "ddbench reproduce dm --reduced --data cifar10-jpeg=folder:PATH",
)
def reproduce(
    paper: Annotated[str, typer.Argument(metavar="PAPER", help="A method's name, a paper's key, or its arXiv id.")],
    cells: Annotated[
        str | None,
        typer.Option(
            "--cells", "--cell", metavar="NAMES", help="Only these, as cifar10/10,cifar100 (comma-separated)."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", "--method", metavar="NAMES", help="Methods of its table, or all (default: its own)."),
    ] = None,
    networks: Annotated[
        str | None, typer.Option("--networks", "--network", metavar="NAMES", help="Only these student networks.")
    ] = None,
    protocols: o.Protocols = "shipped-v1",
    reduced: Annotated[
        bool, typer.Option("--reduced", help="The recipes named as reduced instead; a table apart, without verdicts.")
    ] = False,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Run nothing: the table of what is recorded already.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="NAME=folder:PATH", help="Where a folder data set lies; may be repeated."),
    ] = None,
    seeds: o.Seeds = "5",
    synthesis_seeds: o.SynthesisSeeds = "1",
    results: o.Results = None,
    retry_failed: o.RetryFailed = False,
    workers: o.Workers = None,
    *,
    where: o.RayFlags,
    how: o.ComputeFlags,
    form: o.Format = "terminal",
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run the cells of a paper's table and compare.

    What is cached or recorded is reused; an interrupted run is resumed by the same command. A cell whose data are not on
    this machine is not run, and says so; the dry run estimates it all the same.
    """
    form = table_format(form, as_json)
    engine = where.executor(workers)
    with progress(quiet) as reporter:
        table = ddbench.reproduce(
            paper,
            methods="all" if methods == "all" else o.listed(methods, "--methods"),
            cells=o.listed(cells, "--cells") or (),
            networks=o.listed(networks, "--networks") or (),
            protocols=o.words(protocols, "--protocols"),
            reduced=reduced,
            data=dict(map(_named_folder, data or [])),
            seeds=o.seeds(seeds),
            synthesis_seeds=o.seeds(synthesis_seeds, "--synthesis-seeds"),
            results=results,
            run=not (dry_run or recorded),
            workers=workers or default_workers(),
            engine=engine,
            retry_failed=retry_failed,
            compute=how.compute(elsewhere=where.address is not None),
            reporter=reporter,
        )
    if dry_run:
        print_costs(table, retry_failed=retry_failed, as_json=form == "json", quiet=quiet)
        return
    if not recorded and any(item.cells for item in table.items):
        tell(table.report, quiet=quiet)
    print_comparison(table, form)
    raise typer.Exit(table.report.exit_code())


def _named_folder(word: str) -> tuple[str, str]:
    """Name and place of `NAME=folder:PATH`; UsageError for another form."""
    name, _, place = word.partition("=")
    if not name or not place.startswith("folder:"):
        raise UsageError(f"--data {word}: NAME=folder:PATH is needed")
    return name, place


def print_comparison(table: Reproduction, form: str) -> None:
    """The paper's figures beside ours on stdout."""
    compared, title = table.compared(), table.title
    if form != "terminal":
        print(render(title, compared, form), end="")
        return
    for grid in grids(title, compared):
        heads = [grid.corner, *(head[0] for head in grid.headers)]
        several = len({label for label, _ in grid.rows}) > 1
        rows = [
            [f"{label}, {cells[0].text}" if several else cells[0].text, *(cell.text for cell in cells[1:])]
            for label, cells in grid.rows
        ]
        columns = [f"{heads[0]}, {heads[1]}" if several else heads[1], *heads[2:]]
        title = grid.title if several else f"{grid.title}: {grid.rows[0][0]}"
        print_table(columns, rows, title=title, right=heads[3:-1])
        for note in grid.notes:
            print_prose(note)


def print_costs(table: Reproduction, *, retry_failed: bool, as_json: bool, quiet: bool) -> None:
    """Every cell once: recipe, hash, what is cached, device hours and memory; nothing is run."""
    distinct = {item.key(): item for item in table.items}.values()
    estimator = Estimator(table.choice.compute, lambda text: say(text, quiet=quiet))
    lines = [item_cost(item, table, estimator, retry_failed=retry_failed) for item in distinct]
    if as_json:
        print_json([line.plain() for line in lines])
        return
    columns = ("cell", "student", "recipe", "cached", "to do", "hours", "memory", "")
    several = len({line.item.method for line in lines}) > 1
    title = _title(lines) if several else f"{lines[0].item.method}: {_title(lines)}"
    print_table(columns, [_shown(line, named=several) for line in lines], right=("hours", "memory"), title=title)
    known = [seconds for line in lines if (seconds := line.seconds()) is not None]
    blind = sum(line.seconds() is None and not line.excluded for line in lines)
    here = [line for line in lines if line.item.cells]
    more = f", {blind} cells without estimate" if blind else ""
    print(f"All cells: {_hours(sum(known))} device hours at one job at a time{more}. Nothing was run.")
    runnable = sum(line.seconds() or 0 for line in here)
    print(f"On this machine: {len(here)} of {len(lines)} cells can be run, about {duration(runnable)}.")
    reasons: dict[str, list[str]] = {}
    for line in lines:
        if line.item.why:
            reasons.setdefault(line.item.why, []).append(line.item.dataset_id)
    for why, datasets in reasons.items():
        print_prose(f"not run, {', '.join(dict.fromkeys(datasets))}: {why}")


def _title(lines: Sequence[Cost]) -> str:
    reduced = ", REDUCED recipes" if any(line.item.reduced for line in lines) else ""
    return f"{len(lines)} cells{reduced}; to do: sets + trainings; hours and memory by the cost model"


def _shown(line: Cost, *, named: bool) -> list[str]:
    """A row of the table, with the method where `named`."""
    item = line.item
    recipe = (
        DASH if item.recipe is None else f"{item.recipe.name} {item.recipe.hash[:12] if item.cells else ''}".strip()
    )
    cached = [f"{line.cached} of {line.draws} sets"] if item.cells else []
    cached += [f"{name} {'+'.join(map(str, have))} entries" for name, have in line.stages.items()]
    left = "n/a" if line.excluded else f"{line.sets} + {line.missing}"
    seconds = line.seconds()
    why = line.excluded or ("" if item.why is None else "no data" if item.why.startswith("no data") else "not run")
    return [
        (f"{item.method}, " if named else "")
        + f"{item.dataset_id} {item.budget}"
        + ("" if find_protocol(item.protocol).shipped else f", {item.protocol}"),
        item.network or "the set's",
        recipe,
        ", ".join(cached) or DASH,
        left,
        DASH if seconds is None else _hours(seconds),
        size(line.memory()) if line.memory() else DASH,
        why,
    ]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"
