"""Dry runs on the terminal: recipes, what is cached, what would run, and an estimate."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ddbench.api.planning import Planned, plan, set_cost, student_cost
from ddbench.api.running import with_lender
from ddbench.cli.output import print_facts, say
from ddbench.jobs.estimate import Estimate, Estimator
from ddbench.jobs.job import DistillJob, cached_set, finished
from ddbench.jobs.sweep import Sweep, changes
from ddbench.records.store import RecordStore
from ddbench.report.format import counted, duration, plain, size


def print_distillation(job: DistillJob, *, quiet: bool = False) -> None:
    """The dry run of `distill`."""
    _print_recipes([job])
    _print_job(job, Estimator(job.compute, lambda text: say(text, quiet=quiet)))


def print_plan(
    grid: Sweep,
    borrow: Path | None,
    results: Path,
    *,
    retry_failed: bool,
    again: bool = False,
    workers: int,
    quiet: bool = False,
) -> None:
    """The dry run of a grid on stdout: recipes once each, then every set with its trainings, then the sums."""
    cells, store = with_lender(grid.cells(), borrow), RecordStore(results)
    plans = [plan(cell, store, retry_failed=retry_failed, again=again) for cell in cells]
    estimator = Estimator(grid.compute, lambda text: say(text, quiet=quiet))
    jobs = list(dict.fromkeys(each.cell.made for each in plans if each.cell.made))
    _print_recipes(jobs)
    needed = {job for each in plans for job in (each.sets() if not each.excluded else [each.cell.made])}
    for job in jobs:
        _print_job(job, estimator, needed=job in needed, again=again)
        for place, each in enumerate(plans):
            if each.cell.made == job:
                plans[place] = defined = _defined(each, estimator)
                print(f"  {_training(defined, estimator)}")
    for line in changes(cells, store):
        print(line)
    _print_sums(plans, workers, estimator)
    for line in grid.without_snapshots():
        print(line)


def _defined(each: Planned, estimator: Estimator) -> Planned:
    """A plan without trainings where its method turns out to exclude the cell."""
    reason = next((cost.basis for job in each.sets() if (cost := set_cost(job, estimator)).excluded), None)
    return each if reason is None else replace(each, missing=(), excluded=reason, snapshots=0)


def _print_recipes(jobs: Iterable[DistillJob]) -> None:
    """Every recipe with its resolved hyper-parameters, once."""
    recipes = {recipe.hash: recipe for recipe in (job.resolved() for job in jobs)}
    for key, recipe in recipes.items():
        print(f"{recipe.method.name} on {recipe.dataset}, {recipe.budget}: recipe {recipe.name} {key[:12]}")
        fields = {name: plain(value) for name, value in recipe.to_json()["hyper"].items()}
        own = {"network": recipe.network, "source": recipe.source}
        print_facts((f"  {name}", value) for name, value in (fields | own).items())
        print()


def _print_job(job: DistillJob, estimator: Estimator, *, needed: bool = True, again: bool = False) -> None:
    if finished(job) is not None and not again:
        print(f"{job.label()}: set is cached{' with its snapshots' if job.snapshots else ''}")
        return
    if not needed:
        print(f"{job.label()}: set is not cached, and not needed")
        return
    cost, why = set_cost(job, estimator), "again, " if again else "again for its snapshots, "
    made = "" if cached_set(job) is None else why
    print(f"{job.label()}: {f'n/a, {cost.basis}' if cost.excluded else f'set is to be made, {made}{_cost(cost)}'}")


def _training(each: Planned, estimator: Estimator) -> str:
    count = len(each.cell.seeds)
    head = f"{each.cell.protocol}, {each.student or 'student of the set'}:"
    if each.excluded:
        return f"{each.cell.protocol}: n/a, {each.excluded}"
    if not each.missing and not each.snapshots:
        return f"{head} all {counted(count, 'training')} {'is' if count == 1 else 'are'} recorded"
    parts = []
    if each.missing:
        parts.append(
            f"{len(each.missing)} of {counted(count, 'training')} missing (seed {', '.join(map(str, each.missing))})"
        )
    if each.snapshots:
        parts.append(f"{counted(each.snapshots, 'training')} on snapshots")
    return f"{head} {' and '.join(parts)}, each {_cost(student_cost(each, estimator))}"


def _print_sums(plans: Sequence[Planned], workers: int, estimator: Estimator) -> None:
    sets = {job.path: job for each in plans for job in each.sets()}.values()
    costs = [set_cost(job, estimator) for job in sets]
    costs += [student_cost(each, estimator) for each in plans for _ in range(len(each.missing) + each.snapshots)]
    trainings = len(costs) - len(sets)
    print(f"\nTo do: {counted(len(sets), 'set')}, {counted(trainings, 'training')}. Nothing was run or written.")
    if costs:
        seconds = sum(cost.seconds or 0 for cost in costs) / workers
        memory = workers * max(cost.peak_memory or 0 for cost in costs)
        blind = sum(cost.seconds is None for cost in costs)
        left = f", {blind} jobs without estimate" if blind else ""
        print(f"Estimate: {duration(seconds)} with {workers} worker(s), {size(memory)} on top of the program{left}.")


def _cost(cost: Estimate) -> str:
    if cost.seconds is None:
        return f"no estimate: {cost.basis}"
    memory = "" if cost.peak_memory is None else f", {size(cost.peak_memory)}"
    return f"about {duration(cost.seconds)}{memory}" if cost.seconds else cost.basis
