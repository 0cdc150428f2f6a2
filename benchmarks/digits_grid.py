"""The measured records of `digits`: every method at IPC 1, 3 and 10, and what has to be run for them.

    python benchmarks/digits_grid.py --dry-run             # what is missing in results/measured, and for how long
    python benchmarks/digits_grid.py [--workers 2]         # run it; after a stop the same command goes on
    python benchmarks/digits_grid.py --parts hard,soft     # only these

    hard      hard-v1, 5 students of each of 3 syntheses (of one, where a method draws nothing)
    soft      soft-v1, 5 students of one synthesis
    shipped   shipped-v1, 5 students of one synthesis, of methods whose sets ship a student recipe
    plain     hard-plain-v1 and soft-plain-v1 at IPC 10, 3 students of one synthesis
    networks  hard-v1 at IPC 10, six methods, 3 students each of four networks beside the protocol's own
    borrowed  shipped-v1 of `random` by the student recipe of each method, 5 students; only where it is named

Records come from a clean checkout: run it where nothing is edited meanwhile. `python benchmarks/readme.py` then writes
README's tables and figure anew.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ddbench.api.planning import Planned, plan
from ddbench.api.running import run_all_cells
from ddbench.budget import Budget
from ddbench.cli.output import progress, say, tell
from ddbench.distillation.method import find_method, method_names
from ddbench.errors import NotDefined, UsageError, unknown
from ddbench.jobs.estimate import Estimate, Estimator
from ddbench.jobs.job import DataName, DistillJob
from ddbench.jobs.steps import Steps, cost_of
from ddbench.jobs.sweep import Cell, Sweep
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.report.format import duration
from ddbench.training.compute import Compute

MEASURED = Path(__file__).parents[1] / "results" / "measured"
DATA = DataName("digits")
IPCS = (1, 3, 10)
BASELINES = ("herding", "kcenter", "random", "whole")
"""Their sets ship no student recipe: `shipped-v1` does not score them."""
FAMILIES = ("random", "dm", "datadam", "mtt", "sre2l", "rded")
NETWORKS = ("mlp", "lenet", "alexnet", "resnet18")
PARTS = ("hard", "soft", "shipped", "plain", "networks")
BORROWED = "borrowed"


def methods() -> list[str]:
    """The suite's own methods, whatever else is installed."""
    return [name for name in method_names() if find_method(name).distill.__module__.startswith("ddbench.methods.")]


def grid(
    names: Sequence[str],
    protocols: Sequence[str],
    how: Compute,
    *,
    ipcs: Sequence[int] = IPCS,
    seeds: int = 5,
    syntheses: int = 1,
    networks: Sequence[str | None] = (None,),
) -> Sweep:
    """A grid of default recipes on `digits`."""
    return Sweep(
        methods=names,
        datasets=[DATA],
        budgets=[Budget(ipc=ipc) for ipc in ipcs],
        protocols=protocols,
        networks=networks,
        seeds=range(seeds),
        synthesis_seeds=range(syntheses),
        compute=how,
    )


def part(name: str, how: Compute) -> list[Cell]:
    """The cells of one part; no two parts share one."""
    every = methods()
    lending = [name for name in every if name not in BASELINES]
    fixed = [name for name in every if find_method(name).deterministic]
    grids = {
        "hard": [
            grid([name for name in every if name not in fixed], ["hard-v1"], how, syntheses=3),
            grid(fixed, ["hard-v1"], how),
        ],
        "soft": [grid(every, ["soft-v1"], how)],
        "shipped": [grid(lending, ["shipped-v1"], how)],
        "plain": [grid(every, ["hard-plain-v1", "soft-plain-v1"], how, ipcs=[10], seeds=3)],
        "networks": [grid(FAMILIES, ["hard-v1"], how, ipcs=[10], seeds=3, networks=NETWORKS)],
    }
    if name == BORROWED:
        return list(_borrowing(part("shipped", how), how))
    if name not in grids:
        raise unknown("part", name, [*PARTS, BORROWED])
    return [cell for each in grids[name] for cell in each.cells()]


def _borrowing(lenders: Iterable[Cell], how: Compute) -> Iterator[Cell]:
    """`random` at each lender's IPC, by its student recipe."""
    own = {job.resolved().budget: job for job in grid(["random"], [], how).distillations()}
    for cell in lenders:
        assert cell.made is not None
        made = own[cell.made.resolved().budget]
        yield Cell(DATA, cell.protocol, cell.seeds, how, made=made, lender=cell.made)


class Costs:
    """Estimates of what is left. Products that the sets of a method share (teachers, experts) are counted once."""

    def __init__(self, how: Compute) -> None:
        """Nothing is timed before the first question."""
        self.estimator, self._paid = Estimator(how, say), set[tuple[str, Steps]]()

    def of_set(self, job: DistillJob) -> Estimate:
        """Of making a set."""
        recipe = job.resolved()
        shared: dict[str, list[int]] = defaultdict(list)
        for steps in _stages(job):
            key = (recipe.method.name, steps)
            shared[steps.stage or ""].append(steps.entries if key in self._paid else 0)
            self._paid.add(key)
        return self.estimator.of_set(recipe, job.data.load(), job=job, cached=shared)

    def of_student(self, each: Planned) -> Estimate:
        """Of one training and test."""
        cell = each.cell
        made = cell.lender if isinstance(cell.lender, DistillJob) else cell.made
        assert made is not None
        return self.estimator.of_student(made.resolved(), cell.data.load(), cell.protocol, cell.network)


def _stages(job: DistillJob) -> list[Steps]:
    """First steps of each product that others share; none where the method says no steps, or excludes the cell."""
    try:
        cost = cost_of(job.resolved(), job.data.load(), torch.device(job.compute.device))
    except NotDefined:
        return []
    return list({(each.stage, each.label): each for each in cost.steps if each.stage}.values()) if cost else []


def _left(cell: Cell, store: RecordStore, records: Sequence[Record]) -> Planned:
    """What a cell still needs; where only its set could tell the record's key, by what the records say of their sets."""
    found = plan(cell, store)
    if found.student is not None or found.excluded or cell.made is None:
        return found
    lender = cell.lender.resolved().hash if isinstance(cell.lender, DistillJob) else None
    key = (cell.protocol, cell.made.resolved().hash, cell.made.seed, lender)
    own = [each for each in records if (each.protocol, each.recipe_hash, each.synthesis_seed, each.lender) == key]
    wanted = cell.compute.identity().items()
    runs = [run for each in own for run in each.runs if all(getattr(run, name) == value for name, value in wanted)]
    return replace(found, missing=tuple(sorted(set(found.missing) - {run.seed for run in runs})))


def dry_run(names: Sequence[str], store: RecordStore, how: Compute, workers: int) -> None:
    """Say what each part still needs, and how long all of it takes; run and write nothing.

    A set is counted in the first part that needs it. A cell that a method's definition excludes is no work.
    """
    costs, counted, total, records = Costs(how), set[Path](), 0.0, list(store)
    for name in names:
        cells = part(name, how)
        left = [each for cell in cells if (each := _left(cell, store, records)).missing]
        students = {each: cost for each in left if not (cost := costs.of_student(each)).excluded}
        jobs = {job.path: job for each in students for job in each.sets() if job.path not in counted}
        counted |= jobs.keys()
        spent = [costs.of_set(job) for job in jobs.values()]
        spent += [cost for each, cost in students.items() for _ in each.missing]
        seconds, blind = sum(cost.seconds or 0 for cost in spent), sum(cost.seconds is None for cost in spent)
        trainings, of = len(spent) - len(jobs), sum(len(cell.seeds) for cell in cells)
        notes = [f"{blind} jobs without estimate"] * bool(blind)
        notes += [f"{len(left) - len(students)} cells n/a"] * (len(left) > len(students))
        words = [f"{trainings:,} of {of:,} trainings missing", f"{len(jobs)} sets to make", duration(seconds), *notes]
        print(f"{name}: {', '.join(words)}", flush=True)
        total += seconds
    print(f"All: about {duration(total / workers)} with {workers} worker(s). Nothing was run or written.")


def run(names: Sequence[str], store: RecordStore, how: Compute, workers: int, *, retry_failed: bool) -> int:
    """Run what is missing, part after part in one go; the exit code."""
    cells = [cell for name in names for cell in part(name, how)]
    with progress(quiet=False) as reporter:
        report = run_all_cells(cells, store, workers=workers, retry_failed=retry_failed, reporter=reporter)
    tell(report)
    return report.exit_code()


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    parser.add_argument("--results", type=Path, default=MEASURED)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, help="per job (DDBENCH_THREADS, 1); part of a run's identity")
    parser.add_argument("--device", help="auto, cpu or cuda (DDBENCH_DEVICE, auto)")
    parser.add_argument("--retry-failed", action="store_true")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing and for how long; run nothing")
    args = parser.parse_args()
    names, how, store = args.parts.split(","), Compute.here(args.device, args.threads), RecordStore(args.results)
    try:
        if args.dry_run:
            dry_run(names, store, how, args.workers)
            return 0
        return run(names, store, how, args.workers, retry_failed=args.retry_failed)
    except UsageError as error:
        say(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
