"""What a grid would do, before it does it: for --dry-run, and for an honest total in the progress."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ddbench.cli.output import print_facts, say
from ddbench.progress import Reporter
from ddbench.report.format import counted, duration, plain, size

if TYPE_CHECKING:
    from ddbench.jobs.estimate import Estimate, Estimator
    from ddbench.jobs.job import DistillJob
    from ddbench.jobs.sweep import Cell
    from ddbench.records.store import RecordStore
    from ddbench.training.compute import Compute


@dataclass(frozen=True)
class Planned:
    """A cell and what is left of it.

    Attributes:
        cell: the cell.
        student: student network; None if only the set can tell (`shipped-v1` before the set is made).
        missing: evaluation seeds without a run.
        snapshots: students on snapshots that are left, as far as can be told before the set is made.
        again: whether the set is made again though it is cached.
        excluded: why the protocol does not apply or the method is not defined, if so.
    """

    cell: "Cell"
    student: str | None
    missing: tuple[int, ...]
    excluded: str | None = None
    snapshots: int = 0
    again: bool = False

    def sets(self) -> "list[DistillJob]":
        """The sets that have to be made for this cell: none if nothing is missing."""
        from ddbench.jobs.job import DistillJob, finished

        jobs = (self.cell.made, self.cell.lender) if self.missing or self.snapshots else ()
        made = [job for job in jobs if isinstance(job, DistillJob)]
        return [job for job in made if finished(job) is None or (self.again and job == self.cell.made)]

    def jobs(self) -> int:
        """In how many jobs the missing students are trained: one each, or one for all in a stack."""
        return bool(self.missing) if self.cell.compute.stack else len(self.missing)


def plan(cell: "Cell", store: "RecordStore", *, retry_failed: bool = False, again: bool = False) -> Planned:
    """What a cell needs, as the store and the cache are now; writes nothing."""
    from ddbench.errors import NotScored
    from ddbench.jobs.sweep import StoredRuns, planned, record_of, without_set

    try:
        record = planned(cell)
        synset = cell.known_set() if record is None else None
        if synset is not None:
            record = record_of(cell, synset)
    except NotScored as reason:
        return Planned(cell, None, (), str(reason))
    student = record.student_network if record else cell.network
    record = record or without_set(cell)
    each = len(cell.made.snapshots) if cell.made else 0
    if record is None:
        return Planned(cell, student, cell.seeds, snapshots=each * len(cell.seeds), again=again)
    stored = StoredRuns(cell, record, store)
    missing = stored.missing(retry_failed, again)
    left = each * len(missing) + (0 if again else stored.missing_snapshots())
    return Planned(cell, student, missing, None if missing else stored.excluded, left, again)


def missing_work(
    cells: "Iterable[Cell]", store: "RecordStore", *, retry_failed: bool = False, again: bool = False
) -> int:
    """How many jobs a grid still has: sets to make and students to train."""
    left = [plan(cell, store, retry_failed=retry_failed, again=again) for cell in cells]
    return len({job.path for each in left for job in each.sets()}) + sum(each.jobs() + each.snapshots for each in left)


class Steady(Reporter):
    """A reporter whose count of jobs begins at the planned total, so that the estimate holds from the start."""

    def __init__(self, inner: Reporter, total: int) -> None:
        """Pass everything on to `inner`."""
        self.inner, self.total = inner, total
        if total:
            inner.advance("jobs", 0, total)

    def advance(self, label: str, done: int, total: int) -> None:
        """See the base class."""
        self.inner.advance(label, done, max(total, self.total) if label == "jobs" else total)

    def metrics(self, step: int | None, values: dict[str, float]) -> None:
        """See the base class."""
        self.inner.metrics(step, values)

    def line(self, text: str) -> None:
        """See the base class."""
        self.inner.line(text)


def _set_cost(job: "DistillJob", estimator: "Estimator") -> "Estimate":
    return estimator.of_set(job.resolved(), job.data.load(), job=job)


def _student_cost(each: Planned, estimator: "Estimator") -> "Estimate":
    """Of one training and test; its recipe is the set's own, or that of whom a baseline borrows from."""
    from ddbench.jobs.job import DistillJob

    cell = each.cell
    job = cell.lender if isinstance(cell.lender, DistillJob) else cell.made
    recipe = None if job is None else job.resolved()
    return estimator.of_student(recipe, cell.data.load(), cell.protocol, cell.network, synset=cell.known_set())


def _estimator(compute: "Compute", quiet: bool) -> "Estimator":
    from ddbench.jobs.estimate import Estimator

    return Estimator(compute, lambda text: say(text, quiet=quiet))


def print_distillation(job: "DistillJob", *, quiet: bool = False) -> None:
    """The dry run of `distill`."""
    _print_recipes([job])
    _print_job(job, _estimator(job.compute, quiet))


def print_plan(
    cells: "Sequence[Cell]",
    store: "RecordStore",
    *,
    retry_failed: bool,
    again: bool = False,
    workers: int,
    quiet: bool = False,
) -> None:
    """The dry run of a grid on stdout: recipes once each, then every set with its trainings, then the sums."""
    from ddbench.jobs.sweep import changes

    plans = [plan(cell, store, retry_failed=retry_failed, again=again) for cell in cells]
    estimator = _estimator(cells[0].compute, quiet)
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


def _defined(each: Planned, estimator: "Estimator") -> Planned:
    """A plan without trainings where its method turns out to exclude the cell."""
    reason = next((cost.basis for cost in (_set_cost(job, estimator) for job in each.sets()) if cost.excluded), None)
    return each if reason is None else replace(each, missing=(), excluded=reason, snapshots=0)


def _print_recipes(jobs: "Iterable[DistillJob]") -> None:
    """Every recipe with its resolved hyper-parameters, once."""
    recipes = {recipe.hash: recipe for recipe in (job.resolved() for job in jobs)}
    for key, recipe in recipes.items():
        print(f"{recipe.method.name} on {recipe.dataset}, {recipe.budget}: recipe {recipe.name} {key[:12]}")
        fields = {name: plain(value) for name, value in recipe.to_json()["hyper"].items()}
        own = {"network": recipe.network, "source": recipe.source}
        print_facts((f"  {name}", value) for name, value in (fields | own).items())
        print()


def _print_job(job: "DistillJob", estimator: "Estimator", *, needed: bool = True, again: bool = False) -> None:
    from ddbench.jobs.job import cached_set, finished

    if finished(job) is not None and not again:
        print(f"{job.label()}: set is cached{' with its snapshots' if job.snapshots else ''}")
        return
    if not needed:
        print(f"{job.label()}: set is not cached, and not needed")
        return
    cost, why = _set_cost(job, estimator), "again, " if again else "again for its snapshots, "
    made = "" if cached_set(job) is None else why
    print(f"{job.label()}: {f'n/a, {cost.basis}' if cost.excluded else f'set is to be made, {made}{_cost(cost)}'}")


def _training(each: Planned, estimator: "Estimator") -> str:
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
    return f"{head} {' and '.join(parts)}, each {_cost(_student_cost(each, estimator))}"


def _print_sums(plans: "Sequence[Planned]", workers: int, estimator: "Estimator") -> None:
    sets = {job.path: job for each in plans for job in each.sets()}.values()
    costs = [_set_cost(job, estimator) for job in sets]
    costs += [_student_cost(each, estimator) for each in plans for _ in range(len(each.missing) + each.snapshots)]
    trainings = len(costs) - len(sets)
    print(f"\nTo do: {counted(len(sets), 'set')}, {counted(trainings, 'training')}. Nothing was run or written.")
    if costs:
        seconds = sum(cost.seconds or 0 for cost in costs) / workers
        memory = workers * max(cost.peak_memory or 0 for cost in costs)
        blind = sum(cost.seconds is None for cost in costs)
        left = f", {blind} jobs without estimate" if blind else ""
        print(f"Estimate: {duration(seconds)} with {workers} worker(s), {size(memory)} on top of the program{left}.")


def _cost(cost: "Estimate") -> str:
    if cost.seconds is None:
        return f"no estimate: {cost.basis}"
    memory = "" if cost.peak_memory is None else f", {size(cost.peak_memory)}"
    return f"about {duration(cost.seconds)}{memory}" if cost.seconds else cost.basis
