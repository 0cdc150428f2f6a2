"""What a grid still has to do: for dry runs, and for progress that counts all jobs from the start."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ddbench.errors import JobFailed, NotDefined, NotScored
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.estimate import Estimate, estimate_distill, estimate_student
from ddbench.jobs.job import DistillJob, finished
from ddbench.jobs.sweep import (
    Cell,
    excluded,
    missing_seeds,
    missing_snapshots,
    planned,
    record_of,
    without_set,
)
from ddbench.progress import Reporter
from ddbench.records.store import RecordStore
from ddbench.synset.synset import SynSet
from ddbench.synset.views import drawn, training_count


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
    missing = missing_seeds(cell, record, store, retry_failed, again)
    left = each * len(missing) + (0 if again else missing_snapshots(cell, record, store))
    return Planned(cell, student, missing, None if missing else excluded(cell, record, store), left, again)


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


class Estimator:
    """Estimates of a grid's jobs, each kind timed once, when it is first asked for."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """`tell` is called with a line on what is being timed."""
        self.tell = tell
        self._known: dict[tuple[Any, ...], Estimate] = {}

    def distilling(self, job: DistillJob) -> Estimate:
        """Estimate of making a set; seeds of one recipe share it."""
        return self._once((job.resolved().hash, job.compute), job.label(), lambda: estimate_distill(job))

    def studying(self, each: Planned) -> Estimate:
        """Estimate of one training and test; the sets of one size share it."""
        cell, synset = each.cell, each.cell.known_set()
        recipe = synset.student_recipe if synset is not None and find_protocol(cell.protocol).shipped else None
        images = _images(each, synset)
        draw = None if synset is None else drawn(synset)
        key = (cell.data, cell.protocol, cell.network, images, cell.compute, recipe and recipe.hash(), draw is None)
        call = partial(estimate_student, *key[:5], recipe=recipe, draw=draw)
        return self._once(key, f"{cell.protocol} on {images:,} images", call)

    def _once(self, key: tuple[Any, ...], label: str, call: Callable[[], Estimate]) -> Estimate:
        if key not in self._known:
            self.tell(f"timing {label}")
            try:
                self._known[key] = call()
            except JobFailed as failure:
                self._known[key] = Estimate(None, None, str(failure))
            except NotDefined as reason:
                self._known[key] = Estimate(None, None, str(reason), excluded=True)
        return self._known[key]


def _images(each: Planned, synset: SynSet | None) -> int:
    """Number of images that a student trains on: the set's, where it is known, or what its budget says."""
    if synset is not None:
        return training_count(synset)
    job = each.cell.made
    assert job is not None
    budget, dataset = job.resolved().budget, job.data.load()
    if budget.ipc is not None:
        return budget.ipc * len(dataset.class_names)
    return max(1, round((budget.fraction or 1.0) * len(dataset.train)))
