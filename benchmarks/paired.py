"""Methods against a baseline in the records, paired over synthesis seeds (or evaluation seeds where there is one set).

    python benchmarks/paired.py [--results results/measured] [--baseline random] [--write]

For every data set, protocol, student and budget that both have: mean accuracy of each, and the mean difference with its
95 % t interval over the pairs. Reads records only; prints Markdown, and writes benchmarks/paired.md with --write.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pages import tell

from ddbench.records.statistics import Samples, compare, summarize
from ddbench.records.store import RecordStore
from ddbench.report.format import between, percent, signed
from ddbench.report.frame import SETTING, results_frame

HEAD = (
    "| data set | protocol | budget | method | n | method, % | baseline, % | difference, points | 95 % interval |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def rows(results: Path, baseline: str) -> list[str]:
    """A line per method and cell that the baseline has too: computed alike, trained by the method's own student recipe
    where it borrows, else in the method's own space where it is there in several. Cells without an accuracy are left out.
    """
    frame = results_frame(RecordStore(results))
    frame = frame[frame["status"] == "ok"]
    lines = []
    for where, group in frame.groupby(["dataset", "protocol", "student", "budget"], sort=True):
        bases = group[group["method"] == baseline]
        for _, cell in group[(group["method"] != baseline) & group["borrowed"].isna()].iterrows():
            borrowing = bases[(bases["borrowed"] == cell["method"]) & (bases["lender"] == cell["recipe_hash"])]
            base = borrowing if len(borrowing) else bases[bases["borrowed"].isna()]
            for name in SETTING:
                base = base[base[name] == cell[name]]
            same_space = base[base["space"] == cell["space"]]
            base = same_space if len(same_space) else base
            if len(base) == 1:
                lines.append(line(where, cell, base.iloc[0]["samples"]))
    return lines


def line(where: tuple[str, ...], cell: Mapping[str, Any], baseline: Samples) -> str:
    """One comparison as a row of Markdown."""
    own = cell["samples"]
    found = compare(own, baseline)
    name = cell["method"] + (" (reduced)" if cell["reduced"] else "")
    dataset, protocol, _, budget = where
    ends = between(found.low, found.high, signed) + (f" ({found.test})" if found.low is not None else "")
    return (
        f"| {dataset} | {protocol} | {budget} | {name} | {len(own)} | {percent(summarize(own).mean)} "
        f"| {percent(summarize(baseline).mean)} | {signed(found.mean)} | {ends} |"
    )


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/measured"))
    parser.add_argument("--baseline", default="random")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    text = "\n".join([HEAD, *rows(options.results, options.baseline)])
    tell(__file__, f"Against {options.baseline}", text, "", write=options.write)


if __name__ == "__main__":
    main()
