"""A grid's engines against each other: one local worker, two, and two on Ray, at equal jobs of one thread each.

    python benchmarks/grid_engines.py [--jobs 24] [--network convnet-d2-w256] [--rounds 2] [--write]

The jobs are students of one set by `hard-v1` on digits, which differ in their seed alone; `--network` says how long they
take. Every line is a process of its own with an empty folder of records, the set being in the cache. Wants as many quiet
cores as workers. Prints a Markdown table, and with --write puts it in benchmarks/grid_engines.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ddbench.budget import Budget
from ddbench.hashing import digest
from ddbench.jobs.job import DataName, distill_job
from ddbench.jobs.ray_engine import RayEngine
from ddbench.jobs.sweep import Sweep, run_cells
from ddbench.progress import Reporter
from ddbench.records.store import RecordStore
from ddbench.settings import variables_kept
from ddbench.system.environment import processor

HERE = Path(__file__).parent
LINES = (("local", 1), ("local", 2), ("ray", 2))
HEAD = (
    "| engine | workers | job, s | start, s | all, s | s a job | jobs at once | records |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
)


@dataclass(frozen=True)
class Measured:
    """One engine's way through the jobs.

    Attributes:
        all: seconds from the call to its return.
        ends: seconds from the call to the end of each job.
        job: mean seconds of a job, as its record says.
        records: digest of what the records say, but for when they were made.
    """

    all: float
    ends: list[float]
    job: float
    records: str

    def start(self, workers: int) -> float:
        """Seconds before the first jobs began."""
        return self.ends[workers - 1] - self.job

    def pace(self, workers: int) -> float:
        """Seconds between the ends of two jobs, once the workers are busy."""
        return (self.ends[-1] - self.ends[workers - 1]) / (len(self.ends) - workers)


class Clock(Reporter):
    """Notes when jobs end."""

    def __init__(self) -> None:
        self.began, self.ends = time.monotonic(), list[float]()

    def advance(self, label: str, done: int, total: int) -> None:
        """See the base class."""
        if label == "jobs":
            self.ends.append(time.monotonic() - self.began)


def grid(jobs: int, network: str) -> Sweep:
    return Sweep(
        methods=["random"],
        datasets=[DataName("digits")],
        budgets=[Budget(ipc=10)],
        protocols=["hard-v1"],
        networks=[network],
        seeds=range(jobs),
    )


def measure(engine: str, workers: int, jobs: int, network: str) -> Measured:
    """Run the jobs in this process's cache, and with records of their own."""
    with tempfile.TemporaryDirectory() as folder:
        clock, store = Clock(), RecordStore(Path(folder))
        runner = RayEngine(workers=workers) if engine == "ray" else None
        cells = grid(jobs, network).cells()
        clock.began = time.monotonic()
        report = run_cells(cells, store, workers=workers, engine=runner, reporter=clock)
        took = time.monotonic() - clock.began
        runs = [run for record in store for run in record.runs]
    assert report.exit_code() == 0 and len(runs) == jobs == len(clock.ends)
    said = [run.model_dump(exclude={"date", "seconds"}) for run in runs]
    return Measured(took, clock.ends, sum(run.seconds or 0 for run in runs) / jobs, digest(said))


def apart(engine: str, workers: int, options: argparse.Namespace) -> Measured:
    """`measure` in a fresh process."""
    words = ["--one", f"{engine}:{workers}", "--jobs", str(options.jobs), "--network", options.network]
    done = subprocess.run([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout))


def line(engine: str, workers: int, rounds: list[Measured], reference: str) -> str:
    """A row of the table: medians over the rounds."""
    job, start, took, pace = (
        median(values)
        for values in zip(*((m.job, m.start(workers), m.all, m.pace(workers)) for m in rounds), strict=True)
    )
    same = "the same" if {m.records for m in rounds} == {reference} else "DIFFERENT"
    return f"| {engine} | {workers} | {job:.2f} | {start:.1f} | {took:.1f} | {pace:.2f} | {job / pace:.2f} | {same} |"


Found = dict[tuple[str, int], list[Measured]]


def ratios(found: Found) -> dict[str, float]:
    """What the engines are held to, with and without their start."""
    whole = {which: median(m.all for m in rounds) for which, rounds in found.items()}
    pace = {which: median(m.pace(which[1]) for m in rounds) for which, rounds in found.items()}
    one, two, ray = LINES
    return {
        "two workers": whole[one] / whole[two],
        "two workers, busy": pace[one] / pace[two],
        "ray": whole[ray] / whole[two],
        "ray, busy": pace[ray] / pace[two],
    }


def page(found: Found) -> str:
    """The table, and the ratios in words."""
    reference = found[LINES[0]][0].records
    table = "\n".join([HEAD, *(line(*which, rounds, reference) for which, rounds in found.items())])
    said = ratios(found)
    return (
        f"{table}\n\nTwo local workers do {said['two workers']:.2f} times as much as one in the same time "
        f"({said['two workers, busy']:.2f} without the start). Ray takes {said['ray']:.3f} times as long as the local "
        f"engine ({said['ray, busy']:.3f} without the start)."
    )


def measured(options: argparse.Namespace) -> Found:
    """Every engine's rounds, in turn."""
    found: Found = {which: [] for which in LINES}
    with tempfile.TemporaryDirectory() as cache, variables_kept("DDBENCH_CACHE"):
        os.environ["DDBENCH_CACHE"] = cache
        distill_job(grid(1, options.network).distillations()[0])
        for _ in range(options.rounds):
            for which in LINES:
                found[which].append(apart(*which, options))
                print(f"{which[0]}, {which[1]} worker(s): {found[which][-1].all:.1f} s", file=sys.stderr)
    return found


def write(found: Found, options: argparse.Namespace) -> None:
    """Replace the page."""
    about = (
        f"{options.jobs} jobs of one thread, {options.network} by hard-v1 on digits, {options.rounds} rounds (medians), "
        f"{os.cpu_count()} cores of {processor()}; `python benchmarks/grid_engines.py --write`. *job*: its own seconds; "
        "*start*: before the first jobs began; *s a job*: between the ends of two, after the first; *jobs at once*: the "
        "quotient."
    )
    (HERE / "grid_engines.md").write_text(f"# Engines of a grid\n\n{about}\n\n{page(found)}\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--network", default="convnet-d2-w256")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Measure, print, and write where asked."""
    options = parser().parse_args()
    if options.one:
        engine, workers = options.one.split(":")
        print(json.dumps(measure(engine, int(workers), options.jobs, options.network).__dict__))
        return
    found = measured(options)
    print(page(found))
    if options.write:
        write(found, options)


if __name__ == "__main__":
    main()
