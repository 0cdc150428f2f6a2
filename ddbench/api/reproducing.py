"""Calls that run a paper's table and compare it with the records."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ddbench.api.planning import plan
from ddbench.api.running import run_all_cells
from ddbench.data.registry import dataset_names
from ddbench.errors import JobFailed, NotDefined, UsageError
from ddbench.jobs.estimate import Estimate, Foreseen, estimate_distill, estimate_student, foresee
from ddbench.jobs.job import DataName, finished
from ddbench.jobs.pool import Engine
from ddbench.jobs.probe import Enough, Peek
from ddbench.jobs.sweep import Report
from ddbench.progress import Reporter
from ddbench.records.store import RecordStore
from ddbench.report.papers import figures_of, find_paper, papers
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
    known = papers()
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
        foreseen: estimate of one set and of one student; None: there is none.
        draws: sets, made or not.
    """

    item: Item
    cached: int = 0
    stages: dict[str, list[int]] = field(default_factory=dict)
    missing: int = 0
    foreseen: Foreseen | None = None
    draws: int = 1

    def seconds(self) -> float | None:
        """Seconds for the sets and students that are missing; None without estimate."""
        if self.foreseen is None or self.excluded:
            return None
        distill, student = self.foreseen.distill.seconds, self.foreseen.student.seconds
        if distill is None or student is None:
            return None
        return self.sets * distill + self.missing * student

    @property
    def sets(self) -> int:
        """Number of sets that are still to be made."""
        return self.draws - self.cached if self.missing else 0

    @property
    def excluded(self) -> str | None:
        """Reason why a definition excludes the cell, if one does."""
        both = (self.foreseen.distill, self.foreseen.student) if self.foreseen else ()
        return next((each.basis for each in both if each.excluded), None)

    def memory(self) -> int:
        """Bytes of the larger of the two; 0 without estimate."""
        both = (self.foreseen.distill, self.foreseen.student) if self.foreseen else ()
        return max((each.peak_memory or 0 for each in both), default=0)

    def plain(self) -> dict[str, Any]:
        """The cost as plain data."""
        foreseen = self.foreseen
        return {
            **self.item.plain(),
            "not_run": self.item.why,
            "sets_cached": self.cached,
            "sets": self.draws,
            "stages": self.stages,
            "trainings_missing": self.missing,
            "seconds": self.seconds(),
            "seconds_distill": foreseen and foreseen.distill.seconds,
            "seconds_student": foreseen and foreseen.student.seconds,
            "memory": self.memory() or None,
            "basis": foreseen and {"distill": foreseen.distill.basis, "student": foreseen.student.basis},
        }


def cost_of(item: Item, table: Reproduction, *, retry_failed: bool, tell: Callable[[str], None]) -> Cost:
    """Find what is cached, missing and foreseen of an item; nothing is run. `tell` takes lines on what is being timed."""
    choice = table.choice
    cost = Cost(item, draws=len(choice.synthesis_seeds), missing=len(choice.seeds) * len(choice.synthesis_seeds))
    if item.recipe is None or item.source is None:
        return cost
    if item.cells:
        cost.cached = sum(cell.made is not None and finished(cell.made) is not None for cell in item.cells)
        cost.missing = sum(len(plan(cell, table.store, retry_failed=retry_failed).missing) for cell in item.cells)
        cost.stages = _stages_of(item, choice) if cost.sets else {}
    cost.foreseen = foresee(
        item.recipe, item.source, item.protocol, item.network, choice.compute, cached=cost.stages, tell=tell
    ) or _probed(item, choice, tell)
    return cost


def _stages_of(item: Item, choice: Choice) -> dict[str, list[int]]:
    """Cached entries of the stages that the first distillation would open, by name; a method that fails early has none."""
    assert item.recipe is not None and item.source is not None
    device = torch.device(choice.compute.device)
    peek = Peek(item.source, item.recipe.budget, item.recipe.network, choice.synthesis_seeds[0], device)
    with suppress(Enough, Exception):  # what a method does without its stages' content is its own affair
        item.recipe.method.distill(peek, item.recipe.hyper)
    return peek.stages


def _probed(item: Item, choice: Choice, tell: Callable[[str], None]) -> Foreseen | None:
    """Estimates by short timed runs, for a method that states no costs; None where the data are not here."""
    if not item.cells or item.cells[0].made is None or item.source is None or item.recipe is None:
        return None
    tell(f"timing {item.words()}")
    budget, dataset = item.recipe.budget, item.source
    images = (budget.ipc or 0) * len(dataset.class_names) or max(1, round((budget.fraction or 1) * len(dataset.train)))
    try:
        distill = estimate_distill(item.cells[0].made)
        student = estimate_student(item.cells[0].data, item.protocol, item.network, images, choice.compute)
    except NotDefined as reason:
        distill = student = Estimate(None, None, str(reason), excluded=True)
    except JobFailed as failure:
        distill = student = Estimate(None, None, str(failure))
    return Foreseen(distill, student)
