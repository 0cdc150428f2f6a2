"""Label budgets: what soft labels are worth per byte, for sets of `sre2l` and `cda` under `shipped-v1`.

    python benchmarks/label_budgets.py [--dataset digits] [--methods sre2l,cda] [--ipc 10] [--seeds 3]
        [--results DIR] [--sets DIR] [--workers 1] [--threads 1] [--write]
    python benchmarks/label_budgets.py --dataset folder:PATH --dataset-name cifar10-jpeg

Every set is distilled by the default recipe of its cell (from the cache, if it is there), its labels are packed in every
way of `PACKINGS`, and students are trained on each: teachers that label online, all label batches in fp16 and int8, the k
largest logits, and LPLD's pruning by 10 and 40. What is recorded already is not run again, so the same command goes on
after a stop, and with more seeds adds runs. Prints Markdown; --write also writes benchmarks/label_budgets.md and the plot
of every data set among the records as label_budgets_DATASET.png beside it.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from ddbench import distill, pack_labels
from ddbench.jobs.job import DataName
from ddbench.jobs.sweep import Cell, run_cells
from ddbench.progress import LineReporter, Reporter
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.report.format import between, percent
from ddbench.report.frame import results_frame
from ddbench.report.plots.label_bytes import accuracy_against_label_bytes
from ddbench.report.plots.style import save
from ddbench.synset.label_compression import Packing
from ddbench.synset.synset import SynSet
from ddbench.synset.synset import save as save_set
from ddbench.training.compute import Compute

HERE = Path(__file__).parent
PROTOCOL = "shipped-v1"
PACKINGS = (
    Packing(),
    Packing("int8"),
    Packing("topk", 3),
    Packing("topk", 2),
    Packing(ratio=10.0),
    Packing(ratio=40.0),
    Packing(ratio=40.0, draw="cycle"),
    Packing(ratio=40.0, keep="random"),
    Packing("int8", ratio=40.0),
    Packing("topk", 2, ratio=40.0),
)
HEAD = (
    "| data set | method | labels | label batches | bytes | full fp16 / bytes | n | top-1, % | 95 % interval |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def sets(args: argparse.Namespace, method: str, reporter: Reporter) -> list[Path]:
    """The files of a method's set and of its packed ones, made where they are missing."""
    named = {"dataset": args.dataset, "dataset_name": args.dataset_name}
    how = {"device": args.device, "threads": args.threads, "reporter": reporter}
    whole = distill(method, ipc=args.ipc, **named, **how)
    online = args.sets / f"{method}-{whole.hash[:12]}.safetensors"
    _keep(whole, online)
    paths, full = [online], args.sets / f"{online.stem}-{PACKINGS[0].words()}.safetensors"
    for packing in PACKINGS:
        path = args.sets / f"{online.stem}-{packing.words()}.safetensors"
        if not path.exists():
            stored = full if packing != PACKINGS[0] else online
            pack_labels(stored, **asdict(packing), **named, out=path, **how)
        paths.append(path)
    return paths


def _keep(synset: SynSet, path: Path) -> None:
    if not path.exists():
        save_set(synset, path)


def evaluate(args: argparse.Namespace, paths: list[Path], store: RecordStore, reporter: Reporter) -> None:
    """Train the students that are missing."""
    data, how = DataName(args.dataset, args.dataset_name), Compute.here(args.device, args.threads)
    found = [
        Cell(data=data, file=path, protocol=PROTOCOL, seeds=tuple(range(args.seeds)), compute=how) for path in paths
    ]
    report = run_cells(found, store, workers=args.workers, reporter=reporter)
    for line in (*report.problems, *(f"{what}: {why}" for what, why in report.failed)):
        print(line, file=sys.stderr)


def rows(records: list[Record]) -> list[str]:
    """A line per cell, by data set, method and form, the largest labels first."""
    frame = results_frame(records).sort_values(
        ["dataset", "method", "labels", "label_bytes"], ascending=[True] * 3 + [False]
    )
    packed = {record.recipe_hash[:12]: record.recipe.get("labels") for record in records}
    whole = frame[frame["recipe"].str.endswith(f"+{Packing().words()}")]
    full = {(cell["dataset"], cell["method"]): cell["label_bytes"] for _, cell in whole.iterrows()}
    every = (cell for _, cell in frame.iterrows())
    return [line(cell, packed[cell["recipe_hash"]], full.get((cell["dataset"], cell["method"]))) for cell in every]


def line(cell: pd.Series, labels: dict | None, full: float | None) -> str:
    """One cell as a row of Markdown."""
    form, batches, ratio = "teachers online (their weights)", "—", "—"
    if labels is not None:
        form = cell["recipe"].rpartition("+")[2]
        batches = f"{labels['batches']:,}"
        ratio = "—" if full is None else f"{full / cell['label_bytes']:.1f}"
    name = cell["method"] + (" (reduced)" if cell["reduced"] else "")
    return (
        f"| {cell['dataset']} | {name} | {form} | {batches} | {cell['label_bytes']:,.0f} | {ratio} | {cell['n']} "
        f"| {percent(cell['top1'])} | {between(cell['ci_low'], cell['ci_high'])} |"
    )


def write(records: list[Record], text: str) -> None:
    """The Markdown file, and a plot for each data set."""
    frame, parts = results_frame(records), []
    for (dataset, protocol, student), _ in frame[frame["status"] == "ok"].groupby(["dataset", "protocol", "student"]):
        path = HERE / f"label_budgets_{dataset.partition('@')[0]}.png"
        save(accuracy_against_label_bytes(frame, dataset, protocol, student), path)
        parts.append(f"![accuracy against label bytes, {dataset}]({path.name})")
    note = (
        "Made by `python benchmarks/label_budgets.py --write` from the records. Students of one set, n evaluation seeds; a "
        "t interval over these. `Nx`: as many label batches as take an N-th of all in fp16 (LPLD: rho = 1 - 1 / N), the "
        "first of them, one drawn for every step; `random`: random ones; `cycle`: taken in turn."
    )
    text = "\n\n".join(["# Label budgets", note, text, *parts])
    (HERE / "label_budgets.md").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Make, evaluate, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--dataset-name")
    parser.add_argument("--methods", default="sre2l,cda")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("results/label-budgets"))
    parser.add_argument("--sets", type=Path, default=Path("label-budgets/sets"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    store, reporter = RecordStore(args.results), LineReporter()
    for method in args.methods.split(","):
        evaluate(args, sets(args, method, reporter), store, reporter)
    records = list(store)
    text = "\n".join([HEAD, *rows(records)])
    print(text)
    if args.write:
        write(records, text)


if __name__ == "__main__":
    main()
