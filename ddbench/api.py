"""The Python calls behind every command. `import ddbench` offers them by name; nothing here prints."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddbench.budget import Budget
from ddbench.errors import UsageError
from ddbench.evaluation.from_tensors import Numbers, from_tensors
from ddbench.jobs.ddp import ONE_JOB, DDPExecutor
from ddbench.jobs.job import DataName, DistillJob, distill_job
from ddbench.jobs.pool import Engine
from ddbench.jobs.sweep import Cell, Grid, Report, run_cells
from ddbench.progress import Reporter
from ddbench.records.record import Record
from ddbench.records.store import RecordStore, read_record
from ddbench.settings import cache_dir, default_compile, default_device, default_precision, default_threads, results_dir
from ddbench.synset import label_compression
from ddbench.synset.label_compression import Packing
from ddbench.synset.synset import SynSet, load, save
from ddbench.system.environment import find_device
from ddbench.system.files import check_writable
from ddbench.training.compute import Compute
from ddbench.training.precision import checked_switch, chosen_precision


def setting(
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    compile: str | None = None,
    *,
    elsewhere: bool = False,
    devices: int = 1,
) -> Compute:
    """How to compute.

    Args:
        device: "cpu", "cuda" or "auto", CUDA where there is one; None: DDBENCH_DEVICE, else auto.
        threads: per job, on a CPU; None: DDBENCH_THREADS, else 1.
        precision: of the students' steps: "float32", "bf16", or "auto", bf16 where it is admitted to results (on CPUs)
            and the device has it; None: DDBENCH_PRECISION, else float32.
        compile: whether the students' steps are compiled: "on", "off", or "auto", where that repays its set-up; None:
            DDBENCH_COMPILE, else off.
        elsewhere: jobs run on other machines, so that CUDA may be asked for where there is none.
        devices: that train a student, or a teacher, together, of all nodes.

    On one CUDA device all students of a cell train at once.

    Raises:
        UsageError: a word that is none of these, or what this machine cannot do.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    asked = device or default_device()
    found = asked if elsewhere and asked == "cuda" else find_device(asked).type
    switch = checked_switch(compile or default_compile(), found)
    if devices > 1 and switch == "on":
        raise UsageError("compile on: not where several devices train together")
    return Compute(
        device=found,
        threads=threads or default_threads(),
        precision=chosen_precision(precision or default_precision(), found),
        compile=switch,
        stack=found == "cuda" and devices == 1,
        devices=devices,
    )


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
    device: str | None = None,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> SynSet:
    """Distil a data set by a method, or take the same set from the cache.

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
        device: see `setting`.
        threads: see `setting`.
        reporter: shown the progress.

    Raises:
        UsageError: bad input. JobFailed: the method diverged. NotDefined: its definition excludes the cell.
    """
    if out is not None:
        check_writable(Path(out))
    job = distillation(
        method,
        DataName(dataset, dataset_name),
        Budget(ipc, fraction),
        seed=seed,
        recipe=recipe,
        network=network,
        overrides=overrides,
        how=setting(device, threads),
    )
    synset = distill_job(job, reporter)
    if out is not None:
        save(synset, Path(out))
    return synset


def distillation(
    method: str,
    data: DataName,
    budget: Budget,
    *,
    seed: int = 0,
    recipe: str | None = None,
    network: str | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    how: Compute,
) -> DistillJob:
    """The job that `distill` runs, resolved and checked; see there."""
    words = [f"{k}={_word(v)}" for k, v in overrides.items()] if isinstance(overrides, Mapping) else list(overrides)
    grid = Grid(
        methods=[method],
        datasets=[data],
        budgets=[budget],
        protocols=[],
        synthesis_seeds=[seed],
        recipe=recipe,
        overrides=words,
        distill_network=network,
        setting=how,
    )
    return grid.distillations()[0]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


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
    device: str | None = None,
    threads: int | None = None,
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
        device: see `setting`.
        threads: see `setting`.
        reporter: shown the progress.

    Raises:
        UsageError: bad input, nothing that fits, a teacher that is not in the cache.
        JobFailed: a logit is not finite, or beyond what the encoding holds.
    """
    words: dict[str, Any] = {"encoding": encoding, "keep": keep, "draw": draw}
    packing = Packing(topk=topk, ratio=ratio, bytes=bytes, **words)
    own, data = _as_set(synset, None, dataset, dataset_name, "", None, None, "")
    if out is not None:
        check_writable(Path(out))
    show = reporter or Reporter()

    def loop(start: int, total: int) -> Iterator[int]:
        for step in range(start, total):
            yield step
            show.advance("packing labels", step + 1, total)

    made = label_compression.pack_labels(
        own, data.load(), packing, setting(device, threads).apply(), seed=seed, loop=loop
    )
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
    devices: int = 1,
    device: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    compile: str | None = None,
    retry_failed: bool = False,
    quiet: bool = False,
    reporter: Reporter | None = None,
    observe: Callable[[Record], Record] | None = None,
) -> Record:
    """Train and test students on a set, from a file or from anyone's own loop.

    Args:
        images: floats [n, C, H, W] in `space` with `labels`, a tensor, NumPy array or list; a `SynSet`; or a set's file.
        labels: classes [n], whole numbers, that go with images in memory.
        dataset: name of the data set; needed for images in memory, and for a set made on a folder ("folder:PATH").
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
        devices: processes that train each student together, one student at a time (`ddbench.training.distributed`).
        device: see `setting`.
        threads: see `setting`.
        precision: see `setting`.
        compile: see `setting`.
        quiet: of several devices, the first does not tell its progress.
        reporter: shown the progress.
        retry_failed: run failed runs again.
        observe: see `ddbench.jobs.sweep.run_cells`.

    Returns:
        The record with all its runs of this set: those made now and those that were there.

    Raises:
        UsageError: bad input, also where the protocol does not apply to the set.
    """
    if devices > 1 and workers > 1:
        raise UsageError(ONE_JOB)
    synset, data = _as_set(images, labels, dataset, dataset_name, space, soft_labels, syn_lr, name or "imported")
    path = Path(images) if isinstance(images, str | Path) else _park(synset)
    cell = Cell(
        data=data,
        file=path,
        protocol=protocol,
        network=network,
        seeds=tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds),
        setting=setting(device, threads, precision, compile, devices=devices),
        lender=Path(borrow) if borrow else None,
        label=name,
    )
    with tempfile.TemporaryDirectory() as nowhere:
        store = RecordStore(Path(results) if results is not None else Path(nowhere))
        report = run_cells(
            [cell],
            store,
            workers=workers,
            engine=DDPExecutor(devices, quiet=quiet) if devices > 1 else None,
            retry_failed=retry_failed,
            reporter=reporter,
            observe=observe,
        )
        if report.problems or report.skipped:
            raise UsageError((report.problems + report.skipped)[0])
        return read_record(report.records[0])


def _as_set(
    images: Numbers | SynSet | Path | str,
    labels: Numbers | None,
    dataset: str | None,
    dataset_name: str | None,
    space: str,
    soft_labels: Numbers | None,
    syn_lr: float | None,
    name: str,
) -> tuple[SynSet, DataName]:
    if not isinstance(images, SynSet | Path | str):
        if labels is None or dataset is None:
            raise UsageError("images in memory need labels and the name of their data set")
        data = DataName(dataset, dataset_name)
        made = from_tensors(images, labels, data.load(), space=space, soft_labels=soft_labels, syn_lr=syn_lr, name=name)
        return made, data
    synset = images if isinstance(images, SynSet) else load(Path(images))
    if dataset is None and "@" in synset.dataset:
        raise UsageError(f"the set was made on the folder {synset.dataset}: say where it is with dataset=folder:PATH")
    return synset, DataName(dataset or synset.dataset, dataset_name)


def _park(synset: SynSet) -> Path:
    """Keep a set that has no file in the cache, by its hash, so that workers can read it."""
    path = cache_dir() / "imported" / f"{synset.hash}.safetensors"
    save(synset, path)
    return path


def sweep(
    grid: Grid,
    *,
    results: Path | str | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    retry_failed: bool = False,
    again: bool = False,
    reporter: Reporter | None = None,
    observe: Callable[[Record], Record] | None = None,
) -> Report:
    """Distil, evaluate and record a grid; whatever the store has is not run again. See `Grid` and `run_cells`."""
    store = RecordStore(Path(results) if results is not None else results_dir())
    check_writable(store.root / "record")
    report = run_cells(
        grid.cells(),
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
