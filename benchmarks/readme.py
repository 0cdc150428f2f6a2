"""README's tables and figure of the measured records on `digits`, generated from the record files alone.

    python benchmarks/readme.py            # write them: README between its marks, and benchmarks/readme.png
    python benchmarks/readme.py --check    # write nothing; exit code 1 where either is not of these records

What is shown is the grid of `digits_grid.py`: default recipes at its IPCs, and the student that a protocol takes by
default. Records of other recipes are left out, and of cells that differ in nothing but how they were computed (another
build of torch, say) all but the one whose setting has the most runs in all; a note says how many. Nothing is chosen by
its accuracy. The figure's file holds a hash of the accuracies that it was drawn from, since its bytes depend on the
build of matplotlib.
"""

import argparse
import sys
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from digits_grid import BASELINES, DATA, IPCS, MEASURED, grid, methods
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.hashing import digest
from ddbench.records.record import Record
from ddbench.records.statistics import ties_with_best
from ddbench.records.store import RecordStore, budget_label
from ddbench.report.format import DAGGER, DASH
from ddbench.report.frame import COMPARED, SETTING, results_frame
from ddbench.report.plots.budgets import bars
from ddbench.report.plots.style import save
from ddbench.report.renderers import Grid, Shown, markdown
from ddbench.report.tables import notes, pivot, span
from ddbench.system.files import write_atomic, write_with
from ddbench.training.compute import Compute

ROOT = Path(__file__).parents[1]
README, FIGURE = ROOT / "README.md", ROOT / "benchmarks" / "readme.png"
BEGIN, END = "<!-- records: begin (python benchmarks/readme.py) -->", "<!-- records: end -->"
FIXED = ("hard-v1", "soft-v1")
SHIPPED, BORROWED = "shipped-v1", "`random`, same recipe"
DRAWN = "ipc 3"
HASH = "cells"  # key of the figure's hash among the texts of its PNG


def shown(records: Iterable[Record]) -> tuple[pd.DataFrame, int]:
    """The cells that README shows, with marks anew, and how many others of the same protocols are left out."""
    frame = results_frame(record for record in records if record.protocol in (*FIXED, SHIPPED))
    kept = _one_setting(frame[_of_the_grid(frame)])
    return _marked(kept), len(frame) - len(kept)


def _of_the_grid(frame: pd.DataFrame) -> list[bool]:
    """Which cells are of default recipes, lenders too, and of the student that the protocol takes by default."""
    jobs = grid(methods(), [], Compute()).distillations()
    resolved = [job.resolved() for job in jobs]
    recipes = {(each.method.name, budget_label(each.budget.to_json())): each.hash[:12] for each in resolved}
    students = {name: find_protocol(name).student(DATA.load(), None).network for name in FIXED}
    return [
        recipes.get((row.method, row.budget)) == row.recipe_hash
        and (row.borrowed is None or recipes.get((row.borrowed, row.budget)) == row.lender)
        and students.get(row.protocol, row.student) == row.student
        for row in frame.itertuples()
    ]


def _one_setting(frame: pd.DataFrame) -> pd.DataFrame:
    """Of cells that differ in nothing but how they were computed, the one whose setting has the most runs in all."""
    runs = frame.groupby(list(SETTING))["n"].transform("sum")
    ranked = frame.assign(runs=runs).sort_values(["runs", "n"], ascending=False, kind="stable")
    return frame.loc[ranked.drop_duplicates([*COMPARED, "method", "borrowed"]).index.sort_values()]


def _marked(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells with `best` and `tied` among themselves; none under `shipped-v1`, where every set has its own training."""
    best, tied = set[Hashable](), set[Hashable]()
    good = frame[(frame["status"] == "ok") & frame["protocol"].isin(FIXED)]
    for _, column in good.groupby(list(COMPARED)):
        if len(column) > 1:
            first, others = ties_with_best(column["samples"].to_dict())
            best, tied = best | {first}, tied | others
    return frame.assign(best=frame.index.isin(best), tied=frame.index.isin(tied))


def fixed_table(frame: pd.DataFrame, left_out: int) -> Grid:
    """Every method under the protocols that train one student for all; the whole data stand beside every IPC."""
    part = frame[frame["protocol"].isin(FIXED)]
    whole = [part[part["budget"] == "all"].assign(budget=f"ipc {ipc}", ipc=ipc) for ipc in IPCS]
    heads = [(protocol, f"IPC {ipc}") for protocol in FIXED for ipc in IPCS]
    made = _table(pd.concat([part[part["budget"] != "all"], *whole]), heads, methods())
    lines = [f"{DASH}: not measured."] * any(cell.text == DASH for _, cells in made.rows for cell in cells)
    lines.append(_by_method(part, "recipe", "Recipes"))
    if part["build"].nunique() > 1:
        lines.append(_by_method(part, "build", "Builds of torch"))
    if left_out:
        lines.append(
            f"Left out: {left_out} results of other recipes or students, or of a setting with fewer runs (`ddbench table`)."
        )
    return replace(made, title="digits: top-1 accuracy (%), one student for all methods", notes=[*notes(part), *lines])


def shipped_table(frame: pd.DataFrame) -> Grid:
    """Every set by the student recipe that it ships, and beside it `random` by the same recipe."""
    part = frame[frame["protocol"] == SHIPPED].assign(student="the set's own")
    borrowed = part["borrowed"].notna()
    lent = part[borrowed].assign(method=part["borrowed"], borrowed=None, protocol=BORROWED)
    heads = [(protocol, f"IPC {ipc}") for ipc in IPCS for protocol in (SHIPPED, BORROWED)]
    names = [name for name in methods() if name not in BASELINES]
    made = _table(pd.concat([part[~borrowed], lent]), heads, names)
    lines = [
        "Every method has its own student and training recipe: compare a set with random training images under the same "
        "recipe, not with the other rows."
    ]
    return replace(
        made, title="digits: top-1 accuracy (%), each set with the method's own training recipe", notes=lines
    )


def _table(part: pd.DataFrame, heads: Sequence[tuple[str, str]], names: Sequence[str]) -> Grid:
    """The suite's pivot with the rows and columns that are asked for, measured or not, and how many runs a column has."""
    made = pivot(part)
    found = {
        label.removesuffix(DAGGER): (label, dict(zip((head[1:] for head in made.headers), row, strict=True)))
        for label, row in made.rows
    }
    rows = []
    for name in names:
        label, own = found.get(name, (name, {}))
        rows.append((label, [own.get(head, Shown(DASH)) for head in heads]))
    good = part[part["status"] == "ok"]
    runs = {place: span(counts) for place, counts in good.groupby(["protocol", "budget"])["n"]}
    rows.append(("*runs (n)*", [Shown(runs.get((protocol, budget.lower()), DASH)) for protocol, budget in heads]))
    joined = [(protocol, budget.replace(" ", "\N{NO-BREAK SPACE}")) for protocol, budget in heads]
    return replace(made, headers=joined, rows=rows)


def _by_method(part: pd.DataFrame, column: str, title: str) -> str:
    """What a column says of the cells: the value that most methods have, and the others with their methods."""
    names = part.groupby(column)["method"].unique().sort_values(key=lambda found: found.map(len), ascending=False)
    usual, *others = [(value, ", ".join(sorted(found))) for value, found in names.items()]
    return "; ".join([f"{title}: {usual[0]}", *(f"{value} for {found}" for value, found in others)]) + "."


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Draw the bars of one IPC, in few colors, with the hash of what is drawn among the file's texts."""
    texts = PngInfo()
    texts.add_text(HASH, drawn_hash(frame))
    with TemporaryDirectory() as folder:
        figure = bars(drawn(frame), DATA.name, DRAWN)
        with Image.open(save(figure, Path(folder) / path.name)) as image:
            few = image.convert("RGB").quantize(64)
    write_with(path, lambda file: few.save(file, "png", optimize=True, pnginfo=texts))


def drawn(frame: pd.DataFrame) -> pd.DataFrame:
    """The cells of the figure; `shipped-v1` is n/a for what ships no student recipe."""
    part = frame[frame["borrowed"].isna() & frame["budget"].isin((DRAWN, "all"))]
    without = part[part["method"].isin(BASELINES) & (part["budget"] == DRAWN) & (part["protocol"] == FIXED[0])]
    part = pd.concat([part, without.assign(protocol=SHIPPED, status="n/a", tied=False)])
    return part.assign(student=part["student"].where(part["protocol"] != SHIPPED, "the set's own student"))


def drawn_hash(frame: pd.DataFrame) -> str:
    """Of the accuracies in the figure as they stand in the records."""
    rows = [
        [
            row.protocol,
            row.budget,
            row.method,
            row.status,
            sorted([*seeds, top1] for seeds, top1 in row.samples.items()),
        ]
        for row in drawn(frame).itertuples()
    ]
    return digest(sorted(rows))


def figure_hash(path: Path) -> str | None:
    """The hash that a figure holds; None where there is none."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get(HASH)


def block(frame: pd.DataFrame, left_out: int) -> str:
    """What stands between README's marks: the table of all methods, the figure, and folded up the sets as shipped."""
    what = f"{DATA.name}: top-1 accuracy of every method at {DRAWN.upper()} under {', '.join((*FIXED, SHIPPED))}"
    figure = f"![{what}]({FIGURE.relative_to(ROOT)})\n"
    shipped = [
        "<details><summary>Each set with the method's own training recipe</summary>\n",
        markdown(shipped_table(frame)),
    ]
    return "\n".join([markdown(fixed_table(frame, left_out)), figure, *shipped, "</details>"])


def put(text: str, block: str) -> str:
    """A page with that block between its marks; UsageError where it has no marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise UsageError(f"README.md lacks the lines {BEGIN} and {END}")
    return f"{before}{begin}\n\n{block}\n{end}{after}"


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where something is not in step"
    )
    check = parser.parse_args().check
    frame, left_out = shown(RecordStore(MEASURED / DATA.name))
    old = README.read_text(encoding="utf-8")
    new = put(old, block(frame, left_out))
    stale = [README] * (new != old) + [FIGURE] * (figure_hash(FIGURE) != drawn_hash(frame))
    if README in stale and not check:
        write_atomic(README, new)
    if FIGURE in stale and not check:
        draw(frame, FIGURE)
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'not of these records' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
