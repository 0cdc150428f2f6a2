"""Distil, evaluate, and both for one cell or a grid."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddbench.cli import options as o
from ddbench.cli.options import examples
from ddbench.cli.output import print_cells, progress, say
from ddbench.errors import DDBenchError, UsageError
from ddbench.report.format import duration
from ddbench.system.downloads import refused

if TYPE_CHECKING:
    from ddbench.jobs.pool import Engine
    from ddbench.jobs.sweep import Cell, Report, Sweep
    from ddbench.progress import Reporter
    from ddbench.records.record import Record

    Observer = Callable[[Record], Record]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(
        "distill",
        epilog=examples(
            "ddbench distill dm --dataset digits --ipc 3 --out dm.safetensors",
            "ddbench distill dm --ipc 3 --recipe generic --set iterations=200 --out dm.safetensors",
        ),
    )(distill)
    app.command(
        "evaluate",
        epilog=examples(
            "ddbench evaluate dm.safetensors --protocol hard-v1 --seeds 3",
            "ddbench evaluate random.safetensors --protocol shipped-v1 --borrow dm.safetensors",
        ),
    )(evaluate)
    app.command(
        "run",
        epilog=examples(
            "ddbench run random --dataset digits --ipc 3",
            "ddbench run dm --ipc 3 --protocol hard-v1,soft-v1 --seeds 3 --dry-run",
            "ddbench run dm --ipc 3 --seeds 3 --snapshots 5",
        ),
    )(run)
    app.command(
        "sweep",
        epilog=examples(
            "ddbench sweep --methods random,dm --dataset digits --ipc 1,3,10 --protocols hard-v1 --workers 2",
            "ddbench sweep --methods random,kcenter --ipc 1 --synthesis-seeds 5 --seeds 1 --dry-run",
            "ddbench sweep --methods random,dm --ipc 1,3,10 --engine ray --address auto",
        ),
    )(sweep)


def distill(
    method: o.MethodName,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write the set to.")] = None,
    dataset: o.DatasetName = "digits",
    dataset_name: o.GivenName = None,
    ipc: o.Ipc = None,
    fraction: o.Fraction = None,
    recipe: o.Recipe = None,
    change: o.Set = None,
    seed: o.Seed = 0,
    distill_network: o.DistillNetwork = None,
    threads: o.Threads = None,
    device: o.Device = None,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
) -> None:
    """Distil a data set by a method, into a file.

    What was distilled before, by the same recipe and seed, is taken from the cache; a stopped run goes on.
    """
    if out is None and not dry_run:
        raise UsageError("distill needs --out FILE")
    from ddbench import api
    from ddbench.jobs.job import DataName

    budget = o.one_budget(ipc, fraction)
    o.check_sized([method], [budget])
    how: dict[str, Any] = {"seed": seed, "recipe": recipe, "network": distill_network, "overrides": change or []}
    if dry_run:
        from ddbench.cli.planning import print_distillation

        data = DataName(dataset, dataset_name)
        with refused():
            job = api.distillation(method, data, budget, how=api.setting(device, threads), **how)
            print_distillation(job, quiet=quiet)
        return
    assert out is not None
    with progress(quiet) as reporter:
        synset = api.distill(
            method,
            dataset=dataset,
            dataset_name=dataset_name,
            ipc=ipc,
            fraction=fraction,
            out=out,
            device=device,
            threads=threads,
            reporter=reporter,
            **how,
        )
    made = synset.provenance
    say(
        f"{made.method} on {synset.dataset}, recipe {made.recipe.get('name')}, seed {made.seed}: "
        f"{len(synset):,} images, distilled in {duration(made.seconds)}",
        quiet=quiet,
    )
    print(f"{out} {synset.hash}")


def evaluate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A set, distilled or imported.")],
    protocol: o.ProtocolName = "hard-v1",
    network: o.NetworkName = None,
    seeds: o.Seeds = "5",
    dataset: o.FolderOfSet = None,
    dataset_name: o.GivenName = None,
    borrow: o.Borrow = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Method name of an imported set in tables.")
    ] = None,
    results: o.Results = None,
    retry_failed: o.RetryFailed = False,
    wandb: o.Wandb = False,
    workers: o.Workers = None,
    devices: o.Devices = 1,
    threads: o.Threads = None,
    device: o.Device = None,
    precision: o.Precision = None,
    compile: o.Compile = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train and test students on a set; record the runs.

    Runs that are recorded already are not made again.
    """
    from ddbench import api
    from ddbench.settings import default_workers, results_dir
    from ddbench.synset.synset import load

    wanted = o.seeds(seeds)
    made_by = load(file).provenance.method
    with progress(quiet) as shown, logged(wandb, shown) as (reporter, observe):
        record = api.evaluate(
            file,
            dataset=dataset,
            dataset_name=dataset_name,
            protocol=protocol,
            network=network,
            seeds=wanted,
            name=name or made_by,
            borrow=borrow,
            results=results or results_dir(),
            workers=workers or (1 if devices > 1 else default_workers()),
            devices=devices,
            device=device,
            threads=threads,
            precision=precision,
            compile=compile,
            retry_failed=retry_failed,
            quiet=quiet,
            reporter=reporter,
            observe=observe,
        )
    print(record.to_json(), end="") if as_json else print_records([record])
    _fail_where_failed(record, wanted)


def _fail_where_failed(record: "Record", seeds: Sequence[int]) -> None:
    failed = [run for run in record.runs if run.status == "failed" and run.seed in seeds]
    if failed:
        numbers = ", ".join(str(run.seed) for run in failed)
        raise DDBenchError(f"{len(failed)} of {len(seeds)} runs failed (seed {numbers}): {failed[0].reason}")


def run(
    method: o.MethodName,
    dataset: o.DatasetName = "digits",
    dataset_name: o.GivenName = None,
    ipc: o.Ipc = None,
    fraction: o.Fraction = None,
    recipe: o.Recipe = None,
    change: o.Set = None,
    seed: o.Seed = 0,
    distill_network: o.DistillNetwork = None,
    protocols: o.Protocols = "hard-v1",
    networks: o.Networks = None,
    seeds: o.Seeds = "5",
    borrow: o.Borrow = None,
    snapshots: o.Snapshots = None,
    results: o.Results = None,
    retry_failed: o.RetryFailed = False,
    again: o.Again = False,
    wandb: o.Wandb = False,
    workers: o.Workers = None,
    devices: o.Devices = 1,
    nodes: o.Nodes = 1,
    threads: o.Threads = None,
    device: o.Device = None,
    precision: o.Precision = None,
    compile: o.Compile = None,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
) -> None:
    """Distil, evaluate and record one cell.

    What is cached or recorded is reused; after a stop the same command goes on.
    """
    from ddbench import api
    from ddbench.jobs.job import DataName
    from ddbench.jobs.sweep import Sweep

    budget, runner = o.one_budget(ipc, fraction), o.together(devices, nodes, workers, quiet=quiet)
    o.check_sized([method], [budget])
    grid = Sweep(
        methods=[method],
        datasets=[DataName(dataset, dataset_name)],
        budgets=[budget],
        protocols=o.words(protocols, "--protocol"),
        networks=_networks(networks),
        seeds=o.seeds(seeds),
        synthesis_seeds=(seed,),
        recipe=recipe,
        overrides=change or [],
        distill_network=distill_network,
        compute=api.setting(device, threads, precision, compile, devices=devices * nodes),
        snapshots=o.shares(snapshots),
    )
    _go(
        grid,
        borrow,
        results,
        workers,
        runner,
        retry_failed=retry_failed,
        again=again,
        wandb=wandb,
        dry_run=dry_run,
        quiet=quiet,
    )


def sweep(
    methods: Annotated[
        str,
        typer.Option("--methods", "--method", metavar="NAMES", help="Methods, comma-separated.", show_default=False),
    ],
    datasets: o.Datasets = "digits",
    dataset_name: o.GivenName = None,
    ipc: o.Ipcs = None,
    fraction: o.Fractions = None,
    recipe: o.Recipe = None,
    change: o.Set = None,
    synthesis_seeds: o.SynthesisSeeds = "1",
    distill_network: o.DistillNetwork = None,
    protocols: o.Protocols = "hard-v1",
    networks: o.Networks = None,
    seeds: o.Seeds = "5",
    snapshots: o.Snapshots = None,
    results: o.Results = None,
    retry_failed: o.RetryFailed = False,
    again: o.Again = False,
    wandb: o.Wandb = False,
    workers: o.Workers = None,
    engine: o.Engine = "local",
    address: o.Address = None,
    gpus_per_job: o.GpusPerJob = None,
    devices: o.Devices = 1,
    nodes: o.Nodes = 1,
    threads: o.Threads = None,
    device: o.Device = None,
    precision: o.Precision = None,
    compile: o.Compile = None,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
) -> None:
    """Distil, evaluate and record a grid: every combination.

    What is cached or recorded is reused; after a stop the same command goes on. A method that takes everything, such
    as whole, runs once per data set.
    """
    from ddbench import api
    from ddbench.jobs.sweep import Sweep

    names, sizes = o.words(methods, "--methods"), o.budgets(ipc, fraction)
    o.check_sized(names, sizes)
    runner = o.engine(engine, address, gpus_per_job, workers, devices, nodes, quiet=quiet)
    grid = Sweep(
        methods=names,
        datasets=o.data_names(datasets, dataset_name),
        budgets=sizes,
        protocols=o.words(protocols, "--protocols"),
        networks=_networks(networks),
        seeds=o.seeds(seeds),
        synthesis_seeds=o.seeds(synthesis_seeds, "--synthesis-seeds"),
        recipe=recipe,
        overrides=change or [],
        distill_network=distill_network,
        compute=api.setting(
            device, threads, precision, compile, elsewhere=address is not None, devices=devices * nodes
        ),
        snapshots=o.shares(snapshots),
    )
    _go(
        grid,
        None,
        results,
        workers,
        runner,
        retry_failed=retry_failed,
        again=again,
        wandb=wandb,
        dry_run=dry_run,
        quiet=quiet,
    )


def _networks(text: str | None) -> list[str | None]:
    return [None] if text is None else [*o.words(text, "--networks")]


def _go(
    grid: "Sweep",
    borrow: Path | None,
    results: Path | None,
    workers: int | None,
    engine: "Engine | None" = None,
    *,
    retry_failed: bool,
    again: bool,
    wandb: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Plan or run a grid and report on it; leaves with the report's exit code."""
    from ddbench.cli.planning import Steady, missing_work, print_plan
    from ddbench.jobs.sweep import run_cells
    from ddbench.records.record import now
    from ddbench.records.store import RecordStore
    from ddbench.settings import default_workers, results_dir
    from ddbench.system.files import check_writable
    from ddbench.system.rank import follows

    store, count = RecordStore(results or results_dir()), workers or default_workers()
    with refused(dry_run):
        cells = with_lender(grid.cells(), borrow)
        if dry_run:
            print_plan(cells, store, retry_failed=retry_failed, again=again, workers=count, quiet=quiet)
            for line in grid.without_snapshots():
                print(line)
            return
    check_writable(store.root / "record")
    group = f"{now()} {store.root.name}" if len(cells) > 1 else None
    with progress(quiet) as shown, logged(wandb and not follows(), shown, group) as (reporter, observe):
        steady = Steady(reporter, missing_work(cells, store, retry_failed=retry_failed, again=again))
        report = run_cells(
            cells,
            store,
            workers=count,
            engine=engine,
            retry_failed=retry_failed,
            again=again,
            reporter=steady,
            observe=observe,
        )
    report.skipped += grid.without_snapshots()
    tell(report, quiet=quiet)
    if report.records and not follows():
        from ddbench.records.store import read_record

        print_records([read_record(path) for path in report.records])
    say(f"Records: {store.root} ({len(report.records)} touched)", quiet=quiet)
    raise typer.Exit(report.exit_code())


def with_lender(cells: "Sequence[Cell]", borrow: Path | None) -> "list[Cell]":
    """The cells, trained by the student recipe of a set's file if one is given.

    Raises:
        UsageError: the file is no set or ships no recipe, or a protocol does not play shipped recipes.
    """
    if borrow is None:
        return list(cells)
    from ddbench.evaluation.protocol import find_protocol
    from ddbench.synset.synset import load

    if load(borrow).student_recipe is None:
        raise UsageError(f"--borrow {borrow}: the set ships no student recipe")
    for cell in cells:
        if not find_protocol(cell.protocol).shipped:
            raise UsageError(f"--borrow goes with shipped-v1; {cell.protocol} has a student recipe of its own")
    return [replace(cell, lender=borrow) for cell in cells]


def tell(report: "Report", *, quiet: bool = False) -> None:
    """Say on stderr what was reused, made and left out; failures and bad input with their reasons, also when quiet."""
    parts = [f"{report.reused} runs reused", f"{report.done} made"]
    if report.snapshots:
        parts.append(f"{report.snapshots} snapshots scored")
    if report.failed:
        parts.append(f"{len(report.failed)} failed" if report.snapshots else f"{len(report.failed)} of them failed")
    say(", ".join(parts), quiet=quiet)
    for line in dict.fromkeys(report.skipped):
        say(f"n/a: {line}", quiet=quiet)
    for line in grouped(report.failed):
        say(f"failed: {line}")
    for line in dict.fromkeys(report.problems):
        say(f"ddbench: error: {line}")


def grouped(failed: Sequence[tuple[str, str]]) -> list[str]:
    """Failures as lines, those that differ in nothing but the seed together."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for what, reason in failed:
        head, _, seed = what.rpartition(", seed ")
        seeds.setdefault((head, reason), []).append(seed)
    return [f"{head}, seed {', '.join(found)}: {reason}" for (head, reason), found in seeds.items()]


def print_records(records: "Sequence[Record]") -> None:
    """The table of some records on stdout."""
    from ddbench.report.frame import results_frame

    print_cells(results_frame(records))


@contextmanager
def logged(
    wanted: bool, reporter: "Reporter", group: str | None = None
) -> "Iterator[tuple[Reporter, Observer | None]]":
    """Within the block, a reporter and an observer that also log to W&B (below WANDB_DIR, else ./wandb), if wanted."""
    if not wanted:
        yield reporter, None
        return
    from ddbench.jobs.wandb_log import WandbLog

    with WandbLog(Path(os.environ.get("WANDB_DIR") or "."), group=group) as log:
        yield log.reporter(reporter), log.observe
