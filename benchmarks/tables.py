"""Records to tables: CPU seconds of reading 2,000 generated records and making every table of them.

    python benchmarks/tables.py [--records 2000] [--profile]

The records are those of 20 methods on two data sets, four budgets and five protocols, two student networks under one of
them, with synthesis seeds of three runs each, `random` borrowing from every method, and the whole data.
"""

import argparse
import cProfile
import os
import pstats
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from ddbench.hashing import digest
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.report import score_table, significance
from ddbench.report.frame import results_frame
from ddbench.report.renderers import FORMATS
from ddbench.report.tables import VIEWS, render
from ddbench.system.files import write_atomic

PROTOCOLS = (("hard", "net"), ("hard", "wide"), ("hard-plain", "net"), ("soft", "net"), ("soft-plain", "net"))
IPCS, DATASETS = (1, 10, 50, 100), ("digits", "mnist")
FILES = tuple(form for form in FORMATS if form != "terminal")
DATE = "2026-01-31T12:00:00+00:00"


def places() -> Iterator[tuple[str, str, str, int | None, str | None]]:
    """Method, protocol, student, IPC and whom it borrows from, of every cell of one data set."""
    methods = [f"method-{number:02d}" for number in range(19)]
    for ipc in IPCS:
        for protocol, student in PROTOCOLS:
            yield from ((method, protocol, student, ipc, None) for method in [*methods, "random"])
        yield from ((method, "shipped", "net", ipc, None) for method in methods)
        yield from (("random", "shipped", "net", ipc, method) for method in methods)
    yield from (("whole", protocol, student, None, None) for protocol, student in PROTOCOLS)


def recipe_of(method: str, ipc: int | None) -> dict[str, object]:
    """A recipe of the usual size."""
    return {"method": method, "name": "paper", "ipc": ipc, "hyper": {f"field{number}": number for number in range(15)}}


def generated(count: int, *, watched: bool = False) -> list[Record]:
    """`count` records: every cell's synthesis seed 0, then every cell's seed 1, and so on.

    `watched`: the first protocol's runs have accuracies on the way of the distillation.
    """
    made: list[Record] = []
    spots = [(dataset, *place) for dataset in DATASETS for place in places()]
    for number in range(count):
        seed, index = divmod(number, len(spots))
        dataset, method, protocol, student, ipc, lender = spots[index]
        recipe, noise = recipe_of(method, ipc), random.Random(number)
        synset, teacher = digest([dataset, recipe, seed]), digest([dataset, "teacher"])
        soft = protocol.startswith("soft")
        common = {
            "synset": synset,
            "device": "cpu",
            "precision": "float32",
            "threads": 1,
            "build": "2.9.0",
            "date": DATE,
        }
        common |= {
            "teacher": teacher if soft else None,
            "status": "ok",
            "versions": {"torch": "2.9.0", "ddbench": "0.1.0"},
        }
        level = 0.5 + 0.02 * (digest([method, ipc])[0] > "7") + 0.01 * noise.random()
        runs = [common | {"seed": run, "top1": level + 0.02 * noise.random(), "seconds": 5.0} for run in range(3)]
        if watched and (protocol, student) == PROTOCOLS[0] and ipc:
            for run in runs:
                run["snapshots"] = [{"step": 1000 * step, "top1": run["top1"] * (step / 5)} for step in range(6)]
        size = ipc or 500
        facts = {"images": 10 * size, "bytes": {"images": 9000 * size, "images_encoded": 4000 * size}}
        fields = {"protocol": f"{protocol}-v1", "protocol_version": 1, "protocol_digest": digest(protocol)}
        fields |= {"dataset": dataset, "budget": {"ipc": ipc} if ipc else {"all": True}, "method": method}
        fields |= {"student_network": student, "distill_network": "net", "recipe": recipe, "synthesis_seed": seed}
        fields |= {"recipe_hash": digest(recipe), "runs": runs, "borrowed": lender}
        fields |= {"lender": digest(recipe_of(lender, ipc)) if lender else None}
        cost = {"seconds": 60.0 * size, "peak_memory": 1e8}
        fields |= {"synsets": {synset: facts | {"space": "normalised", "cost": cost}}}
        fields |= {"teachers": {teacher: {"network": "net", "accuracy": 0.97}} if soft else {}}
        made.append(Record.model_validate(fields))
    return made


def main() -> None:
    """Write the records, read them, make the tables, and say what each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--profile", action="store_true", help="print where the time of the tables goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = stored(generated(options.records), Path(folder))
        with profiled(options.profile), timed("all"):
            make(store)


def stored(records: Iterable[Record], folder: Path) -> RecordStore:
    """A store of generated records."""
    store = RecordStore(folder)
    for record in records:
        write_atomic(store.path(record.key()), record.to_json())
    return store


def make(store: RecordStore) -> None:
    """Every table in every format; a line each on what it took."""
    with timed("reading"):
        records = list(store)
    with timed("cells"):
        frame = results_frame(records)
    print(f"{len(records)} records, {len(frame)} cells")
    with timed("scores"):
        scored = score_table.score_table(frame)
    for view in significance.VIEWS:
        with timed(f"compare, {view}"):
            rows = significance.compare(frame, view)
        print(f"{len(rows)} rows")
    for forms in (FILES, ("terminal",)):
        with timed(f"table, {len(VIEWS)} views as {', '.join(forms)}"):
            for view, form in product(VIEWS, forms):
                render(frame, form, view)
        with timed(f"scores as {', '.join(forms)}"):
            for form in forms:
                score_table.render(scored, form)
        for view, form in product(significance.VIEWS, forms):
            with timed(f"compare, {view} as {form}"):
                significance.render(frame, form, view)


@contextmanager
def profiled(wanted: bool) -> Iterator[None]:
    """Print where the time of the block goes, if wanted."""
    profile = cProfile.Profile()
    if wanted:
        profile.enable()
    yield
    if wanted:
        profile.disable()
        pstats.Stats(profile).sort_stats("cumulative").print_stats(40)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print the seconds of the block: a clock's, and those of all CPUs, children that have ended included."""
    begun, used = time.perf_counter(), sum(os.times()[:4])
    yield
    print(f"{what}: {time.perf_counter() - begun:.2f} s, {sum(os.times()[:4]) - used:.2f} CPU s")


if __name__ == "__main__":
    main()
