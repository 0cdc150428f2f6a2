"""All figures of speed by one command, beside what they are held to: benchmarks/speed.md.

    python benchmarks/speed.py [--device cpu] [--only students,trajectory,recover,engines,demo] [--rounds 3] [--workers 2]

students     scoring a set, 5 students, against a loop with a DataLoader          (`students.py`)
trajectory   an outer iteration of trajectory matching against the papers' form   (`trajectory_matching.py`)
recover      images x iterations of recovering against the papers' form           (`decoupled.py`)
engines      two workers against one, Ray against the local engine; CPU only      (`grid_engines.py`)
demo         `ddbench demo` with an empty cache, and where its time goes; CPU only

Ratios are of medians within one run. Figures of a part and a kind of device replace the earlier ones in
benchmarks/speed.json, from which the table is written; what was not measured stays empty. Wants quiet cores: about an hour
on two, most of it for `engines`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import decoupled
import grid_engines
import students
import torch
import trajectory_matching

from ddbench.records.store import RecordStore
from ddbench.system.environment import environment, find_device
from ddbench.system.files import write_atomic

HERE = Path(__file__).parent
FACTS, PAGE = HERE / "speed.json", HERE / "speed.md"


@dataclass(frozen=True)
class Figure:
    """A row of the table.

    Attributes:
        part: who measures it.
        name: how it is known in speed.json.
        text: what it says.
        wanted: kind of device -> least value, or largest where `at_most`.
        unit: after the value.
    """

    part: str
    name: str
    text: str
    wanted: dict[str, float]
    at_most: bool = False
    unit: str = "x"


FIGURES = (
    Figure("students", "plain", "scoring a set, float32, set-up included", {"cpu": 1.0, "cuda": 10.0}),
    Figure("students", "fast", "scoring a set, bf16 and compiled, set-up included", {"cpu": 2.5}),
    Figure("students", "fast, steady", "the same without the set-up", {}),
    Figure("trajectory", "10 eager", "trajectory matching, 10 images, N = 10, as recipes have it", {}),
    Figure("trajectory", "10 unrolled", "the same, `gradient=unrolled`", {"cpu": 1.0}),
    Figure("trajectory", "10 compiled", "the same, `match_compiled=true`", {"cuda": 4.0}),
    Figure("trajectory", "100 eager", "trajectory matching, 100 images, N = 4, as recipes have it", {}),
    Figure("trajectory", "100 unrolled", "the same, `gradient=unrolled`", {"cpu": 1.0}),
    Figure("trajectory", "100 compiled", "the same, `match_compiled=true`", {"cuda": 4.0}),
    Figure("recover", "plain", "recovering images, stacked, float32", {"cpu": 1.0}),
    Figure("recover", "fast", "the same, bf16 and compiled", {"cuda": 5.0}),
    Figure("engines", "two workers", "two local workers against one", {"cpu": 1.7}),
    Figure("engines", "ray", "Ray, time against the local engine's", {"cpu": 1.1}, at_most=True),
    Figure("demo", "all", "`ddbench demo`, empty cache, 2 workers", {"cpu": 480.0}, at_most=True, unit="s"),
    Figure("demo", "students", "of that, in both workers together: students", {}, unit="s"),
    Figure("demo", "synthesis", "sets, with the experts and teachers made for them", {}, unit="s"),
    Figure("demo", "rest", "the rest: reference teachers, imports, tables, plots, workers that wait", {}, unit="s"),
)


def measure_students(options: argparse.Namespace) -> dict[str, float]:
    steps = "200" if options.device == "cuda" else "8"  # a few would be lost in the set-up there
    words = ["--device", options.device, "--rounds", str(options.rounds), "--threads", "1", "--steps", steps]
    how = students.parser().parse_args(words)
    found = students.medians(how)
    students.write(found, how)
    fast = "ours, bf16, compiled"
    cell, steady = students.gain(found, fast, "cell"), students.gain(found, fast, "step")
    return {"plain": students.gain(found, "ours", "cell"), "fast": cell, "fast, steady": steady}


def measure_trajectory(options: argparse.Namespace) -> dict[str, float]:
    found = trajectory_matching.times(2, 5, options.rounds, options.device)
    print(trajectory_matching.time_table(found))
    return {
        f"{trajectory_matching.CLASSES * ipc} {name}": took["plain"] / took[mode]
        for (ipc, _), took in found.items()
        for name, mode in (("eager", "adjoint"), ("unrolled", "unrolled"), ("compiled", "compiled"))
    }


def measure_recover(options: argparse.Namespace) -> dict[str, float]:
    groups = "10" if options.device == "cpu" else "100"
    words = ["recover", "--device", options.device, "--groups", groups, "--rounds", str(options.rounds), "--steps", "3"]
    found = decoupled.times(decoupled.parser().parse_args(words))
    for name, each in found.items():
        print(f"{name}: {each.ms:.3f} ms, first step {each.setup:.1f} s")
    base = found[decoupled.REFERENCE].ms
    plain, fast = f"stacked, {groups} blocks", f"bf16 and compiled, {groups} blocks"
    return {"plain": base / found[plain].ms, "fast": base / found[fast].ms}


def measure_engines(options: argparse.Namespace) -> dict[str, float]:
    how = grid_engines.parser().parse_args(["--rounds", str(options.rounds)])
    found = grid_engines.measured(how)
    grid_engines.write(found, how)
    said = grid_engines.ratios(found)
    return {name: said[name] for name in ("two workers", "ray")}


def measure_demo(options: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        around = {**os.environ, "DDBENCH_CACHE": str(Path(folder) / "cache")}
        command = [sys.executable, "-m", "ddbench", "demo", "--out", str(out), "--workers", str(options.workers)]
        started = time.perf_counter()
        subprocess.run(command, env=around, check=True, stdout=subprocess.DEVNULL)
        took = time.perf_counter() - started
        records = list(RecordStore(out / "records"))
    scored = sum(run.seconds or 0 for record in records for run in record.runs)
    costs = {key: facts.cost.get("seconds", 0) for record in records for key, facts in record.synsets.items()}
    made = sum(costs.values())
    return {"all": took, "students": scored, "synthesis": made, "rest": options.workers * took - scored - made}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "students": measure_students,
    "trajectory": measure_trajectory,
    "recover": measure_recover,
    "engines": measure_engines,
    "demo": measure_demo,
}
CPU_ONLY = ("engines", "demo")


def page(facts: dict[str, dict[str, dict]]) -> str:
    """The table of what is known: kind of device -> part -> figures, device and date."""
    lines = ["| figure | CPU | at least | CUDA | at least |", "| --- | ---: | ---: | ---: | ---: |"]
    for figure in FIGURES:
        cells = []
        for device in ("cpu", "cuda"):
            value = facts.get(device, {}).get(figure.part, {}).get("figures", {}).get(figure.name)
            wanted = figure.wanted.get(device)
            cells.append("" if value is None else f"{value:.{0 if figure.unit == 's' else 2}f} {figure.unit}")
            cells.append("" if wanted is None else f"{'at most ' if figure.at_most else ''}{wanted:g}")
        lines.append(f"| {figure.text} | {' | '.join(cells)} |")
    said = [
        f"- {part}, {device}: {each['where']}, torch {each['torch']}, {each['date']}."
        for device, parts in sorted(facts.items())
        for part, each in parts.items()
    ]
    about = "x: times as fast as what people write without the suite, see the parts' own pages and `speed.py`."
    return "\n".join(["# Speed", "", *lines, "", about, "", *said, "", "Made by `python benchmarks/speed.py`.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", help=f"of {', '.join(PARTS)}, with commas between; default: all that the device has")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="of the demo")
    options = parser.parse_args()
    chosen = (
        options.only.split(",") if options.only else [p for p in PARTS if options.device == "cpu" or p not in CPU_ONLY]
    )
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.device == "cuda" and (wrong := set(chosen) & set(CPU_ONLY)):
        parser.error(f"of a CPU only: {', '.join(sorted(wrong))}")
    find_device(options.device)
    about = environment()
    where = about["cuda"] if options.device == "cuda" else f"{about['processor']}, {os.cpu_count()} cores"
    for part in chosen:
        print(f"== {part}", file=sys.stderr)
        figures = PARTS[part](options)
        facts = json.loads(FACTS.read_text()) if FACTS.exists() else {}
        said = {"figures": figures, "where": where, "torch": torch.__version__, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
        facts.setdefault(options.device, {})[part] = said
        write_atomic(FACTS, json.dumps(facts, indent=2, sort_keys=True) + "\n")
        write_atomic(PAGE, page(facts))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
