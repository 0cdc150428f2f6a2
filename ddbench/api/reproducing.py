"""Calls that run a paper's table and compare it with the records."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddbench.api.planning import plan
from ddbench.api.running import run_all_cells
from ddbench.data.registry import dataset_names
from ddbench.errors import NotDefined, UsageError
from ddbench.jobs.estimate import Estimate, Estimator, cached_stages
from ddbench.jobs.job import DataName, finished
from ddbench.jobs.pool import Engine
from ddbench.jobs.sweep import Report
from ddbench.progress import Reporter
from ddbench.records.store import RecordStore
from ddbench.report import papers
from ddbench.report.papers import figures_of, find_paper
from ddbench.report.reproduce import Choice, Compared, Item, chosen_figures, compare, items_of, reduced_items
from ddbench.settings import results_dir
from ddbench.training.compute import Compute


@dataclass(frozen=True)
class Reproduction:
    """A paper's table: what is run for it, and what the records say of it.

    Attributes:
        title: of the table.
        items: its cells, each with what is run for it.
        choice: how they are run.
        store: where their records are.
        report: what was done now.
    """

    title: str
    items: list[Item]
    choice: Choice
    store: RecordStore
    report: Report = field(default_factory=Report)

    def compared(self) -> list[Compared]:
        """Each item beside what is recorded of it."""
        return compare(self.items, self.store)


def reproduce(
    paper: str,
    *,
    methods: Sequence[str] | str | None = None,
    cells: Sequence[str] = (),
    networks: Sequence[str] = (),
    protocols: Sequence[str] = ("shipped-v1",),
    reduced: bool = False,
    data: Mapping[str, str] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    synthesis_seeds: Sequence[int] = (0,),
    results: Path | str | None = None,
    run: bool = True,
    workers: int = 1,
    engine: Engine | None = None,
    retry_failed: bool = False,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
) -> Reproduction:
    """Run what is missing of a paper's table; cells whose data are not on this machine are left out, with the reason.

    Args:
        paper: a method's name, a paper's key, or its arXiv id.
        methods: methods of its table, or "all"; None: the paper's own.
        cells: only these, such as "cifar10/10" or "cifar100"; none: all.
        networks: only these student networks; none: all.
        protocols: what to score by; `shipped-v1` is the paper's own post-evaluation.
        reduced: the recipes named as reduced instead of the paper's settings.
        data: "folder:PATH" of data sets that are folders, by their name in the table.
        seeds: evaluation seeds.
        synthesis_seeds: seeds of the distillations.
        results: folder of records; None: DDBENCH_RESULTS, else ./results/measured.
        run: False runs nothing.
        workers: processes.
        engine: runs the jobs elsewhere; None: so many processes here.
        retry_failed: run failed runs again.
        compute: how to compute.
        reporter: shown the progress.

    Raises:
        UsageError: an unknown paper, method, cell or network, or a choice that leaves none.
    """
    known = papers.papers()
    key, own = find_paper(paper, known)
    have = list(dict.fromkeys(figure.method for figure in figures_of(key, known[key])))
    names = have if methods == "all" else list(methods) if methods else [name for name in own if name in have]
    if not names:
        raise UsageError(f"{key} lists other papers' methods only: choose with --methods {','.join(have)}, or all")
    if reduced and networks:
        raise UsageError("--networks chooses among the paper's figures; --reduced runs each set's own student")
    choice = Choice(
        protocols=tuple(protocols),
        seeds=tuple(seeds),
        synthesis_seeds=tuple(synthesis_seeds),
        compute=compute or Compute.here(),
        data=_data_names(data or {}),
    )
    if reduced:
        items = reduced_items(chosen_figures(key, known[key], names), known[key], names, choice, cells)
        lacking = f"{', '.join(names)}: no recipe is named as reduced"
    else:
        items = items_of(chosen_figures(key, known[key], names, cells, networks), known[key], choice)
        lacking = f"{key}: no figure is left by what --methods, --networks and --cells choose together"
    if not items:
        raise UsageError(lacking)
    store = RecordStore(Path(results) if results is not None else results_dir())
    todo = list(dict.fromkeys(cell for item in items for cell in item.cells))
    if not run or not todo:
        return Reproduction(known[key].title, items, choice, store)
    report = run_all_cells(todo, store, workers=workers, engine=engine, retry_failed=retry_failed, reporter=reporter)
    return Reproduction(known[key].title, items, choice, store, report)


def _data_names(folders: Mapping[str, str]) -> dict[str, DataName]:
    """The folders under their names; UsageError for a name of the suite's own data sets: no folder stands for these."""
    for name in folders:
        if name in dataset_names():
            raise UsageError(f"--data {name}: it is a data set of its own, which no folder stands for")
    return {name: DataName(place, name) for name, place in folders.items()}


@dataclass
class Cost:
    """What is still to do for an item, and what it would cost.

    Attributes:
        item: the item.
        cached: sets that are made already.
        stages: cached entries of each stage of the first set that is missing.
        missing: trainings that are not recorded.
        making: estimate of one set; None: nothing is known of the cell.
        student: estimate of one student, likewise.
        draws: sets, made or not.
    """

    item: Item
    cached: int = 0
    stages: dict[str, list[int]] = field(default_factory=dict)
    missing: int = 0
    making: Estimate | None = None
    student: Estimate | None = None
    draws: int = 1

    def seconds(self) -> float | None:
        """Seconds for the sets and students that are missing; None without estimate."""
        if self.making is None or self.student is None or self.excluded:
            return None
        if self.making.seconds is None or self.student.seconds is None:
            return None
        return self.sets * self.making.seconds + self.missing * self.student.seconds

    @property
    def sets(self) -> int:
        """Number of sets that are still to be made."""
        return self.draws - self.cached if self.missing else 0

    @property
    def excluded(self) -> str | None:
        """Reason why a definition excludes the cell, if one does."""
        return next((each.basis for each in (self.making, self.student) if each and each.excluded), None)

    def memory(self) -> int:
        """Bytes of the larger of the two; 0 without estimate."""
        return max((each.peak_memory or 0 for each in (self.making, self.student) if each), default=0)

    def plain(self) -> dict[str, Any]:
        """The cost as plain data."""
        making, student = self.making, self.student
        return {
            **self.item.plain(),
            "not_run": self.item.why,
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


def item_cost(item: Item, table: Reproduction, estimator: Estimator, *, retry_failed: bool = False) -> Cost:
    """Find what is cached and missing of an item, and estimate it; nothing is run."""
    choice = table.choice
    cost = Cost(item, draws=len(choice.synthesis_seeds), missing=len(choice.seeds) * len(choice.synthesis_seeds))
    if item.recipe is None or item.source is None:
        return cost
    first = item.cells[0].made if item.cells else None
    if first is not None:
        cost.cached = sum(cell.made is not None and finished(cell.made) is not None for cell in item.cells)
        cost.missing = sum(len(plan(cell, table.store, retry_failed=retry_failed).missing) for cell in item.cells)
        with suppress(NotDefined):  # the estimate says so
            cost.stages = cached_stages(first) if cost.sets else {}
    cost.making = estimator.of_set(item.recipe, item.source, job=first, cached=cost.stages)
    cost.student = estimator.of_student(item.recipe, item.source, item.protocol, item.network)
    return cost
