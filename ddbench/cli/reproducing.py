"""A paper's table: what it would cost, running what is missing, and what the records say of it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddbench.cli import options as o
from ddbench.cli.options import examples
from ddbench.cli.output import print_json, print_prose, print_table, progress, say
from ddbench.errors import UsageError
from ddbench.report.format import duration, size

DASH = "—"

if TYPE_CHECKING:
    from ddbench.jobs.estimate import Estimate, Estimator
    from ddbench.jobs.job import DataName
    from ddbench.jobs.pool import Engine
    from ddbench.records.store import RecordStore
    from ddbench.report.papers import Paper
    from ddbench.report.reproduce import Choice, Item


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command(
        "reproduce",
        epilog=examples(
            "ddbench reproduce mtt --dry-run",
            "ddbench reproduce 2110.04181 --cells cifar10/1,cifar10/10 --workers 2",
            "ddbench reproduce dm --reduced --data cifar10-jpeg=folder:PATH",
        ),
    )(reproduce)


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
    engine: o.Engine = "local",
    address: o.Address = None,
    gpus_per_job: o.GpusPerJob = None,
    threads: o.Threads = None,
    device: o.Device = None,
    precision: o.Precision = None,
    compile: o.Compile = None,
    form: Annotated[
        str, typer.Option("--format", metavar="NAME", help="terminal, markdown, csv, latex or json.")
    ] = "terminal",
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Run the cells of a paper's table and compare.

    What is cached or recorded is reused; after a stop the same command goes on. A cell whose data are not on this machine
    is not run, and says so; the dry run estimates it all the same.
    """
    from ddbench import api
    from ddbench.records.store import RecordStore
    from ddbench.report.papers import find_paper, papers
    from ddbench.report.renderers import is_data
    from ddbench.report.reproduce import Choice
    from ddbench.settings import default_workers, results_dir

    form = "json" if as_json else form
    is_data(form)
    runner = o.engine(engine, address, gpus_per_job, workers)
    known = papers()
    key, own = find_paper(paper, known)
    choice = Choice(
        protocols=tuple(o.words(protocols, "--protocols")),
        seeds=o.seeds(seeds),
        synthesis_seeds=o.seeds(synthesis_seeds, "--synthesis-seeds"),
        setting=api.setting(device, threads, precision, compile, elsewhere=address is not None),
        data=data_folders(data or []),
    )
    place, named = (key, known[key], choice), _methods(key, own, methods)
    spots, students = _words(cells, "--cells"), _words(networks, "--networks")
    if reduced and students:
        raise UsageError("--networks chooses among the paper's figures; --reduced runs each set's own student")
    items = _reduced_items(*place, named, spots) if reduced else _items(*place, named, spots, students)
    store = RecordStore(results or results_dir())
    if dry_run:
        print_dry_run(items, choice, store, retry_failed=retry_failed, as_json=form == "json", quiet=quiet)
        return
    count = workers or default_workers()
    code = 0 if recorded else _run(items, store, count, runner, retry_failed=retry_failed, quiet=quiet)
    _print_table(known[key].title, items, store, form)
    raise typer.Exit(code)


def _items(
    key: str, paper: "Paper", choice: "Choice", methods: Sequence[str], cells: Sequence[str], networks: Sequence[str]
) -> "list[Item]":
    """A line for every figure that is chosen; UsageError where there is none."""
    from ddbench.report.reproduce import chosen_figures, items_of

    figures = chosen_figures(key, paper, methods, cells, networks)
    if not figures:
        raise UsageError(f"{key}: no figure is left by what --methods, --networks and --cells choose together")
    return items_of(figures, paper, choice)


def _reduced_items(
    key: str, paper: "Paper", choice: "Choice", methods: Sequence[str], cells: Sequence[str]
) -> "list[Item]":
    """A line for every reduced recipe that is chosen; UsageError where there is none."""
    from ddbench.report.reproduce import chosen_figures, reduced_items

    found = reduced_items(chosen_figures(key, paper, methods), paper, methods, choice, cells)
    if not found:
        raise UsageError(f"{', '.join(methods)}: no recipe is named as reduced")
    return found


def _words(text: str | None, flag: str) -> list[str]:
    return [] if text is None else o.words(text, flag)


def _methods(key: str, own: Sequence[str], text: str | None) -> list[str]:
    """The methods that are meant: the paper's own that have figures, those that are named, or all."""
    from ddbench.report.papers import figures_of, papers

    have = list(dict.fromkeys(figure.method for figure in figures_of(key, papers()[key])))
    if text == "all":
        return have
    found = o.words(text, "--methods") if text is not None else [name for name in own if name in have]
    if not found:
        raise UsageError(f"{key} lists other papers' methods only: choose with --methods {','.join(have)}, or all")
    return found


def data_folders(words: Sequence[str]) -> "dict[str, DataName]":
    """Read `NAME=folder:PATH` words.

    Raises:
        UsageError: not of that form, or a name that is one of the suite's own data sets: a folder never stands for it.
    """
    from ddbench.data.registry import dataset_names
    from ddbench.jobs.job import DataName

    found = {}
    for word in words:
        name, _, place = word.partition("=")
        if not name or not place.startswith("folder:"):
            raise UsageError(f"--data {word}: NAME=folder:PATH is needed")
        if name in dataset_names():
            raise UsageError(f"--data {word}: {name} is a data set of its own, which no folder stands for")
        found[name] = DataName(place, name)
    return found


def _run(
    items: "Sequence[Item]",
    store: "RecordStore",
    workers: int,
    engine: "Engine | None",
    *,
    retry_failed: bool,
    quiet: bool,
) -> int:
    """Run what is missing; the exit code."""
    from ddbench.cli.planning import Steady, missing_work
    from ddbench.cli.running import tell
    from ddbench.jobs.sweep import run_cells
    from ddbench.system.files import check_writable

    cells = list(dict.fromkeys(cell for item in items for cell in item.cells))
    if not cells:
        return 0
    check_writable(store.root / "record")
    with progress(quiet) as reporter:
        steady = Steady(reporter, missing_work(cells, store, retry_failed=retry_failed))
        report = run_cells(cells, store, workers=workers, engine=engine, retry_failed=retry_failed, reporter=steady)
    tell(report, quiet=quiet)
    return report.exit_code()


def _print_table(title: str, items: "Sequence[Item]", store: "RecordStore", form: str) -> None:
    from ddbench.report.reproduce import compare
    from ddbench.report.verdict import grids, render

    compared = compare(items, store)
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


@dataclass
class _Line:
    """What the dry run says of one item."""

    item: "Item"
    cached: int = 0
    stages: dict[str, list[int]] = field(default_factory=dict)
    missing: int = 0
    making: "Estimate | None" = None
    student: "Estimate | None" = None
    draws: int = 1

    def seconds(self) -> float | None:
        """Of what is still to do: the sets that are missing, and the students; None without estimate."""
        if self.making is None or self.student is None or self.excluded:
            return None
        if self.making.seconds is None or self.student.seconds is None:
            return None
        return self.sets * self.making.seconds + self.missing * self.student.seconds

    @property
    def sets(self) -> int:
        """How many sets are still to be made."""
        return self.draws - self.cached if self.missing else 0

    @property
    def excluded(self) -> str | None:
        """Why a definition excludes the cell, if one does."""
        return next((cost.basis for cost in (self.making, self.student) if cost and cost.excluded), None)

    def memory(self) -> int:
        """Bytes of the larger of the two."""
        return max((cost.peak_memory or 0 for cost in (self.making, self.student) if cost), default=0)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        item, making, student = self.item, self.making, self.student
        return {
            **item.plain(),
            "not_run": item.why,
            "sets_cached": self.cached,
            "sets": self.draws,
            "stages": self.stages,
            "trainings_missing": self.missing,
            "seconds": self.seconds(),
            "seconds_distill": making and making.seconds,
            "seconds_student": student and student.seconds,
            "memory": self.memory() or None,
            "basis": making and student and {"distill": making.basis, "student": student.basis},
        }


def print_dry_run(
    items: "Sequence[Item]", choice: "Choice", store: "RecordStore", *, retry_failed: bool, as_json: bool, quiet: bool
) -> None:
    """Every cell once: recipe, hash, what is cached, device hours and memory; nothing is run."""
    from ddbench.jobs.estimate import Estimator

    distinct = {item.key(): item for item in items}.values()
    estimator = Estimator(choice.setting, lambda text: say(text, quiet=quiet))
    lines = [_line(item, choice, store, retry_failed, estimator) for item in distinct]
    if as_json:
        print_json([line.plain() for line in lines])
        return
    columns = ("cell", "student", "recipe", "cached", "to do", "hours", "memory", "")
    several = len({line.item.method for line in lines}) > 1
    title = _title(lines) if several else f"{lines[0].item.method}: {_title(lines)}"
    print_table(columns, [_shown(line, named=several) for line in lines], right=("hours", "memory"), title=title)
    known = [seconds for line in lines if (seconds := line.seconds()) is not None]
    blind = sum(line.seconds() is None and line.excluded is None for line in lines)
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


def _line(item: "Item", choice: "Choice", store: "RecordStore", retry_failed: bool, estimator: "Estimator") -> _Line:
    from ddbench.cli.planning import plan
    from ddbench.errors import NotDefined
    from ddbench.jobs.estimate import cached_stages
    from ddbench.jobs.job import finished

    line = _Line(item, draws=len(choice.synthesis_seeds), missing=len(choice.seeds) * len(choice.synthesis_seeds))
    if item.recipe is None or item.source is None:
        return line
    first = item.cells[0].made if item.cells else None
    if first is not None:
        line.cached = sum(cell.made is not None and finished(cell.made) is not None for cell in item.cells)
        line.missing = sum(len(plan(cell, store, retry_failed=retry_failed).missing) for cell in item.cells)
        with suppress(NotDefined):  # the estimate says so
            line.stages = cached_stages(first) if line.sets else {}
    line.making = estimator.of_set(item.recipe, item.source, job=first, cached=line.stages)
    line.student = estimator.of_student(item.recipe, item.source, item.protocol, item.network)
    return line


def _title(lines: Sequence[_Line]) -> str:
    reduced = ", REDUCED recipes" if any(line.item.reduced for line in lines) else ""
    return f"{len(lines)} cells{reduced}; to do: sets + trainings; hours and memory by the cost model"


def _shown(line: _Line, *, named: bool) -> list[str]:
    """A row of the table, with the method where `named`."""
    item = line.item
    recipe = (
        DASH if item.recipe is None else f"{item.recipe.name} {item.recipe.hash[:12] if item.cells else ''}".strip()
    )
    cached = [f"{line.cached} of {line.draws} sets"] if item.cells else []
    cached += [f"{name} {'+'.join(map(str, have))} entries" for name, have in line.stages.items()]
    left = "n/a" if line.excluded else f"{line.sets} + {line.missing}"
    seconds = line.seconds()
    why = "" if item.why is None else "no data" if item.why.startswith("no data") else "not run"
    why = line.excluded or why
    return [
        (f"{item.method}, " if named else "")
        + f"{item.dataset_id} {item.budget}"
        + ("" if _own(item) else f", {item.protocol}"),
        item.network or "the set's",
        recipe,
        ", ".join(cached) or DASH,
        left,
        DASH if seconds is None else _hours(seconds),
        size(line.memory()) if line.memory() else DASH,
        why,
    ]


def _own(item: "Item") -> bool:
    from ddbench.evaluation.protocol import find_protocol

    return find_protocol(item.protocol).shipped


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"
