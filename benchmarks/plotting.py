"""CPU seconds from 2,000 generated records to every table and every plot in three formats: `python benchmarks/plotting.py`.

The records are made up: two data sets, twelve methods, random and whole, three IPCs, five protocol and student pairs,
snapshots under one of them; five synthesis seeds, three evaluation seeds each.
"""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from ddbench import plots, tables
from ddbench.canonical import digest
from ddbench.cells import cells
from ddbench.randomness import rng
from ddbench.records import Record
from ddbench.store import RecordStore

METHODS = ("ast", "cda", "datadam", "datm", "dm", "ftd", "herding", "mtt", "rded", "sre2l", "tesla", "random")
PLACES = (
    ("hard-v1", "convnet-d3"),
    ("hard-v1", "resnet18"),
    ("hard-v1", "vgg11"),
    ("soft-v1", "resnet18"),
    ("shipped-v1", "convnet-d3"),
)
DATASETS = {"cifar10": 0.45, "cifar100": 0.25}
BUDGETS: tuple[dict[str, Any], ...] = ({"ipc": 1}, {"ipc": 10}, {"ipc": 50})
SEEDS, EVALUATIONS, STEPS = 5, 3, 5000


def noise(*key: Any) -> float:
    """A number in [0, 1) that only its key decides."""
    import torch

    return float(torch.rand((), generator=rng(0, "plotting", *map(str, key))))


def a_record(
    method: str, dataset: str, budget: dict[str, Any], place: tuple[str, str], seed: int, lender: str = ""
) -> Record:
    """One record with its runs."""
    protocol, student = place
    ipc = budget.get("ipc", 500)
    recipe = {"method": method, "name": "paper", "dataset": dataset, "budget": budget}
    synset = digest([recipe, seed])
    level = DATASETS[dataset] * (0.5 + 0.5 * noise(method)) + 0.08 * math.log10(ipc) + 0.1 * noise(method, ipc, place)
    runs = []
    for evaluation in range(EVALUATIONS):
        top1 = min(0.99, level + 0.02 * noise(method, dataset, ipc, place, seed, evaluation))
        about = {"seed": evaluation, "synset": synset, "device": "cpu", "precision": "float32", "threads": 1}
        about |= {"build": "2.9.0", "date": "2026-01-31T12:00:00+00:00", "status": "ok", "top1": top1, "seconds": 20.0}
        if place == PLACES[0] and method not in ("random", "herding", "rded", "whole"):
            points = [(step, top1 * (1 - 0.5 * math.exp(-4 * step / STEPS))) for step in range(0, STEPS, STEPS // 5)]
            about["snapshots"] = [{"step": step, "top1": value} for step, value in [*points, (STEPS, top1)]]
        runs.append(about)
    facts = {"images": ipc * 10, "bytes": {"images": ipc * 30_000 * (1 if method == "random" else 2)}}
    facts["cost"] = {"seconds": 1 + 5000 * noise("cost", method) * math.sqrt(ipc), "peak_memory": 1e9}
    plain = {"protocol": protocol, "protocol_version": 1, "protocol_digest": digest(protocol), "dataset": dataset}
    plain |= {"budget": budget, "student_network": student, "distill_network": "convnet-d3", "method": method}
    plain |= {"recipe": recipe, "recipe_hash": digest(recipe), "synthesis_seed": seed, "runs": runs}
    if lender:
        lent = {"method": lender, "name": "paper", "dataset": dataset, "budget": budget}
        plain |= {"borrowed": lender, "lender": digest(lent)}
    return Record.model_validate({**plain, "synsets": {synset: facts}})


def records() -> Iterator[Record]:
    """All of them."""
    for dataset, place in product(DATASETS, PLACES):
        for method, budget, seed in product(METHODS, BUDGETS, range(SEEDS)):
            if not (place[0] == "shipped-v1" and method == "random"):
                yield a_record(method, dataset, budget, place, seed)
        if place[0] == "shipped-v1":
            for lender, budget, seed in product(METHODS[:-1], BUDGETS, range(SEEDS)):
                yield a_record("random", dataset, budget, place, seed, lender)
        else:
            yield a_record("whole", dataset, {"all": True}, place, 0)


def main() -> None:
    """Print what each part takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="folder to keep the files in")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = given.out or Path(folder) / "out"
        store = RecordStore(Path(folder) / "records")
        for record in records():
            store.add(record)
        print(f"{len(store.paths())} records")
        clock = [(time.perf_counter(), cpu())]

        def lap(what: str) -> None:
            clock.append((time.perf_counter(), cpu()))
            (wall, used), (before, spent) = clock[-1], clock[-2]
            print(f"{what}: {used - spent:.1f} CPU-s, {wall - before:.1f} s")

        frame = cells(store)
        lap("reading and pooling")
        for form, view in product(tables.FORMATS, tables.VIEWS):
            (out / "tables").mkdir(parents=True, exist_ok=True)
            (out / "tables" / f"{view}.{form}").write_text(tables.render(frame, form, view))
        lap("tables")
        written = plots.plot_all(frame, out / "plots")
        lap(f"{len(written)} plots")
        print(f"together: {clock[-1][1] - clock[0][1]:.1f} CPU-s, {clock[-1][0] - clock[0][0]:.1f} s")


def cpu() -> float:
    """CPU seconds of this process and of its children that ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


if __name__ == "__main__":
    main()
