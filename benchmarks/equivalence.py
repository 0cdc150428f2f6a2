"""Whether students in another precision, or compiled, reach the accuracies of float32 as written.

    python benchmarks/equivalence.py [--precision bf16] [--compile on] [--threads 1] [--write]
    python benchmarks/equivalence.py --dataset folder:PATH --dataset-name NAME --protocol hard-small-v1 --seeds 15

Students of `random` at IPC 10, the same evaluation seeds in both settings, one synthesis: two one-sided paired tests at
5 % each, with a margin in points (`ddbench.records.statistics.equivalent`). A precision is admitted to `results/` on a kind of
device (`ddbench.training.precision.ADMITTED`) when two cells are shown to be equivalent: digits
under `hard-v1`, 60 seeds, half a point; and one of real images, one point. Records go into results/equivalence, so that the same command
goes on after a stop; --write makes benchmarks/equivalence.md of all of them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pages import tell

from ddbench.budget import Budget
from ddbench.jobs.job import DataName
from ddbench.jobs.sweep import Sweep, run_cells
from ddbench.progress import LineReporter
from ddbench.records.statistics import Samples, equivalent
from ddbench.records.store import RecordStore
from ddbench.report.frame import results_frame
from ddbench.training.compute import Compute

HERE = Path(__file__).parent
MARGINS = {"digits": 0.5}  # points; 1 for others
HEAD = (
    "| data set | protocol | students | n | float32, % | theirs, % | difference, points (90 % interval) | margin | equivalent |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def measure(options: argparse.Namespace, store: RecordStore) -> None:
    """Train what is missing of both settings."""
    plain = Compute.here("cpu" if options.device is None else options.device, options.threads, "float32", "off")
    other = Compute.here(plain.device, options.threads, options.precision, options.compile)
    for how in (plain, other):
        grid = Sweep(
            methods=["random"],
            datasets=[DataName(options.dataset, options.dataset_name)],
            budgets=[Budget(ipc=10)],
            protocols=[options.protocol],
            seeds=range(options.seeds),
            compute=how,
        )
        report = run_cells(grid.cells(), store, reporter=LineReporter())
        for line in (*report.problems, *(f"{what}: {reason}" for what, reason in report.failed)):
            raise SystemExit(line)


def rows(frame: pd.DataFrame) -> Iterator[str]:
    """A line for each setting beside float32 as written, on the seeds that both have."""
    for (dataset, protocol, device), group in frame.groupby(["dataset", "protocol", "device"]):
        plain = group[(group["precision"] == "float32") & ~group["compiled"] & ~group["stacked"]]
        for _, other in group.drop(plain.index).iterrows():
            yield _row(dataset, protocol, device, other, plain.iloc[0]["samples"])


def _row(dataset: str, protocol: str, device: str, other: pd.Series, reference: Samples) -> str:
    shared = [key for key in other["samples"] if key in reference]
    theirs, ours = ({key: samples[key] for key in shared} for samples in (other["samples"], reference))
    margin = MARGINS.get(dataset, 1.0)
    yes, found = equivalent(theirs, ours, margin / 100)
    means = [100 * sum(samples.values()) / len(samples) for samples in (ours, theirs)]
    gap = f"{100 * found.mean:+.2f} ({100 * (found.low or 0):+.2f} to {100 * (found.high or 0):+.2f})"
    words = [other["precision"], *(name for name in ("compiled", "stacked") if other[name]), f"on {device}"]
    cells_ = [dataset, protocol, ", ".join(words), len(shared), f"{means[0]:.2f}", f"{means[1]:.2f}", gap, margin]
    return f"| {' | '.join(map(str, cells_))} | {'yes' if yes else 'not shown'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--dataset-name")
    parser.add_argument("--protocol", default="hard-v1")
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--compile", default="on")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=HERE.parent / "results" / "equivalence")
    parser.add_argument("--write", action="store_true", help="only write the table of the records that are there")
    options = parser.parse_args()
    store = RecordStore(options.results)
    if not options.write:
        measure(options, store)
    shown = "\n".join([HEAD, *rows(results_frame(store))])
    title = "Precisions and compiling beside float32"
    tell(__file__, title, shown, " of results/equivalence", write=options.write)


if __name__ == "__main__":
    main()
