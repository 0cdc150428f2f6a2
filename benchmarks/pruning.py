"""Keeping real images: time and memory of training dynamics and graph cut, and what the records say.

    python benchmarks/pruning.py dynamics [--dataset fashion-mnist --fraction 0.1 --threads 2]
    python benchmarks/pruning.py cut [--count 500]
    python benchmarks/pruning.py table [--results results/measured] [--dataset fashion-mnist]

`dynamics` makes the training dynamics of a data set's default `prune` recipe (those that its sweeps then find in the
cache) and prints time and peak memory above the baseline, of which the split in memory is a part. `cut` times graph cut
at n = 5,000 and 20,000. `table` prints every pruned cell beside `random` at the same budget.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from ddbench.methods.engines.selection.dynamics import dynamics_of
from ddbench.methods.engines.selection.graph_cut import Cosine, LastLayer, graph_cut

from ddbench.budget import Budget
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task
from ddbench.progress import LineReporter
from ddbench.randomness import rng
from ddbench.records.statistics import compare, summarize
from ddbench.records.store import RecordStore
from ddbench.report.format import between, percent, signed
from ddbench.report.frame import SETTING, results_frame
from ddbench.training.memory import Meter

CPU = torch.device("cpu")
FAMILY = ("prune", "prune-kd", "pca", "dq")


def dynamics(name: str, fraction: float, threads: int) -> None:
    """Make them and say what that took."""
    torch.set_num_threads(threads)
    data, method = load_dataset(name), find_method("prune")
    recipe = resolve(method, data, Budget(fraction=fraction))
    task = Task(data, recipe.budget, recipe.network, 0, CPU, reporter=LineReporter())
    with Meter(CPU) as meter:
        found = dynamics_of(task, recipe.hyper)
    epochs, count = found.runs[0].error.shape
    print(f"{name}: {count:,} images, {recipe.network}, {epochs} epochs, {threads} threads")
    print(f"{meter.seconds / 60:.1f} min, peak {(meter.peak_memory or 0) / 2**20:.0f} MiB above the baseline")


def cut(count: int) -> None:
    """Time choices at two sizes; O(n) for each means four times as long at four times the size."""
    print("| similarity | n | set-up, s | a choice, ms | peak, MiB |\n| --- | --- | --- | --- | --- |")
    for size in (5_000, 20_000):
        generator = rng(0, "cut", size)
        features = torch.randn(size, 512, generator=generator)
        delta = torch.randn(size, 10, generator=generator)
        for label, make in (
            ("cosine", partial(Cosine.of, features)),
            ("last layer", partial(LastLayer.of, delta, features)),
        ):
            with Meter(CPU) as meter:
                started = time.perf_counter()
                similarity = make()
                graph_cut(similarity, 1)
                ready = time.perf_counter()
                graph_cut(similarity, count)
                each = (time.perf_counter() - ready) / count
            print(
                f"| {label} | {size:,} | {ready - started:.2f} | {1000 * each:.2f} | {(meter.peak_memory or 0) / 2**20:.0f} |"
            )


def table(results: Path, dataset: str | None) -> None:
    """The family's cells, each beside `random` at its budget and protocol, paired over seeds."""
    frame = results_frame(RecordStore(results))
    frame = frame[(frame["status"] == "ok") & ((frame["dataset"] == dataset) | (dataset is None))]
    print(
        "| data set | protocol | budget | method | recipe | n | accuracy, % | 95 % interval | against random, points |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for where, group in frame.groupby(["dataset", "protocol", "student", "budget"], sort=True):
        base = group[(group["method"] == "random") & group["borrowed"].isna()]
        for _, cell in group[group["method"].isin(FAMILY) | (group["method"] == "random")].iterrows():
            if cell["borrowed"] is not None and cell["borrowed"] == cell["borrowed"]:
                continue
            own, against = summarize(cell["samples"]), "—"
            alike = base[(base[list(SETTING)] == cell[list(SETTING)]).all(axis=1)]
            if cell["method"] != "random" and len(alike) == 1:
                found = compare(cell["samples"], alike.iloc[0]["samples"])
                ends = "" if found.low is None else f" ({between(found.low, found.high, signed)})"
                against = signed(found.mean) + ends
            print(
                f"| {where[0].partition('@')[0]} | {where[1]} | {where[3]} | {cell['method']} | {cell['recipe']} | {own.n} "
                f"| {percent(own.mean)} | {between(own.low, own.high)} | {against} |"
            )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["dynamics", "cut", "table"])
    parser.add_argument("--dataset")
    parser.add_argument("--fraction", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--results", type=Path, default=Path("results/measured"))
    chosen = parser.parse_args()
    if chosen.what == "dynamics":
        dynamics(chosen.dataset or "fashion-mnist", chosen.fraction, chosen.threads)
    elif chosen.what == "cut":
        cut(chosen.count)
    else:
        table(chosen.results, chosen.dataset)


if __name__ == "__main__":
    main()
