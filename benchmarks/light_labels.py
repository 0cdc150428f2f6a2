"""HeLlO's labels beside heavier and lighter ones of the same images, under `shipped-v1`.

    python benchmarks/light_labels.py [--dataset digits] [--ipc 3,10] [--seeds 5] [--results DIR] [--threads 1] [--write]
    python benchmarks/light_labels.py --dataset folder:PATH --dataset-name cifar10-jpeg --ipc 10

Distils a `hello` set by the default recipe of its cell and trains students on its images with

- the projector's logits, online: what the method ships;
- full soft labels: the logits of the last weak teacher for every view of the training, stored in fp16, same loss;
- the classes alone, by cross-entropy, all else equal.

Records go into a folder, so that the same command goes on after a stop. Prints Markdown; --write makes
benchmarks/light_labels.md of all its records.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ddbench import distill, evaluate
from ddbench.data.dataset import Dataset
from ddbench.data.registry import load_dataset
from ddbench.progress import LineReporter
from ddbench.records.statistics import compare, summarize
from ddbench.records.store import RecordStore
from ddbench.report.format import between, percent, signed
from ddbench.report.frame import results_frame
from ddbench.synset.label_compression import Packing, packed_targets
from ddbench.synset.matched_recipe import by_classes
from ddbench.synset.synset import SynSet
from ddbench.synset.targets import committee
from ddbench.synset.teachers import require

HERE = Path(__file__).parent
ONLINE = "projector, online"
HEAD = (
    "| data set | IPC | labels | bytes of labels | with the encoder | full / bytes | n | top-1, % | 95 % interval "
    "| against full, points |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)
NOTE = (
    "Made by `python benchmarks/light_labels.py --write` from the records. One `hello` set for each row's IPC, its images "
    "the same in all rows; n students, the interval is over these. Bytes of labels are what is stored; with the encoder: "
    "and the networks that are needed to give them. Full: the last weak teacher's logits for every view of the training "
    "in fp16. The recipe on cifar10-jpeg is a reduced one."
)
FULL = "weak teacher, all views in fp16"


def variants(synset: SynSet, dataset: Dataset) -> Iterator[tuple[str, SynSet]]:
    """The set by what its students learn from."""
    yield ONLINE, synset
    weak = {key: facts for key, facts in synset.provenance.teachers.items() if facts.get("role") == "weak teacher"}
    last = max(weak, key=lambda key: weak[key]["epoch"])
    asked = replace(synset, targets=committee([(require(last), 1.0)]))
    stored = packed_targets(asked, dataset, Packing(), torch.device("cpu"), seed=synset.provenance.seed or 0)
    yield FULL, replace(synset, targets=stored)
    assert synset.student_recipe is not None
    yield "classes", replace(synset, targets=None, student_recipe=by_classes(synset.student_recipe))


def as_imported(synset: SynSet, note: str) -> SynSet:
    """The set as one that no recipe makes: its record names it by its hash."""
    return replace(
        synset,
        provenance=synset.provenance.model_copy(update={"recipe": {}, "recipe_hash": None, "seed": None, "note": note}),
    )


def rows(frame: pd.DataFrame) -> Iterator[str]:
    """A line per cell, by data set and IPC."""
    for (dataset, ipc), group in frame.groupby(["dataset", "ipc"]):
        found = {cell["method"]: cell for _, cell in group.fillna({"label_bytes": 0}).iterrows()}
        full = found.get(FULL)
        for name in sorted(found, key=lambda name: -found[name]["label_bytes"]):
            cell, own = found[name], summarize(found[name]["samples"])
            against, ratio = "—", "—"
            if full is not None and name != FULL:
                gap = compare(cell["samples"], full["samples"])
                ends = "" if gap.low is None else f" ({between(gap.low, gap.high, signed)})"
                against = signed(gap.mean) + ends
            stored, total = cell["stored"], cell["label_bytes"]
            if full is not None and stored:
                ratio = f"{full['stored'] / stored:.1f}"
            yield (
                f"| {dataset} | {ipc} | {name} | {stored:,} | {total:,.0f} | {ratio} | {own.n} | {percent(own.mean)} "
                f"| {between(own.low, own.high)} | {against} |"
            )


def table(store: RecordStore) -> str:
    """The Markdown table of all records."""
    records = list(store)
    stored = {r.imported: next(iter(r.synsets.values())).bytes.get("targets", 0) for r in records}
    frame = results_frame(records)
    by_hash = {(key or "")[:12]: size for key, size in stored.items()}
    frame["stored"] = [by_hash[cell] for cell in frame["imported"]]
    return "\n".join([HEAD, *rows(frame[frame["status"] == "ok"])])


def main() -> None:
    """Read the command line, measure what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--dataset-name")
    parser.add_argument("--ipc", default="3,10")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=Path("results/light-labels"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    chosen = parser.parse_args()
    data = load_dataset(chosen.dataset, dataset_name=chosen.dataset_name)
    how: dict[str, Any] = {"dataset": chosen.dataset, "dataset_name": chosen.dataset_name, "threads": chosen.threads}
    for ipc in (int(word) for word in chosen.ipc.split(",")):
        made = distill("hello", ipc=ipc, reporter=LineReporter(), **how)
        for name, synset in variants(made, data):
            known = as_imported(synset, f"images of the set {made.hash}, labels: {name}")
            evaluate(
                known,
                protocol="shipped-v1",
                seeds=chosen.seeds,
                name=name,
                results=chosen.results,
                reporter=LineReporter(),
                **how,
            )
    text = table(RecordStore(chosen.results))
    print(text)
    if chosen.write:
        (HERE / "light_labels.md").write_text(f"# Light labels\n\n{NOTE}\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
