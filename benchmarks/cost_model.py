"""The cost model against what jobs took: cells of demo size that it was not fitted on, one thread.

    python benchmarks/cost_model.py [--cells mtt:digits:1,dm:fashion-mnist:1] [--out benchmarks/cost_model.md]

Each cell's set is made and one student trained and tested, in this process, with a cache of its own; what the model
foresees is asked before. Both are process (CPU) seconds of one thread, so that other jobs on the machine do not count.
Writes a Markdown table.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ddbench.budget import Budget
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.jobs.estimate import Estimator
from ddbench.jobs.job import DataName, DistillJob, EvaluateJob, distill_job, evaluate_job
from ddbench.system.environment import processor
from ddbench.training.compute import Compute

CELLS = (
    "rded:digits:3,prune:digits:3,dm:digits:1,tesla:digits:1,sre2l:digits:1,pca:digits:1,datadam:digits:1,"
    "infer:digits:3,cvdd:digits:1,ftd:digits:1,datm:digits:1"
)


@contextmanager
def own_cache() -> Iterator[None]:
    """Within the block nothing is cached but what is made there."""
    before = os.environ.get("DDBENCH_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DDBENCH_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["DDBENCH_CACHE"]
            else:
                os.environ["DDBENCH_CACHE"] = before


def taken(call: Callable[[], object]) -> float:
    """Process seconds of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def row(cell: str) -> list[tuple[str, float, float]]:
    """(job, foreseen seconds, measured seconds) of a cell's set and of one student."""
    name, dataset, size = cell.split(":")
    data, compute = DataName(dataset), Compute()
    budget = Budget(fraction=float(size)) if "." in size else Budget(int(size))
    recipe = resolve(find_method(name), data.load(), budget)
    with own_cache():
        estimator = Estimator(compute)
        making = estimator.of_set(recipe, data.load())
        training = estimator.of_student(recipe, data.load(), "shipped-v1")
        job = DistillJob.of(data, recipe, 0, compute)
        distill = taken(lambda: distill_job(job))
        student = taken(lambda: evaluate_job(EvaluateJob(data, job.path, "shipped-v1", None, (0,), compute)))
    what = f"{name} on {dataset}, {budget}"
    return [(f"{what}: set", making.seconds or 0.0, distill), (f"{what}: student", training.seconds or 0.0, student)]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=CELLS, help="METHOD:DATA SET:IPC or fraction, comma-separated")
    parser.add_argument("--out", type=Path, help="file to write to; none: stdout")
    chosen = parser.parse_args()
    lines = [
        "# The cost model against measured jobs",
        "",
        f"CPU seconds of one thread, {processor()}; `python benchmarks/cost_model.py`. The model counts a recipe's steps",
        "and times a step of each kind; none of these jobs was used to fit anything.",
        "",
        "| job | foreseen, s | measured, s | foreseen / measured |",
        "| --- | ---: | ---: | ---: |",
    ]
    inside = total = 0
    for cell in chosen.cells.split(","):
        for job, expected, measured in row(cell):
            total, inside = total + 1, inside + (0.5 <= expected / measured <= 2)
            lines.append(f"| {job} | {expected:.2f} | {measured:.2f} | {expected / measured:.2f} |")
            print(lines[-1], flush=True)
    lines += ["", f"Within a factor of 2: {inside} of {total}."]
    print(lines[-1])
    if chosen.out:
        chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
