"""Grids: every cell's distillation and evaluations as jobs, run in this process, in several or on a cluster, resumed by key.

The driver alone writes records, each as soon as its run is done. A job that fails is recorded with its reason, and the
others go on; so is a cell that the method's definition excludes, which is no failure. What is in the store already is
not run again.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ddbench.budget import Budget
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import parse_overrides, resolve
from ddbench.distillation.snapshots import checked_shares, kept, steps_at
from ddbench.errors import CannotWrite, NotScored, UsageError
from ddbench.evaluation.evaluate import base_record, code_behind, owner_of, planned_record, student_recipe
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.job import (
    DataName,
    DistillJob,
    EvaluateJob,
    borrowed_set,
    check_budget,
    evaluate_job,
    finished,
    forget,
    make_set,
)
from ddbench.jobs.pool import Engine, Outcome, Work, run_all
from ddbench.networks import canonical
from ddbench.progress import Reporter
from ddbench.records.record import Record, Run, RunIdentity, Snapshot, identified, now
from ddbench.records.store import RecordStore
from ddbench.synset.synset import SynSet, load
from ddbench.system import code
from ddbench.system.environment import commit, versions
from ddbench.training.compute import Compute

log = logging.getLogger("ddbench")
NO_SNAPSHOTS = "it does not learn its images step by step"


@dataclass(frozen=True)
class Cell:
    """One protocol on one set: what a record is about, before it is known.

    Attributes:
        data: the data set.
        made: how the set is made; or
        file: the set's file, imported or distilled before.
        protocol: its name.
        network: student network; None: the protocol's default.
        seeds: evaluation seeds.
        compute: how to compute.
        lender: whose student recipe a baseline borrows: a job or a file.
        label: method name of an imported set.
    """

    data: DataName
    protocol: str
    seeds: tuple[int, ...]
    compute: Compute
    made: DistillJob | None = None
    file: Path | None = None
    network: str | None = None
    lender: DistillJob | Path | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0:
            raise UsageError(f"evaluation seeds must be one or more whole numbers of at least 0, not {self.seeds}")
        object.__setattr__(self, "seeds", tuple(dict.fromkeys(self.seeds)))

    @cached_property
    def code(self) -> dict[str, Any]:
        """Fields of a run that say what code makes and scores the set now; those of a file where the set is one."""
        if self.made is None:
            return {"code": None, "synthesis": 1, **code_behind(load(self.set_path()))}
        name = self.made.resolved().method.name
        return {"code": code.of_method(name), "synthesis": code.SYNTHESIS, "training": code.TRAINING}

    def set_path(self) -> Path:
        """File of the set, there or to come."""
        return self.made.path if self.made else self.file or Path()

    def lender_path(self) -> Path | None:
        """File of the lender's set, there or to come."""
        return self.lender.path if isinstance(self.lender, DistillJob) else self.lender

    def what(self) -> str:
        """For people: "dm on digits, IPC 1, seed 0, hard-v1"."""
        return f"{self.made.label() if self.made else self.label or self.set_path().name}, {self.protocol}"

    def known_set(self) -> SynSet | None:
        """Load the set, with what it borrows, if it is there already."""
        for job in (self.made, self.lender):
            if isinstance(job, DistillJob) and finished(job) is None:
                return None
        return borrowed_set(load(self.set_path()), self.lender_path(), self.data.load(), self.compute)[0]


@dataclass
class Report:
    """Results of a sweep.

    Attributes:
        changed: lines on runs of code that is no longer there, which are made again.
        reused: runs that were in the store already.
        done: runs made now, the failed among them.
        snapshots: students on snapshots, trained now.
        failed: runs that failed now, as (what, reason).
        skipped: what a definition excludes (a protocol's, or a method's, which the store shows as n/a), as lines.
        problems: bad input met on the way, as lines.
        records: the files touched or found complete.
    """

    changed: list[str] = field(default_factory=list)
    reused: int = 0
    done: int = 0
    snapshots: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    records: list[Path] = field(default_factory=list)

    def exit_code(self) -> int:
        """0 done, 1 a job failed, 2 bad input."""
        return 2 if self.problems else 1 if self.failed else 0


@dataclass(frozen=True)
class Sweep:
    """A grid as a person gives it: every combination becomes cells.

    Attributes:
        methods, datasets, protocols: names.
        budgets: IPC values or fractions; a method that takes everything (`whole`) ignores them.
        networks: student networks; None: each protocol's default.
        seeds: evaluation seeds.
        synthesis_seeds: seeds of the distillations.
        recipe: a recipe's name, "generic", or a file; None: each cell's default.
        overrides: `KEY=VALUE` words.
        distill_network: instead of the recipe's network.
        compute: how to compute.
        snapshots: shares of the distillation at which the set is scored as well, by methods that have such sets.
    """

    methods: Sequence[str]
    datasets: Sequence[DataName]
    budgets: Sequence[Budget]
    protocols: Sequence[str]
    networks: Sequence[str | None] = (None,)
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    synthesis_seeds: Sequence[int] = (0,)
    recipe: str | None = None
    overrides: Sequence[str] = ()
    distill_network: str | None = None
    compute: Compute = field(default_factory=Compute)
    snapshots: Sequence[float] = ()

    def cells(self) -> list[Cell]:
        """Every cell, all names and budgets checked, before anything runs.

        Raises:
            UsageError: an unknown name, a cell without a recipe, a budget above a class's size, a protocol that does
                not cover the data set.
        """
        return [
            Cell(
                data=job.data,
                made=job,
                protocol=protocol,
                network=network,
                seeds=tuple(self.seeds),
                compute=self.compute,
            )
            for job in self.distillations()
            for protocol in dict.fromkeys(self.protocols)
            for network in dict.fromkeys(self.networks)
            if self._covered(job.data, protocol, network)
        ]

    def distillations(self) -> list[DistillJob]:
        """Every set to be made, once each."""
        jobs = [
            self._distillation(name, data, budget, seed)
            for data in self.datasets
            for name in self.methods
            for budget in self.budgets
            for seed in self.synthesis_seeds
        ]
        return list(dict.fromkeys(jobs))

    def _distillation(self, name: str, data: DataName, budget: Budget, seed: int) -> DistillJob:
        method, dataset = find_method(name), data.load()
        resolved = resolve(
            method,
            dataset,
            Budget() if method.budgets == ("all",) else budget,
            recipe=self.recipe,
            network=self.distill_network,
            overrides=parse_overrides(method, self.overrides),
        )
        check_budget(resolved, dataset)
        return DistillJob.of(data, resolved, seed, self.compute, checked_shares(self.snapshots))

    def without_snapshots(self) -> list[str]:
        """Say of each method without snapshots why it has none, if they are asked for."""
        asked = self.methods if self.snapshots else ()
        return [f"{name} has no snapshots: {NO_SNAPSHOTS}" for name in asked if not find_method(name).snapshots]

    def _covered(self, data: DataName, protocol: str, network: str | None) -> bool:
        rules = find_protocol(protocol)
        if rules.shipped:
            return network is None or bool(canonical(network, side=data.load().side))
        return bool(rules.student(data.load(), network))


def run_cells(
    cells: Sequence[Cell],
    store: RecordStore,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    retry_failed: bool = False,
    again: bool = False,
    reporter: Reporter | None = None,
    observe: Callable[[Record], Record] | None = None,
) -> Report:
    """Distil and evaluate whatever of the cells is not in the store, and store each run as soon as it is done.

    Args:
        cells: see `Sweep.cells`.
        store: where records go; the driver alone writes them.
        workers: processes; results do not depend on how many.
        engine: runs the work elsewhere, `ddbench.jobs.ray_engine.RayEngine` say; None: so many processes here.
        retry_failed: run failed runs again, and replace them.
        again: distil again and train again, whatever is there, and replace the runs; stages (experts, teachers) stay.
        reporter: shows progress.
        observe: sees each record with its new run before it is stored, and may add to it (a link, say).

    Raises:
        CannotWrite: the store or the cache cannot be written; what was stored stays.
    """
    run = partial(run_all, workers=workers) if engine is None else engine.run_all
    return _Driver(store, retry_failed, again, reporter or Reporter(), observe).run(cells, run)


class _Driver:
    """Turns cells into work and outcomes into records."""

    def __init__(
        self,
        store: RecordStore,
        retry_failed: bool,
        again: bool,
        reporter: Reporter,
        observe: Callable[[Record], Record] | None,
    ) -> None:
        self.store, self.retry_failed, self.again = store, retry_failed, again
        self.reporter, self.observe = reporter, observe
        self.report = Report()
        self._waiting: dict[Path, list[Cell]] = {}

    def run(self, cells: Sequence[Cell], run_all: Callable[..., None]) -> Report:
        self._tell(changes(cells, self.store))
        first: list[Work] = []
        for cell in cells:
            first.extend(self._begin(cell))
        run_all(first, self._done, reporter=self.reporter)
        self.report.records = list(dict.fromkeys(self.report.records))
        return self.report

    def _begin(self, cell: Cell) -> list[Work]:
        """List the work that a cell needs now: its missing sets, or, where they are there, its missing students."""
        if self.again and cell.made and cell.made.path not in self._waiting:
            forget(cell.made)
        record = planned(cell) or without_set(cell)
        if record is not None:
            stored = StoredRuns(cell, record, self.store)
            if not stored.missing(self.retry_failed, self.again) and not stored.missing_snapshots():
                self._reuse(record, len(cell.seeds))
                if stored.excluded:
                    self.report.skipped.append(f"{cell.what()}: {stored.excluded}")
                return []
        jobs = [job for job in (cell.made, cell.lender) if isinstance(job, DistillJob) and finished(job) is None]
        if not jobs:
            return self._students(cell)
        work = []
        for job in jobs:
            if job.path not in self._waiting:
                work.append(Work(make_set, job, tag=job))
            self._waiting.setdefault(job.path, []).append(cell)
        return work

    def _tell(self, changed: list[str]) -> None:
        self.report.changed += changed
        for line in changed:
            self.reporter.line(line)

    def _reuse(self, record: Record, runs: int) -> None:
        if runs:
            self.report.reused += runs
            self.report.records.append(self.store.path(record.key()))

    def _students(self, cell: Cell) -> list[Work]:
        """List the work of the missing students, now that the set is there: one each, or one for all in a stack."""
        try:
            synset = cell.known_set()
            if synset is None:
                return []
            record = record_of(cell, synset)
        except NotScored as excluded:
            self.report.skipped.append(f"{cell.what()}: {excluded}")
            return []
        except CannotWrite:
            raise
        except UsageError as error:
            self.report.problems.append(f"{cell.what()}: {error}")
            return []
        stored = StoredRuns(cell, record, self.store)
        if planned(cell) is None:  # its record was not known before
            self._tell(_change_lines(stored.outdated.values()))
        seeds = stored.missing(self.retry_failed, self.again)
        self._reuse(record, len(cell.seeds) - len(seeds))
        alike = replace(cell, compute=stored.compute())
        at_once = [seeds] if seeds and cell.compute.stack else [(seed,) for seed in seeds]
        jobs = [_students(alike, cell.set_path(), some) for some in at_once]
        work = [Work(evaluate_job, job, tag=(cell, record)) for job in jobs]
        return work + self._on_the_way(cell, record, [run for run in stored.runs if run.seed not in seeds])

    def _on_the_way(self, cell: Cell, record: Record, runs: Iterable[Run]) -> list[Work]:
        """One piece of work for each student on a snapshot that these runs, which are stored, lack."""
        synset = finished(cell.made) if cell.made and cell.made.snapshots else None
        if cell.made is None or synset is None:
            return []
        work = []
        for run in runs:
            if run.status != "ok":
                continue
            if run.synset != synset.hash:
                self.report.skipped.append(f"{cell.what()}, seed {run.seed}: the snapshots are of another set")
                continue
            have = {each.step for each in run.snapshots or ()}
            files = {step: path for step, path in cell.made.kept_snapshots().items() if step not in have}
            jobs = [replace(_students(cell, path, (run.seed,)), step=step) for step, path in files.items()]
            work += [Work(evaluate_job, job, tag=(cell, record, run)) for job in jobs]
        return work

    def _scored(self, cell: Cell, record: Record, run: Run, job: EvaluateJob, outcome: Outcome) -> None:
        """Add the accuracy at a snapshot, and the run's own at the last step, to the stored run."""
        scored = outcome.value.runs[0] if outcome.value is not None else None
        if cell.made is None or job.step is None or scored is None or scored.top1 is None:
            reason = outcome.usage or outcome.failure or (scored and scored.reason) or ""
            self.report.failed.append((f"{cell.what()}, step {job.step}, {job.which()}", reason))
            return
        _, total = kept(cell.made.snapshot_folder)
        points = {job.step: scored.top1} | ({total: run.top1} if total else {})
        snapshots = [Snapshot(step=step, top1=top1) for step, top1 in points.items()]
        self.store.add(record.model_copy(update={"runs": [run.model_copy(update={"snapshots": snapshots})]}))
        self.report.snapshots += 1

    def _done(self, work: Work, outcome: Outcome) -> list[Work]:
        if isinstance(work.job, DistillJob):
            return self._distilled(work.job, outcome)
        cell, record, *stored = work.tag
        if stored:
            self._scored(cell, record, stored[0], work.job, outcome)
        elif outcome.value is not None:
            self._store(outcome.value)
            return self._on_the_way(cell, record, outcome.value.runs)
        elif outcome.usage is not None:
            self.report.problems.append(f"{work.job.protocol}, {work.job.which()}: {outcome.usage}")
        elif outcome.failure is not None:
            for seed in work.job.seeds:
                self._store(_without_result(record, cell, seed, outcome))
        return []

    def _distilled(self, job: DistillJob, outcome: Outcome) -> list[Work]:
        cells = self._waiting.pop(job.path, [])
        if outcome.usage is not None:
            self.report.problems.append(f"{job.label()}: {outcome.usage}")
            return []
        if outcome.failure is not None or outcome.skipped is not None:
            for cell in cells:
                self._no_set(cell, job, outcome)
            return []
        if finished(job) is None:
            self.report.problems.append(f"{job.label()}: a worker made the set, but {job.path} is not there")
            return []
        work = []
        for cell in cells:
            still = [j for j in (cell.made, cell.lender) if isinstance(j, DistillJob) and j.path in self._waiting]
            if not any(cell in self._waiting[j.path] for j in still):
                work.extend(self._students(cell))
        return work

    def _no_set(self, cell: Cell, job: DistillJob, outcome: Outcome) -> None:
        if cell.made != job:
            reason = "failed" if outcome.skipped is None else "is not defined"
            self.report.skipped.append(f"{job.label()} {reason}, so nothing can be borrowed from it")
            return
        if outcome.skipped is not None:
            self.report.skipped.append(f"{cell.what()}: {outcome.skipped}")
        record = planned(cell) or _record_before(cell)
        seeds = StoredRuns(cell, record, self.store).missing(self.retry_failed, self.again)
        if not seeds and outcome.failure is not None:  # only the snapshots of what is recorded were missing
            self.report.failed.append((f"{cell.what()}, its snapshots", outcome.failure))
        for seed in seeds:
            self._store(_without_result(record, cell, seed, outcome))

    def _store(self, record: Record) -> None:
        if self.observe and any(run.status != "n/a" for run in record.runs):
            record = self.observe(record)
        for run in record.runs:
            self.report.done += run.status != "n/a"
            if run.status == "failed":
                what = f"{record.method} on {record.dataset}, {record.protocol}, seed {run.seed}"
                self.report.failed.append((what, run.reason or ""))
        self.report.records.append(self.store.add(record, retry_failed=self.retry_failed, again=self.again))


def record_of(cell: Cell, synset: SynSet) -> Record:
    """Make the record of a cell whose set is known, without runs; NotScored if the protocol does not apply to the set."""
    protocol, dataset = find_protocol(cell.protocol), cell.data.load()
    recipe = student_recipe(synset, dataset, protocol, cell.network)
    path = cell.lender_path() if cell.lender is not None else None
    return base_record(synset, protocol, recipe, label=cell.label, owner=owner_of(load(path)) if path else None)


def _students(cell: Cell, synset: Path, seeds: tuple[int, ...]) -> EvaluateJob:
    return EvaluateJob(
        data=cell.data,
        synset=synset,
        protocol=cell.protocol,
        network=cell.network,
        seeds=seeds,
        compute=cell.compute,
        lender=cell.lender_path(),
        label=cell.label,
    )


class StoredRuns:
    """Runs of a cell in a store: those with its compute settings.

    Attributes:
        alike: those of its code, of any seed.
        outdated: what changed since a seed was run, by the cell's seeds that have runs of other code only.
    """

    def __init__(self, cell: Cell, record: Record, store: RecordStore) -> None:
        """Read the record of the cell, if the store has it; `record` has its key."""
        self.cell = cell
        stored, wanted = store.find(record.key()), cell.compute.identity()
        runs = [
            (run, _changed(cell, own))
            for own, run in identified(stored.runs if stored else [])
            if all(getattr(run, name) == value for name, value in wanted.items())
        ]
        self.alike = [run for run, what in runs if what is None]
        wanting = set(cell.seeds) - {run.seed for run in self.alike}
        self.outdated = {run.seed: what for run, what in runs if what and run.seed in wanting}

    @property
    def runs(self) -> list[Run]:
        """Those of its code and seeds."""
        return [run for run in self.alike if run.seed in self.cell.seeds]

    @property
    def excluded(self) -> str | None:
        """Reason for which the store shows the cell, or one of its seeds, as n/a; None if it does not."""
        return next((run.reason for run in self.runs if run.status == "n/a"), None)

    def missing(self, retry_failed: bool = False, again: bool = False) -> tuple[int, ...]:
        """Evaluation seeds without a run; failed runs count unless retried, and none counts where all are made again."""
        have = set() if again else {run.seed for run in self.runs if not (retry_failed and run.status == "failed")}
        return tuple(seed for seed in self.cell.seeds if seed not in have)

    def missing_snapshots(self) -> int:
        """Count the accuracies at snapshots that the runs lack.

        A run with snapshots has its own accuracy as the last of them, which tells how many steps there were.
        """
        shares, lacking = self.cell.made.snapshots if self.cell.made else (), 0
        for run in self.runs if shares else ():
            have = {each.step for each in run.snapshots or ()}
            if run.status == "ok":
                lacking += len(set(steps_at(shares, max(have))) - have) if have else len(shares)
        return lacking

    def compute(self) -> Compute:
        """Compute settings of the cell, compiled or not as its stored runs were: added seeds belong to the same mean."""
        known = {run.compiled for run in self.alike if run.status == "ok"}
        if self.cell.compute.compile != "auto" or len(known) != 1:
            return self.cell.compute
        return replace(self.cell.compute, compile="on" if known.pop() else "off")


def _changed(cell: Cell, run: RunIdentity) -> str | None:
    """Whose code is another one than that of a stored run, in words; None: nobody's. Unknown code is no other."""
    now = cell.code
    if None not in (run.code, now["code"]) and run.code != now["code"]:
        return f"the code of {cell.made.resolved().method.name}" if cell.made else "the set's code"
    return next((f"the suite's {name}" for name in ("synthesis", "training") if getattr(run, name) != now[name]), None)


def changes(cells: Iterable[Cell], store: RecordStore) -> list[str]:
    """Lines on the runs that other code made, as far as is known before sets are made; they do not count as there."""
    known = ((cell, planned(cell) or without_set(cell)) for cell in cells)
    stored = [StoredRuns(cell, record, store) for cell, record in known if record is not None]
    return _change_lines(what for each in stored for what in each.outdated.values())


def _change_lines(what: Iterable[str]) -> list[str]:
    return [
        f"{each} changed since {'this run; running it' if count == 1 else f'these {count} runs; running them'} again"
        for each, count in Counter(what).items()
    ]


def planned(cell: Cell) -> Record | None:
    """Make the record of a cell before its set is made; None where only the set can tell (shipped recipes, imports)."""
    if cell.made is None or find_protocol(cell.protocol).shipped:
        return None
    return _record_before(cell)


def without_set(cell: Cell) -> Record | None:
    """Make the record in which `shipped-v1` keeps why a set could not be made; None if the set is there."""
    return None if cell.made is None or finished(cell.made) is not None else _record_before(cell)


def _record_before(cell: Cell) -> Record:
    assert cell.made is not None
    protocol, resolved = find_protocol(cell.protocol), cell.made.resolved()
    network = resolved.network if protocol.shipped else protocol.student(cell.data.load(), cell.network).network
    return planned_record(resolved.to_json(), resolved.hash, cell.made.seed, protocol, network)


def _without_result(record: Record, cell: Cell, seed: int, outcome: Outcome) -> Record:
    head, dirty = commit()
    run = Run(
        seed=seed,
        synset=None,
        **cell.compute.identity(),
        **cell.code,
        status="failed" if outcome.skipped is None else "n/a",
        reason=outcome.failure or outcome.skipped,
        versions=versions(),
        commit=head,
        dirty=dirty,
        date=now(),
    )
    return record.model_copy(update={"runs": [run]})
