"""Whether a build of torch changes a result: the same cells, of the same seeds, on two builds.

    python benchmarks/builds.py [--write]

A build's sets and students differ from another's in last digits, which many steps enlarge, so records of two builds are
never pooled (docs/records.md). Those of builds other than that of results/measured are in results/builds. For every cell
that is in both: means over the seeds that both have, and the largest gap between two students of the same seeds.
--write makes benchmarks/builds.md of them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from pages import tell

from ddbench.records.store import RecordStore
from ddbench.report.format import percent, signed
from ddbench.report.frame import results_frame

RESULTS = Path(__file__).parents[1] / "results"
SAME = ["dataset", "protocol", "budget", "method", "recipe_hash", "borrowed", "student"]
"""What two cells of different builds share; a student recipe that a set ships holds its learned step size, and is not."""
HEAD = (
    "| data set | protocol | budget | method | builds | n | means, % | difference, points | largest gap of one seed |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def rows(other: pd.DataFrame, measured: pd.DataFrame) -> Iterator[str]:
    """A line for each cell that both have, of the seeds that both have."""
    both = other.merge(measured, on=SAME, suffixes=("_other", ""))
    for _, pair in both[both["build_other"] != both["build"]].sort_values(SAME, na_position="first").iterrows():
        theirs, ours = pair["samples_other"], pair["samples"]
        if shared := sorted(theirs.keys() & ours.keys()):
            yield _row(pair, [theirs[key] for key in shared], [ours[key] for key in shared])


def _row(pair: pd.Series, theirs: list[float], ours: list[float]) -> str:
    means = [sum(values) / len(values) for values in (theirs, ours)]
    largest = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
    name = pair["method"] + (f" by {pair['borrowed']}'s recipe" if pair["borrowed"] else "")
    builds = f"{pair['build_other']}, {pair['build']}"
    shown = [pair["dataset"], pair["protocol"], pair["budget"], name, builds, str(len(ours))]
    shown += [", ".join(percent(each) for each in means), signed(means[0] - means[1]), f"{100 * largest:.1f}"]
    return f"| {' | '.join(shown)} |"


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    frames = [results_frame(RecordStore(RESULTS / name)) for name in ("builds", "measured")]
    text = "\n".join([HEAD, *rows(*frames)])
    tell(__file__, "Builds of torch", text, " of results/builds and results/measured", write=options.write)


if __name__ == "__main__":
    main()
