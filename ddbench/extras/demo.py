"""The demo: every installed method on the embedded digits, scored, drawn and tabulated. The plan is data.

A method takes part with its published recipes for the data set, at the plan's IPC or, where it has none for that, at
the IPC that comes nearest. One that has none at all takes part if it needs none, that is if it names no cheaper `toy`
settings either; else it is left out, and a line says so. A cell that a method's definition excludes is n/a in the
table, has no set, picture or bar, and its reason is among what the report skipped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.budget import Budget
from ddbench.data.dataset import Dataset
from ddbench.distillation.method import Method, find_method, method_names
from ddbench.distillation.recipes import published, resolve
from ddbench.errors import UsageError
from ddbench.jobs.job import DataName, DistillJob, finished
from ddbench.jobs.sweep import Cell, Report, run_cells
from ddbench.progress import Reporter
from ddbench.records.store import RecordStore, read_record
from ddbench.synset.synset import SynSet, save
from ddbench.system.files import check_writable, write_atomic
from ddbench.training.compute import Compute

if TYPE_CHECKING:
    import pandas as pd
    import torch


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        dataset: its name.
        ipc: images per class of every method.
        lines: methods whose accuracy is drawn against IPC.
        line_ipcs: at these.
        protocol: what everything is scored by.
        soft: methods that are also scored by `soft_protocol`, at `ipc`.
        soft_protocol: with the reference teacher's labels.
        shipped: methods whose sets are also scored with the student recipe that they ship, each beside `baseline`
            trained by the same recipe; two long trainings a seed.
        shipped_protocol: by this protocol.
        shipped_ipc: at this IPC where the method has a set of it among the lines, else at `ipc`: such recipes are long.
        baseline: that method.
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


PLAN = Plan()


@dataclass
class Chosen:
    """Which sets are made.

    Attributes:
        shown: by method, the one set that stands for it: at the plan's IPC, or what comes nearest to it.
        more: further sets for the lines.
        left_out: why a method does not take part, as lines.
    """

    shown: dict[str, DistillJob] = field(default_factory=dict)
    more: list[DistillJob] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What the demo did: the report of its jobs, the files it wrote, and who was left out."""

    report: Report
    files: list[Path]
    left_out: list[str]


def choose(plan: Plan, setting: Compute, methods: Sequence[str] | None = None) -> Chosen:
    """The sets of the plan for the installed methods, or for those named; UsageError for an unknown name."""
    chosen = Chosen()
    for name in methods or method_names():
        try:
            method = find_method(name)
            budgets = _budgets(method, plan)
            jobs = [job for budget in budgets if (job := _job(method, plan, budget, setting))]
        except UsageError as error:
            if methods:
                raise
            chosen.left_out.append(str(error))
            continue
        if not jobs:
            chosen.left_out.append(f"{name} has no recipe for {plan.dataset}")
            continue
        chosen.shown[name] = jobs[0]
        if name in plan.lines:
            chosen.more += [job for job in jobs[1:] if job.resolved().budget.ipc in plan.line_ipcs]
    return chosen


def _budgets(method: Method, plan: Plan) -> list[Budget]:
    """What to try for a method, in order: the plan's IPC, those of the lines, and what its recipes are for, nearest first."""
    if method.budgets == ("all",):
        return [Budget()]
    sizes = [Budget(ipc=ipc) for ipc in (plan.ipc, *plan.line_ipcs)] if "ipc" in method.budgets else []
    own = [b for entry in published(method).recipe if entry.dataset == plan.dataset for b in entry.budgets()]
    own.sort(key=lambda budget: math.inf if budget.ipc is None else abs(budget.ipc - plan.ipc))
    return list(dict.fromkeys(sizes + own))


def _job(method: Method, plan: Plan, budget: Budget, setting: Compute) -> DistillJob | None:
    """The job, or None where the method has no recipe for the cell but needs one."""
    data = DataName(plan.dataset)
    if method.toy and not published(method).recipe:
        return None
    try:
        recipe = resolve(method, data.load(), budget)
    except UsageError:
        return None
    return DistillJob.of(data, recipe, 0, setting)


def first_cells(plan: Plan, chosen: Chosen, setting: Compute) -> list[Cell]:
    """Everything under the plan's protocol, a few methods under the soft one."""
    jobs = [*chosen.shown.values(), *chosen.more]
    pairs = [(job, plan.protocol) for job in jobs]
    pairs += [(chosen.shown[name], plan.soft_protocol) for name in plan.soft if name in chosen.shown]
    return [_cell(plan, job, protocol, setting) for job, protocol in pairs]


def shipped_cells(plan: Plan, chosen: Chosen, setting: Compute) -> list[Cell]:
    """The sets that ship a student recipe, each with the baseline that borrows it; they have to be there by now."""
    cells = []
    for name, shown in ((name, job) for name, job in chosen.shown.items() if name in plan.shipped):
        job = next((j for j in chosen.more if _is(j, name, plan.shipped_ipc)), shown)
        synset = finished(job)
        if synset is None or synset.student_recipe is None:
            continue
        cells.append(_cell(plan, job, plan.shipped_protocol, setting))
        own = _baseline(plan, job, synset, setting) if plan.baseline in chosen.shown else None
        if own is not None:
            cells.append(replace(_cell(plan, own, plan.shipped_protocol, setting), lender=job))
    return cells


def _is(job: DistillJob, method: str, ipc: int) -> bool:
    recipe = job.resolved()
    return recipe.method.name == method and recipe.budget.ipc == ipc


def _baseline(plan: Plan, job: DistillJob, synset: SynSet, setting: Compute) -> DistillJob | None:
    """The baseline at the set's budget and in its space; None where it cannot be made so."""
    method, budget = find_method(plan.baseline), job.resolved().budget
    overrides = {"space": synset.space.kind}
    try:
        recipe = resolve(method, job.data.load(), budget)
        if getattr(recipe.hyper, "space", None) != synset.space.kind:
            recipe = resolve(method, job.data.load(), budget, overrides=overrides)
    except UsageError:
        return None
    return DistillJob.of(job.data, recipe, 0, setting)


def _cell(plan: Plan, job: DistillJob, protocol: str, setting: Compute) -> Cell:
    return Cell(data=job.data, made=job, protocol=protocol, seeds=plan.seeds, compute=setting)


def run_demo(
    out: Path,
    *,
    plan: Plan = PLAN,
    methods: Sequence[str] | None = None,
    workers: int = 1,
    setting: Compute | None = None,
    reporter: Reporter | None = None,
    counted: Callable[[Sequence[Cell], RecordStore, Reporter], Reporter] | None = None,
) -> Outcome:
    """Run the plan and write records, table, plots, pictures and sets below `out`; what is there is reused.

    Args:
        out: the folder.
        plan: what to run.
        methods: only these; None: all that are installed.
        workers: processes.
        setting: how to compute.
        reporter: shows progress.
        counted: wraps the reporter once the cells are known, so that it can count ahead.

    Raises:
        UsageError: an unknown method, or a folder that cannot be written.
    """
    how, show = setting or Compute(), reporter or Reporter()
    store = RecordStore(out / "records")
    check_writable(store.root / "record")
    chosen = choose(plan, how, methods)
    report = Report()
    for cells_of in (first_cells, shipped_cells):
        todo = cells_of(plan, chosen, how)
        watching = counted(todo, store, show) if counted else show
        part = run_cells(todo, store, workers=workers, reporter=watching)
        report = _joined(report, part)
    from ddbench.report.frame import results_frame

    show.line("drawing")
    frame = results_frame([read_record(path) for path in report.records])
    files = _write_table(frame, out) + _write_plots(frame, out) + _write_sets(chosen, out)
    return Outcome(report, files, chosen.left_out)


def _joined(first: Report, second: Report) -> Report:
    return Report(
        reused=first.reused + second.reused,
        done=first.done + second.done,
        snapshots=first.snapshots + second.snapshots,
        failed=first.failed + second.failed,
        skipped=first.skipped + second.skipped,
        problems=first.problems + second.problems,
        records=list(dict.fromkeys(first.records + second.records)),
    )


def _write_table(frame: "pd.DataFrame", out: Path) -> list[Path]:
    from ddbench.report.tables import render

    written = [out / "table.md", out / "table.csv"]
    write_atomic(written[0], render(frame, "markdown"))
    write_atomic(written[1], render(frame, "csv", "long"))
    return written


def _write_plots(frame: "pd.DataFrame", out: Path) -> list[Path]:
    """Accuracy against IPC, bytes and seconds where there are several IPCs; bars and comparisons of every IPC."""
    from ddbench.report import plots

    frame = plots.labelled(frame)
    good = frame[frame["status"] == "ok"]
    figures = {}
    for (dataset, protocol, student), part in good.groupby(["dataset", "protocol", "student"]):
        if part["ipc"].nunique() > 1:
            figures[f"accuracy-ipc_{protocol}"] = plots.accuracy_against_ipc(frame, dataset, protocol, student)
            figures[f"accuracy-bytes_{protocol}"] = plots.accuracy_against_bytes(frame, dataset, protocol, student)
            if (part["distill_seconds"] > 0).any():
                seconds = plots.accuracy_against_seconds(frame, dataset, protocol, student)
                figures[f"accuracy-seconds_{protocol}"] = seconds
    for (dataset, budget), part in good[good["budget"] != "all"].groupby(["dataset", "budget"]):
        figures[f"bars_{budget.replace(' ', '')}"] = plots.bars(frame, dataset, budget)
        more = plots.comparisons(frame, part, dataset, budget)
        figures |= {name.replace(f"_{dataset}", "").replace(" ", ""): make() for name, make in more}
    return [plots.save(figure, out / "plots" / f"{name}.png") for name, figure in figures.items()]


def _write_sets(chosen: Chosen, out: Path) -> list[Path]:
    """Every method's set that could be made, its picture, and all of them side by side."""
    from ddbench.report import plots

    written, rows = [], {}
    for name, job in chosen.shown.items():
        synset = finished(job)
        if synset is None:
            continue
        stem = f"{name}_{str(job.resolved().budget).replace(' ', '').lower()}"
        save(synset, out / "sets" / f"{stem}.safetensors")
        picture = draw_set(synset, job.data.load(), out / "pictures" / f"{stem}.png")
        written += [out / "sets" / f"{stem}.safetensors", picture]
        rows[name] = shown(synset, job.data.load())[:2]
    if rows:
        dataset = next(iter(chosen.shown.values())).data.load()
        figure = plots.images_side_by_side(rows, dataset.class_names, f"{dataset.id}, the first image of each class")
        written.append(plots.save(figure, out / "plots" / "images.png"))
    return written


def draw_set(synset: SynSet, dataset: Dataset, path: Path) -> Path:
    """Draw a set's images, a row per class, as PNG."""
    from ddbench.report.pictures import picture_grid

    pixels, classes, title = shown(synset, dataset)
    return picture_grid(pixels, classes, synset.class_names, path, title=title)


def shown(synset: SynSet, dataset: Dataset) -> "tuple[torch.Tensor, torch.Tensor, str]":
    """A set as a student sees it, views expanded: pixels [N, C, H, W], not clamped; classes [N]; a title.

    Of views that are drawn, the stored images.
    """
    from ddbench.data.spaces import transform_for
    from ddbench.synset.views import expand

    images, classes = expand(synset, dataset)
    counts = classes.bincount(minlength=len(synset.class_names)).tolist()
    each = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    title = f"{synset.provenance.method} on {synset.dataset}, {each} per class{_made(synset)}"
    return transform_for(synset.space, dataset).decode(images), classes, title


def _made(synset: SynSet) -> str:
    """What a set's views do, in a title."""
    from ddbench.synset.views import drawn

    if synset.views is None:
        return ""
    return f", made of {len(synset)} stored" if drawn(synset) is None else f", shown by {synset.views.kind}"
