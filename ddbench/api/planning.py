"""What a grid still has to do: for dry runs, and for progress that counts all jobs from the start."""

from collections.abc import Iterable
from dataclasses import dataclass

from ddbench.errors import NotScored
from ddbench.jobs.estimate import Estimate, Estimator
from ddbench.jobs.job import DistillJob, finished
from ddbench.jobs.sweep import Cell, StoredRuns, planned, record_of, without_set
from ddbench.progress import Reporter
from ddbench.records.store import RecordStore


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

    cell: Cell
    student: str | None
    missing: tuple[int, ...]
    excluded: str | None = None
    snapshots: int = 0
    again: bool = False

    def sets(self) -> list[DistillJob]:
        """The sets that have to be made for this cell: none if nothing is missing."""
        jobs = (self.cell.made, self.cell.lender) if self.missing or self.snapshots else ()
        made = [job for job in jobs if isinstance(job, DistillJob)]
        return [job for job in made if finished(job) is None or (self.again and job == self.cell.made)]

    def jobs(self) -> int:
        """Number of jobs that train the missing students: one each, or one for all in a stack."""
        return bool(self.missing) if self.cell.compute.stack else len(self.missing)


def plan(cell: Cell, store: RecordStore, *, retry_failed: bool = False, again: bool = False) -> Planned:
    """Find what is left of a cell, as the store and the cache are now; writes nothing."""
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


def missing_work(cells: Iterable[Cell], store: RecordStore, *, retry_failed: bool = False, again: bool = False) -> int:
    """Count the jobs that a grid still has: sets to make and students to train."""
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


def set_cost(job: DistillJob, estimator: Estimator) -> Estimate:
    """Estimate the distillation of a set."""
    return estimator.of_set(job.resolved(), job.data.load(), job=job)


def student_cost(each: Planned, estimator: Estimator) -> Estimate:
    """Estimate one training and test, by the recipe of the set, or of the set that a baseline takes its recipe from."""
    cell = each.cell
    job = cell.lender if isinstance(cell.lender, DistillJob) else cell.made
    recipe = None if job is None else job.resolved()
    return estimator.of_student(recipe, cell.data.load(), cell.protocol, cell.network, synset=cell.known_set())
