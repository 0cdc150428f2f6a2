"""Distill, evaluate, and both for one cell or a grid."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import ddbench
from ddbench.cli import options as o
from ddbench.cli.output import print_records, progress, say, tell
from ddbench.errors import DDBenchError, UsageError
from ddbench.progress import Reporter
from ddbench.records.record import Record, now
from ddbench.records.store import read_record
from ddbench.report.format import duration
from ddbench.settings import default_workers, results_dir
from ddbench.system.downloads import refused
from ddbench.system.rank import follows

if TYPE_CHECKING:
    from ddbench.jobs.pool import Engine
    from ddbench.jobs.sweep import Sweep


@o.command(
    "ddbench distill dm --dataset digits --ipc 3 --out dm.safetensors",
    "ddbench distill dm --ipc 3 --recipe generic --set iterations=200 --out dm.safetensors",
)
def distill(
    method: o.MethodName,
    chosen: o.SetFlags,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write the set to.")] = None,
    *,
    where: o.DeviceFlags,
    dry_run: o.DryRun = False,
    quiet: o.Quiet = False,
) -> None:
    """Distill a data set by a method, into a file.

    A set that was made before, by the same recipe and seed, is taken from the cache; an interrupted run is resumed.
    """
    if out is None and not dry_run:
        raise UsageError("distill needs --out FILE")
    budget = chosen.budget(method)
    how: dict[str, Any] = {
        "seed": chosen.seed,
        "recipe": chosen.recipe,
        "network": chosen.distill_network,
        "overrides": chosen.overrides or [],
        "compute": where.compute(),
    }
    if out is None or dry_run:
        from ddbench.api.running import distill_job_of  # imports torch, as the next
        from ddbench.cli.planning import print_distillation

        with refused():
            data = ddbench.DataName(chosen.dataset, chosen.dataset_name)
            print_distillation(distill_job_of(method, data, budget, **how), quiet=quiet)
        return
    with progress(quiet) as reporter:
        synset = ddbench.distill(
            method,
            dataset=chosen.dataset,
            dataset_name=chosen.dataset_name,
            ipc=budget.ipc,
            fraction=budget.fraction,
            out=out,
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


@o.command(
    "ddbench evaluate dm.safetensors --protocol hard-v1 --seeds 3",
    "ddbench evaluate random.safetensors --protocol shipped-v1 --borrow dm.safetensors",
)
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
    *,
    how: o.ComputeFlags,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train and test students on a set; record the runs.

    Runs that are recorded already are not made again.
    """
    wanted = o.seeds(seeds)
    engine = o.ddp_executor(devices, 1, workers, quiet=quiet)
    made_by = ddbench.load(file).provenance.method
    with progress(quiet) as shown, logged(wandb, shown) as (reporter, observe):
        record = ddbench.evaluate(
            file,
            dataset=dataset,
            dataset_name=dataset_name,
            protocol=protocol,
            network=network,
            seeds=wanted,
            name=name or made_by,
            borrow=borrow,
            results=results or results_dir(),
            workers=workers or (1 if engine else default_workers()),
            engine=engine,
            compute=how.compute(devices=devices),
            retry_failed=retry_failed,
            reporter=reporter,
            observe=observe,
        )
    print(record.to_json(), end="") if as_json else print_records([record])
    failed = [run for run in record.runs if run.status == "failed" and run.seed in wanted]
    if failed:
        numbers = ", ".join(str(run.seed) for run in failed)
        raise DDBenchError(f"{len(failed)} of {len(wanted)} runs failed (seed {numbers}): {failed[0].reason}")


@o.command(
    "ddbench run random --dataset digits --ipc 3",
    "ddbench run dm --ipc 3 --protocol hard-v1,soft-v1 --seeds 3 --dry-run",
    "ddbench run dm --ipc 3 --seeds 3 --snapshots 5",
)
def run(
    method: o.MethodName,
    chosen: o.SetFlags,
    protocols: o.Protocols = "hard-v1",
    networks: o.Networks = None,
    seeds: o.Seeds = "5",
    borrow: o.Borrow = None,
    snapshots: o.Snapshots = None,
    *,
    what: o.RunFlags,
    devices: o.Devices = 1,
    nodes: o.Nodes = 1,
    how: o.ComputeFlags,
) -> None:
    """Distill, evaluate and record one cell.

    What is cached or recorded is reused; an interrupted run is resumed by the same command.
    """
    budget = chosen.budget(method)
    engine = o.ddp_executor(devices, nodes, what.workers, quiet=what.quiet)
    grid = ddbench.Sweep(
        methods=[method],
        datasets=[ddbench.DataName(chosen.dataset, chosen.dataset_name)],
        budgets=[budget],
        protocols=o.words(protocols, "--protocol"),
        networks=o.listed(networks, "--networks") or [None],
        seeds=o.seeds(seeds),
        synthesis_seeds=(chosen.seed,),
        recipe=chosen.recipe,
        overrides=chosen.overrides or [],
        distill_network=chosen.distill_network,
        compute=how.compute(devices=devices * nodes),
        snapshots=o.shares(snapshots),
    )
    _go(grid, what, engine, borrow)


@o.command(
    "ddbench sweep --methods random,dm --dataset digits --ipc 1,3,10 --protocols hard-v1 --workers 2",
    "ddbench sweep --methods random,kcenter --ipc 1 --synthesis-seeds 5 --seeds 1 --dry-run",
    "ddbench sweep --methods random,dm --ipc 1,3,10 --engine ray --address auto",
)
def sweep(
    methods: Annotated[
        str,
        typer.Option("--methods", "--method", metavar="NAMES", help="Methods, comma-separated.", show_default=False),
    ],
    datasets: Annotated[
        str,
        typer.Option(
            "--dataset", "--datasets", metavar="NAMES", help="Data sets, comma-separated; folder:PATH is one."
        ),
    ] = "digits",
    dataset_name: o.GivenName = None,
    ipc: Annotated[str | None, typer.Option("--ipc", metavar="N,..", help="Images per class, comma-separated.")] = None,
    fraction: Annotated[
        str | None,
        typer.Option("--fraction", metavar="F,..", help="Parts of the training images, comma-separated."),
    ] = None,
    recipe: o.Recipe = None,
    overrides: o.Overrides = None,
    synthesis_seeds: o.SynthesisSeeds = "1",
    distill_network: o.DistillNetwork = None,
    protocols: o.Protocols = "hard-v1",
    networks: o.Networks = None,
    seeds: o.Seeds = "5",
    snapshots: o.Snapshots = None,
    *,
    what: o.RunFlags,
    where: o.RayFlags,
    devices: o.Devices = 1,
    nodes: o.Nodes = 1,
    how: o.ComputeFlags,
) -> None:
    """Distill, evaluate and record a grid: every combination.

    What is cached or recorded is reused; an interrupted run is resumed by the same command. A method that takes
    everything, such as whole, runs once per data set.
    """
    names, budgets = o.words(methods, "--methods"), o.budgets(ipc, fraction)
    o.check_sized(names, budgets)
    engine = where.executor(what.workers, devices, nodes, quiet=what.quiet)
    grid = ddbench.Sweep(
        methods=names,
        datasets=o.data_names(datasets, dataset_name),
        budgets=budgets,
        protocols=o.words(protocols, "--protocols"),
        networks=o.listed(networks, "--networks") or [None],
        seeds=o.seeds(seeds),
        synthesis_seeds=o.seeds(synthesis_seeds, "--synthesis-seeds"),
        recipe=recipe,
        overrides=overrides or [],
        distill_network=distill_network,
        compute=how.compute(elsewhere=where.address is not None, devices=devices * nodes),
        snapshots=o.shares(snapshots),
    )
    _go(grid, what, engine)


def _go(grid: "Sweep", what: o.RunFlags, engine: "Engine | None", borrow: Path | None = None) -> None:
    """Plan or run a grid and report on it; leaves with the report's exit code."""
    results, workers = what.results or results_dir(), what.workers or default_workers()
    if what.dry_run:
        from ddbench.cli.planning import print_plan  # imports torch

        with refused():
            print_plan(
                grid,
                borrow,
                results,
                retry_failed=what.retry_failed,
                again=what.again,
                workers=workers,
                quiet=what.quiet,
            )
        return
    group = f"{now()} {results.name}" if what.wandb and len(grid.cells()) > 1 else None
    with progress(what.quiet) as shown, logged(what.wandb and not follows(), shown, group) as (reporter, observe):
        report = ddbench.sweep(
            grid,
            borrow=borrow,
            results=results,
            workers=workers,
            engine=engine,
            retry_failed=what.retry_failed,
            again=what.again,
            reporter=reporter,
            observe=observe,
        )
    tell(report, quiet=what.quiet)
    if report.records and not follows():
        print_records(read_record(path) for path in report.records)
    say(f"Records: {results} ({len(report.records)} touched)", quiet=what.quiet)
    raise typer.Exit(report.exit_code())


@contextmanager
def logged(
    wanted: bool, reporter: Reporter, group: str | None = None
) -> Iterator[tuple[Reporter, Callable[[Record], Record] | None]]:
    """Within the block, a reporter and an observer that also log to W&B (below WANDB_DIR, else ./wandb), if wanted."""
    if not wanted:
        yield reporter, None
        return
    from ddbench.jobs.wandb_log import WandbLog  # imports wandb

    with WandbLog(Path(os.environ.get("WANDB_DIR") or "."), group=group) as log:
        yield log.reporter(reporter), log.observe
