"""Demo: every installed method on the embedded digits, with records, a table, plots, pictures and the sets in one folder.

A method takes part with its published recipes for the data set, at the plan's IPC or at the nearest IPC that has one. A
method without any recipe takes part if it needs none, that is if it has no `toy` settings either. Otherwise it is left
out, and a line says so. A cell that a method's definition excludes is n/a in the table and has no set, picture or bar.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.api.running import run_all_cells
from ddbench.budget import Budget
from ddbench.distillation.method import Method, find_method, method_names
from ddbench.distillation.recipes import published, resolve
from ddbench.errors import UsageError
from ddbench.jobs.job import DataName, DistillJob, finished
from ddbench.jobs.sweep import Cell, Report
from ddbench.progress import Reporter
from ddbench.records.store import RecordStore, read_record
from ddbench.report.frame import results_frame
from ddbench.report.pictures import as_seen, draw_set
from ddbench.report.plots.images import images_side_by_side
from ddbench.report.plots.registry import plot_all
from ddbench.report.plots.style import save as save_plot
from ddbench.report.tables import render
from ddbench.synset.synset import SynSet, save
from ddbench.system.files import check_writable, write_atomic
from ddbench.training.compute import Compute

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DemoPlan:
    """Everything that the demo runs.

    Attributes:
        dataset: name of the data set.
        ipc: images per class of every method.
        lines: methods whose accuracy is drawn against IPC.
        line_ipcs: IPC values of these.
        protocol: protocol of every set.
        soft: methods that are also scored by `soft_protocol`, at `ipc`.
        soft_protocol: protocol with a reference teacher's labels.
        shipped: methods whose sets are also scored with their own training recipe, each beside `baseline` trained by the
            same recipe; two long trainings a seed.
        shipped_protocol: protocol of these.
        shipped_ipc: IPC of these where `lines` has such a set, else `ipc`: the recipes are long.
        baseline: the method of the matched-recipe baseline.
        seeds: evaluation seeds.
    """

    dataset: str = "digits"
    ipc: int = 3
    lines: tuple[str, ...] = ("random", "dm", "mtt")
    line_ipcs: tuple[int, ...] = (1, 3, 10)
    protocol: str = "hard-v1"
    soft: tuple[str, ...] = ("random", "dm", "datadam", "sre2l", "rded")
    soft_protocol: str = "soft-v1"
    shipped: tuple[str, ...] = ("dm", "mtt", "sre2l")
    shipped_protocol: str = "shipped-v1"
    shipped_ipc: int = 1
    baseline: str = "random"
    seeds: tuple[int, ...] = (0, 1, 2)


PLAN = DemoPlan()


@dataclass
class ChosenSets:
    """Sets that the demo distills.

    Attributes:
        main: by method, its one set at the plan's IPC, or at the nearest IPC.
        others: further sets, for the lines.
        left_out: why a method does not take part, one line each.
    """

    main: dict[str, DistillJob] = field(default_factory=dict)
    others: list[DistillJob] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass
class DemoResult:
    """Report of the demo's jobs, the files that it wrote, and the methods that were left out."""

    report: Report
    files: list[Path]
    left_out: list[str]


def choose(plan: DemoPlan, compute: Compute, methods: Sequence[str] | None = None) -> ChosenSets:
    """Choose the sets of the installed methods, or of those named; UsageError for an unknown name."""
    chosen = ChosenSets()
    for name in methods or method_names():
        try:
            method = find_method(name)
            jobs = [job for budget in _budgets(method, plan) if (job := _job(method, plan, budget, compute))]
        except UsageError as error:
            if methods:
                raise
            chosen.left_out.append(str(error))
            continue
        if not jobs:
            chosen.left_out.append(f"{name} has no recipe for {plan.dataset}")
            continue
        chosen.main[name] = jobs[0]
        if name in plan.lines:
            chosen.others += [job for job in jobs[1:] if job.resolved().budget.ipc in plan.line_ipcs]
    return chosen


def _budgets(method: Method, plan: DemoPlan) -> list[Budget]:
    """List the budgets to try, best first: the plan's, then those that the method has a recipe for, nearest first."""
    if method.budgets == ("all",):
        return [Budget()]
    sizes = [Budget(ipc=ipc) for ipc in (plan.ipc, *plan.line_ipcs)] if "ipc" in method.budgets else []
    own = [b for entry in published(method).recipe if entry.dataset == plan.dataset for b in entry.budgets()]
    own.sort(key=lambda budget: math.inf if budget.ipc is None else abs(budget.ipc - plan.ipc))
    return list(dict.fromkeys(sizes + own))


def _job(method: Method, plan: DemoPlan, budget: Budget, compute: Compute) -> DistillJob | None:
    """Return the job of a cell; None where the method has no recipe for it but needs one."""
    data = DataName(plan.dataset)
    if method.toy and not published(method).recipe:
        return None
    try:
        recipe = resolve(method, data.load(), budget)
    except UsageError:
        return None
    return DistillJob.of(data, recipe, 0, compute)


def first_cells(plan: DemoPlan, chosen: ChosenSets, compute: Compute) -> list[Cell]:
    """List the cells of all sets under the plan's protocol, and of some methods under the soft one."""
    pairs = [(job, plan.protocol) for job in [*chosen.main.values(), *chosen.others]]
    pairs += [(chosen.main[name], plan.soft_protocol) for name in plan.soft if name in chosen.main]
    return [_cell(plan, job, protocol, compute) for job, protocol in pairs]


def shipped_cells(plan: DemoPlan, chosen: ChosenSets, compute: Compute) -> list[Cell]:
    """List the cells of sets with a training recipe of their own, each with its matched-recipe baseline.

    Sets that are not distilled yet are passed over.
    """
    cells = []
    for name in plan.shipped:
        if name not in chosen.main:
            continue
        job = next((job for job in chosen.others if _is(job, name, plan.shipped_ipc)), chosen.main[name])
        synset = finished(job)
        if synset is None or synset.student_recipe is None:
            continue
        cells.append(_cell(plan, job, plan.shipped_protocol, compute))
        own = _baseline(plan, job, synset, compute) if plan.baseline in chosen.main else None
        if own is not None:
            cells.append(replace(_cell(plan, own, plan.shipped_protocol, compute), lender=job))
    return cells


def _is(job: DistillJob, method: str, ipc: int) -> bool:
    recipe = job.resolved()
    return recipe.method.name == method and recipe.budget.ipc == ipc


def _baseline(plan: DemoPlan, job: DistillJob, synset: SynSet, compute: Compute) -> DistillJob | None:
    """Return the baseline's job at the set's budget and in its space; None where it cannot be made."""
    method, budget = find_method(plan.baseline), job.resolved().budget
    try:
        recipe = resolve(method, job.data.load(), budget)
        if getattr(recipe.hyper, "space", None) != synset.space.kind:
            recipe = resolve(method, job.data.load(), budget, overrides={"space": synset.space.kind})
    except UsageError:
        return None
    return DistillJob.of(job.data, recipe, 0, compute)


def _cell(plan: DemoPlan, job: DistillJob, protocol: str, compute: Compute) -> Cell:
    return Cell(data=job.data, made=job, protocol=protocol, seeds=plan.seeds, compute=compute)


def run_demo(
    out: Path,
    *,
    plan: DemoPlan = PLAN,
    methods: Sequence[str] | None = None,
    workers: int = 1,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
) -> DemoResult:
    """Run the plan and write records, table, plots, pictures and sets below `out`; finished work is reused.

    Args:
        out: the folder.
        plan: what to run.
        methods: only these; None: all that are installed.
        workers: number of processes.
        compute: how to compute; None: `Compute.here()`.
        reporter: shows progress.

    Raises:
        UsageError: an unknown method, or a folder that cannot be written.
    """
    compute, reporter = compute or Compute.here(), reporter or Reporter()
    store = RecordStore(out / "records")
    check_writable(store.root / "record")
    chosen = choose(plan, compute, methods)
    report = Report()
    for cells_of in (first_cells, shipped_cells):
        cells = cells_of(plan, chosen, compute)
        report = _joined(report, run_all_cells(cells, store, workers=workers, reporter=reporter))
    reporter.line("drawing")
    frame = results_frame([read_record(path) for path in report.records])
    files = _write_table(frame, out)
    files += plot_all(frame, out / "plots", (".png",), workers)
    return DemoResult(report, files + _write_sets(chosen, out), chosen.left_out)


def _joined(first: Report, second: Report) -> Report:
    total = {each.name: getattr(first, each.name) + getattr(second, each.name) for each in fields(Report)}
    return Report(**{**total, "records": list(dict.fromkeys(total["records"]))})


def _write_table(frame: "pd.DataFrame", out: Path) -> list[Path]:
    tables = {out / "table.md": render(frame, "markdown"), out / "table.csv": render(frame, "csv", "long")}
    for path, text in tables.items():
        write_atomic(path, text)
    return list(tables)


def _write_sets(chosen: ChosenSets, out: Path) -> list[Path]:
    """Write every set that could be distilled, a picture of each, and all of them side by side."""
    written, rows = [], {}
    for name, job in chosen.main.items():
        synset = finished(job)
        if synset is None:
            continue
        data, stem = job.data.load(), f"{name}_{str(job.resolved().budget).replace(' ', '').lower()}"
        save(synset, out / "sets" / f"{stem}.safetensors")
        picture = draw_set(synset, data, out / "pictures" / f"{stem}.png")
        written += [out / "sets" / f"{stem}.safetensors", picture]
        rows[name] = as_seen(synset, data)[:2]
    if rows:
        figure = images_side_by_side(rows, data.class_names, f"{data.id}, the first image of each class")
        written.append(save_plot(figure, out / "plots" / "images.png"))
    return written
