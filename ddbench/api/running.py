"""Calls that distill, evaluate and run."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ddbench.api.planning import Steady, missing_work
from ddbench.budget import Budget
from ddbench.errors import UsageError
from ddbench.evaluation.from_tensors import Numbers, from_tensors
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.ddp import ONE_JOB, DDPExecutor
from ddbench.jobs.job import DataName, DistillJob, distill_job
from ddbench.jobs.pool import Engine
from ddbench.jobs.sweep import Cell, Report, Sweep, run_cells
from ddbench.progress import Reporter
from ddbench.records.record import Record
from ddbench.records.store import RecordStore, read_record
from ddbench.report.pictures import draw_set
from ddbench.settings import cache_dir, results_dir
from ddbench.synset import label_compression
from ddbench.synset.label_compression import Packing
from ddbench.synset.synset import SynSet, load, save
from ddbench.system.files import check_writable
from ddbench.training.compute import Compute


def distill(
    method: str,
    *,
    dataset: str = "digits",
    ipc: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    recipe: str | None = None,
    network: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    out: Path | str | None = None,
    dataset_name: str | None = None,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
) -> SynSet:
    """Distill a data set by a method, or take the same set from the cache.

    Args:
        method: name of the method.
        dataset: name of the data set, or "folder:PATH".
        ipc: images per class; or
        fraction: of the training split; neither for a method that takes everything.
        seed: synthesis seed.
        recipe: a published recipe's name, "generic", or a TOML file; None: the cell's default.
        network: distillation network, instead of the recipe's.
        overrides: hyper-parameters to change: a mapping, or "KEY=VALUE" words.
        out: file to write the set to as well.
        dataset_name: name of a folder data set in records.
        compute: how to compute; None: `Compute.here()`, as in all calls.
        reporter: shown the progress.

    Raises:
        UsageError: bad input. JobFailed: the method diverged. NotDefined: its definition excludes the cell.
    """
    if out is not None:
        check_writable(Path(out))
    job = distill_job_of(
        method,
        DataName(dataset, dataset_name),
        Budget(ipc, fraction),
        seed=seed,
        recipe=recipe,
        network=network,
        overrides=overrides,
        compute=compute,
    )
    synset = distill_job(job, reporter)
    if out is not None:
        save(synset, Path(out))
    return synset


def distill_job_of(
    method: str,
    data: DataName,
    budget: Budget,
    *,
    seed: int = 0,
    recipe: str | None = None,
    network: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    compute: Compute | None = None,
) -> DistillJob:
    """The job that `distill` runs, resolved and checked; see there."""
    one = Sweep(
        methods=[method],
        datasets=[data],
        budgets=[budget],
        protocols=[],
        synthesis_seeds=[seed],
        recipe=recipe,
        overrides=_words(overrides),
        distill_network=network,
        compute=compute or Compute.here(),
    )
    return one.distillations()[0]


def _words(overrides: Mapping[str, Any] | Sequence[str]) -> list[str]:
    """Changed hyper-parameters as "KEY=VALUE" words."""
    if not isinstance(overrides, Mapping):
        return list(overrides)
    return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]


def run(
    method: str,
    *,
    dataset: str = "digits",
    ipc: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    recipe: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    distill_network: str | None = None,
    protocols: Sequence[str] = ("hard-v1",),
    networks: Sequence[str | None] = (None,),
    seeds: int | Sequence[int] = 5,
    snapshots: Sequence[float] = (),
    dataset_name: str | None = None,
    compute: Compute | None = None,
    **how: Any,
) -> Report:
    """Distill one set, evaluate it and record the runs; what is cached or recorded is not made again.

    Args:
        method: see `distill`, as for all up to `distill_network`.
        dataset: see there.
        ipc: see there.
        fraction: see there.
        seed: see there.
        recipe: see there.
        overrides: see there.
        distill_network: distillation network, instead of the recipe's.
        protocols: what to score by.
        networks: student networks; None is each protocol's default.
        seeds: how many evaluation seeds (0, 1, ...), or which.
        snapshots: shares of the distillation, in [0, 1), at which the set is scored as well.
        dataset_name: name of a folder data set in records.
        compute: how to compute.
        how: see `sweep`.

    Raises:
        UsageError: bad input. A run that fails is recorded and reported.
    """
    one = Sweep(
        methods=[method],
        datasets=[DataName(dataset, dataset_name)],
        budgets=[Budget(ipc, fraction)],
        protocols=protocols,
        networks=networks,
        seeds=_seeds(seeds),
        synthesis_seeds=(seed,),
        recipe=recipe,
        overrides=_words(overrides),
        distill_network=distill_network,
        compute=compute or Compute.here(),
        snapshots=snapshots,
    )
    return sweep(one, **how)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)


def sweep(
    grid: Sweep,
    *,
    borrow: Path | str | None = None,
    results: Path | str | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    retry_failed: bool = False,
    again: bool = False,
    reporter: Reporter | None = None,
    observe: Callable[[Record], Record] | None = None,
) -> Report:
    """Distill, evaluate and record a grid: every combination that is not recorded yet.

    Args:
        grid: the combinations.
        borrow: file of a set whose student recipe all sets are trained by (baselines under `shipped-v1`).
        results: folder of records to add to; None: DDBENCH_RESULTS, else ./results/measured.
        workers: processes; results do not depend on how many.
        engine: runs the jobs elsewhere (`ddbench.jobs.ray_engine.RayEngine`); None: so many processes here.
        retry_failed: run failed runs again, and replace them.
        again: distill and train again, whatever is there, and replace the runs; experts and teachers stay.
        reporter: shown the progress.
        observe: see `ddbench.jobs.sweep.run_cells`.

    Raises:
        UsageError: bad input, before anything runs. A job that fails is recorded and reported.
    """
    store = RecordStore(Path(results) if results is not None else results_dir())
    cells = with_lender(grid.cells(), Path(borrow) if borrow is not None else None)
    report = run_all_cells(
        cells,
        store,
        workers=workers,
        engine=engine,
        retry_failed=retry_failed,
        again=again,
        reporter=reporter,
        observe=observe,
    )
    report.skipped += grid.without_snapshots()
    return report


def run_all_cells(cells: Sequence[Cell], store: RecordStore, *, reporter: Reporter | None = None, **how: Any) -> Report:
    """`run_cells`, with the folder checked first, and progress that counts all jobs from the start."""
    check_writable(store.root / "record")
    if reporter is not None:
        again = {name: how.get(name, False) for name in ("retry_failed", "again")}
        reporter = Steady(reporter, missing_work(cells, store, **again))
    return run_cells(cells, store, reporter=reporter, **how)


def with_lender(cells: Sequence[Cell], borrow: Path | None) -> list[Cell]:
    """The cells, trained by the student recipe of a set's file if one is given.

    Raises:
        UsageError: the file is no set or has no recipe, or a protocol uses a student recipe of its own.
    """
    if borrow is None:
        return list(cells)
    if load(borrow).student_recipe is None:
        raise UsageError(f"--borrow {borrow}: the set ships no student recipe")
    for cell in cells:
        if not find_protocol(cell.protocol).shipped:
            raise UsageError(f"--borrow goes with shipped-v1; {cell.protocol} has a student recipe of its own")
    return [replace(cell, lender=borrow) for cell in cells]


def pack_labels(
    synset: SynSet | Path | str,
    *,
    encoding: str = "fp16",
    topk: int | None = None,
    ratio: float | None = None,
    bytes: int | None = None,
    keep: str = "first",
    draw: str = "uniform",
    seed: int | None = None,
    dataset: str | None = None,
    dataset_name: str | None = None,
    out: Path | str | None = None,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
) -> SynSet:
    """Pack the soft labels of a set under a budget of bytes; see `ddbench.synset.label_compression`.

    Args:
        synset: a set, or its file.
        encoding: "fp16", "int8" or "topk".
        topk: for "topk": logits kept of a row.
        ratio: how many times fewer bytes than all label batches in fp16; or
        bytes: how many they may take; with neither, no label batch is dropped.
        keep: "first" or "random" label batches, where some are dropped.
        draw: how a training takes them: "uniform" or "cycle".
        seed: of the stream whose batches online teachers label; None: the set's synthesis seed, else 0.
        dataset: needed for a set made on a folder ("folder:PATH").
        dataset_name: name of a folder data set in records.
        out: file to write the set to as well.
        compute: how to compute.
        reporter: shown the progress.

    Raises:
        UsageError: bad input, nothing that fits, a teacher that is not in the cache.
        JobFailed: a logit is not finite, or beyond what the encoding holds.
    """
    words: dict[str, Any] = {"encoding": encoding, "keep": keep, "draw": draw}
    packing = Packing(topk=topk, ratio=ratio, bytes=bytes, **words)
    own, data = loaded_set(synset, dataset, dataset_name)
    if out is not None:
        check_writable(Path(out))
    show = reporter or Reporter()

    def loop(start: int, total: int) -> Iterator[int]:
        for step in range(start, total):
            yield step
            show.advance("packing labels", step + 1, total)

    device = (compute or Compute.here()).apply()
    made = label_compression.pack_labels(own, data.load(), packing, device, seed=seed, loop=loop)
    if out is not None:
        save(made, Path(out))
    return made


def evaluate(
    images: Numbers | SynSet | Path | str,
    labels: Numbers | None = None,
    *,
    dataset: str | None = None,
    protocol: str = "hard-v1",
    network: str | None = None,
    seeds: int | Sequence[int] = 5,
    space: str = "normalised",
    soft_labels: Numbers | None = None,
    syn_lr: float | None = None,
    name: str | None = None,
    borrow: Path | str | None = None,
    dataset_name: str | None = None,
    results: Path | str | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    compute: Compute | None = None,
    retry_failed: bool = False,
    reporter: Reporter | None = None,
    observe: Callable[[Record], Record] | None = None,
) -> Record:
    """Train and test students on a set, from a file or from anyone's own loop.

    Args:
        images: floats [n, C, H, W] in `space` with `labels`, a tensor, an array or lists; a `SynSet`; or a set's file.
        labels: int64 [n] classes, for a tensor.
        dataset: name of the data set; needed for a tensor, and for a set made on a folder ("folder:PATH").
        protocol: what to score by.
        network: student network; None is the protocol's default.
        seeds: how many evaluation seeds (0, 1, ...), or which.
        space: of images in memory: "pixel", "normalised" or "zca".
        soft_labels: logits [n, K] that go with images in memory, for `shipped-v1`.
        syn_lr: learned step size that goes with images in memory: the set then ships a student recipe with it.
        name: method name of an imported set, for tables; None: the one given when it was imported.
        borrow: file of a set whose student recipe this one is trained by (a baseline under `shipped-v1`).
        dataset_name: name of a folder data set in records.
        results: folder of records to add to; None keeps no record on disk.
        workers: processes; 1 stays in this one.
        engine: runs the students elsewhere; None: processes of this machine, as many as `compute.devices` together.
        compute: how to compute.
        reporter: shown the progress.
        retry_failed: run failed runs again.
        observe: see `ddbench.jobs.sweep.run_cells`.

    Returns:
        The record with all its runs of this set: those made now and those that were there.

    Raises:
        UsageError: bad input, also where the protocol does not apply to the set.
    """
    compute = compute or Compute.here()
    if engine is None and compute.devices > 1:
        if workers > 1:
            raise UsageError(ONE_JOB)
        engine = DDPExecutor(compute.devices)
    if not isinstance(images, SynSet | Path | str):
        if labels is None or dataset is None:
            raise UsageError("images need labels and the name of their data set")
        images = from_tensors(
            images,
            labels,
            DataName(dataset, dataset_name).load(),
            space=space,
            soft_labels=soft_labels,
            syn_lr=syn_lr,
            name=name or "imported",
        )
    synset, data = loaded_set(images, dataset, dataset_name)
    cell = Cell(
        data=data,
        file=_park(synset) if isinstance(images, SynSet) else Path(images),
        protocol=protocol,
        network=network,
        seeds=_seeds(seeds),
        compute=compute,
        lender=Path(borrow) if borrow else None,
        label=name,
    )
    with tempfile.TemporaryDirectory() as nowhere:
        report = run_cells(
            [cell],
            RecordStore(Path(results) if results is not None else Path(nowhere)),
            workers=workers,
            engine=engine,
            retry_failed=retry_failed,
            reporter=reporter,
            observe=observe,
        )
        if report.problems or report.skipped:
            raise UsageError((report.problems + report.skipped)[0])
        return read_record(report.records[0])


def loaded_set(synset: SynSet | Path | str, dataset: str | None, dataset_name: str | None) -> tuple[SynSet, DataName]:
    """A set, and the data set that it stands for; UsageError where that is a folder and its place is not given."""
    synset = synset if isinstance(synset, SynSet) else load(Path(synset))
    if dataset is None and "@" in synset.dataset:
        raise UsageError(f"the set was made on the folder {synset.dataset}: say where it is: dataset folder:PATH")
    return synset, DataName(dataset or synset.dataset, dataset_name)


def draw(
    synset: SynSet | Path | str, out: Path | str, *, dataset: str | None = None, dataset_name: str | None = None
) -> Path:
    """Draw the images of a set as PNG, a row per class; `dataset` and `dataset_name` are needed for a folder's."""
    loaded, data = loaded_set(synset, dataset, dataset_name)
    return draw_set(loaded, data.load(), Path(out))


def _park(synset: SynSet) -> Path:
    """Keep a set that has no file in the cache, by its hash, so that workers can read it."""
    path = cache_dir() / "imported" / f"{synset.hash}.safetensors"
    save(synset, path)
    return path
