"""Verification: students are trained here on the set of a record, and its claims judged by `ddbench.records.claims`."""

from collections.abc import Sequence
from pathlib import Path

from ddbench.api.running import evaluate
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.jobs.job import DataName, borrowed_set
from ddbench.progress import Reporter
from ddbench.records.claims import Verification, judge_record
from ddbench.records.record import Record
from ddbench.records.store import RecordStore
from ddbench.settings import cache_dir
from ddbench.synset.synset import load
from ddbench.training.compute import Compute


def verify(
    claimed: Record,
    synset: Path,
    *,
    seeds: int | Sequence[int] = 5,
    dataset: str | None = None,
    dataset_name: str | None = None,
    borrow: Path | None = None,
    results: Path | None = None,
    workers: int = 1,
    compute: Compute | None = None,
    reporter: Reporter | None = None,
) -> list[Verification]:
    """Train students on the set of a record and judge each setting that the record claims.

    Our runs are kept in the cache, so a verification can be interrupted and resumed. The claimed runs are never reused.

    Args:
        claimed: the record.
        synset: file of its set.
        seeds: evaluation seeds of our students.
        dataset: "folder:PATH", for a set made on a folder.
        dataset_name: name of a folder data set in records.
        borrow: for a matched-recipe baseline, file of the set whose training recipe it uses.
        results: folder of records to add our runs to.
        workers: processes.
        compute: how to compute; None: `Compute.here()`.
        reporter: shows progress.

    Raises:
        UsageError: the file is no set of the record, the record is of another cell or protocol, nothing is claimed.
    """
    if claimed.borrowed is not None and borrow is None:
        raise UsageError(f"--borrow: the record uses the student recipe of {claimed.borrowed}: give that set")
    if claimed.borrowed is None and borrow is not None:
        raise UsageError("--borrow: the record uses no other set's student recipe")
    compute, own = compute or Compute.here(), load(synset)
    data = DataName(dataset or own.dataset, dataset_name)
    wanted = own.hash if borrow is None else borrowed_set(own, borrow, data.load(), compute)[0].hash
    if wanted not in claimed.synsets:
        raise UsageError(f"{synset}: its hash is {wanted[:12]}..., which the record does not name")
    if claimed.protocol_digest != find_protocol(claimed.protocol).digest():
        raise UsageError(f"the record's {claimed.protocol} is not the one that is installed: its digest differs")
    found = evaluate(
        synset,
        dataset=dataset,
        dataset_name=dataset_name,
        protocol=claimed.protocol,
        network=claimed.student_network,
        seeds=seeds,
        name=claimed.method,
        borrow=borrow,
        results=cache_dir() / "verifications",
        workers=workers,
        compute=compute,
        reporter=reporter,
    )
    verifications = judge_record(claimed, found, wanted)
    if results is not None:
        RecordStore(results).add(found)
    return verifications
