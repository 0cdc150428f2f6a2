"""A folder of records: merged under a lock, written whole, read strictly.

`<root>/<data set>/<protocol>/<method>_<budget>_<student>_<12 hex of the key's hash>.json`. Hidden files (locks,
temporary files) are no records.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.records.record import Record, Run, RunIdentity, Snapshot, identified
from ddbench.records.submission import Submission
from ddbench.settings import results_dir
from ddbench.system.files import locked, read_text, write_atomic
from ddbench.system.rank import follows

LARGEST = 2**24
"""Bytes of a record file; more is refused before it is read."""


class RecordStore:
    """Records below one folder; the folder need not exist before the first `add`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def path(self, key: Mapping[str, Any]) -> Path:
        """Give the file of the record with that key (see `Record.key`)."""
        parts = (key["method"], budget_label(key["budget"]).replace(" ", ""), key["student_network"])
        name = "_".join(safe_name(part, 48) for part in parts)
        folder = self.root / safe_name(key["dataset"]) / safe_name(key["protocol"])
        return folder / f"{name}_{digest(dict(key))[:12]}.json"

    def add(self, record: Record, *, retry_failed: bool = False, again: bool = False) -> Path:
        """Store a record, or merge its runs into the stored one; returns its file.

        Two processes may add at once: neither loses a run. A run whose identity is stored already is dropped,
        unless `retry_failed` and the stored one failed, or `again`. UsageError where the folder cannot be written, where the
        stored file is no record, or where it is another record's. A process that follows another adds nothing.
        """
        path = self.path(record.key())
        if follows():
            return path
        with locked(path):
            stored = read_record(path) if path.exists() else None
            how = {"retry_failed": retry_failed, "again": again}
            merged = merge(stored, record, where=str(path), **how) if stored else _sorted(record)
            if merged != stored:
                write_atomic(path, merged.to_json())
        return path

    def find(self, key: Mapping[str, Any]) -> Record | None:
        """Read the stored record with that key (see `Record.key`); None if there is none."""
        path = self.path(key)
        if not path.is_file():
            return None
        record = read_record(path)
        _check_key(record, dict(key), str(path))
        return record

    def paths(self) -> list[Path]:
        """List the files of all records, sorted; UsageError where the root is not a folder."""
        if self.root.exists() and not self.root.is_dir():
            raise UsageError(f"{self.root}: a folder of records is needed, this is a file")
        files = (path for path in self.root.rglob("*.json") if not _hidden(path.relative_to(self.root)))
        return sorted(files)

    def __iter__(self) -> Iterator[Record]:
        """Read every record, in the order of the files; UsageError at the first that is broken."""
        return (read_record(path) for path in self.paths())


def read_records(results: Sequence[Path] | None) -> list[Record]:
    """Every record of the folders; UsageError where a folder is missing or there is none at all."""
    folders = list(results or [results_dir()])
    records = [record for folder in folders for record in RecordStore(folder)]
    if not records:
        where = ", ".join(map(str, folders))
        raise UsageError(
            f"no records in {where}: make some (ddbench run random --ipc 1), or name a folder by --results"
        )
    return records


def read_record(path: Path) -> Record:
    """Read one record file of at most `LARGEST` bytes; UsageError names the file and the field."""
    return Record.from_json(read_text(path, LARGEST, "record"), str(path))


def merge(
    stored: Record, new: Record, *, retry_failed: bool = False, again: bool = False, where: str = "record"
) -> Record:
    """Add the new record's runs to the stored one.

    Equal identity: the stored run stays, with the snapshots of both, unless it failed and `retry_failed`; then a run that
    failed before it had a set also gives way to any new run of its seed and setting. With `again` every run gives way to
    a new one of its seed, setting and code, whatever set either has. Facts on sets and teachers are united, the stored
    ones first, but for sets that were made again. UsageError where keys or protocol digests differ, or where two people claim the runs.
    """
    _check_key(stored, new.key(), where)
    if stored.protocol_digest != new.protocol_digest:
        protocol = f"{stored.protocol} version {stored.protocol_version}"
        raise UsageError(f"{where}: protocol_digest differs: {protocol} was changed without a new version")
    if stored.submission and new.submission and not stored.submission.same_claim(new.submission):
        raise UsageError(f"{where}: holds a submission of {stored.submission.name!r}, which only its authors add to")
    kept = [old for old in stored.runs if not any(_gives_way(old, run, retry_failed, again) for run in new.runs)]
    runs: dict[RunIdentity, Run] = {}
    for identity, run in identified([*kept, *new.runs]):
        old = runs.get(identity)
        if old is None or (retry_failed and old.status == "failed"):
            runs[identity] = run
        elif old.status == run.status == "ok" and run.snapshots:
            runs[identity] = _with_snapshots(old, run.snapshots)
    changes = {
        "runs": list(runs.values()),
        "synsets": stored.synsets | new.synsets if again else new.synsets | stored.synsets,
        "teachers": new.teachers | stored.teachers,
        "supersedes": stored.supersedes or new.supersedes,
        "note": stored.note or new.note,
        "submission": _united_claims(stored, new),
    }
    return _sorted(stored.model_copy(update=changes))


def budget_label(budget: Mapping[str, Any]) -> str:
    """A budget in words: "ipc 10", "frac 0.1", "all"."""
    if "all" in budget:
        return "all"
    return f"ipc {budget['ipc']}" if "ipc" in budget else f"frac {budget['fraction']:g}"


def budget_size(label: str) -> tuple[int, float]:
    """Key that sorts budgets in words: images per class, then fractions, then all; the smaller first."""
    kind, _, size = label.partition(" ")
    return ("ipc", "frac", "all").index(kind), float(size or 0)


def _united_claims(stored: Record, new: Record) -> Submission | None:
    """Unite two claims, with the files of both; the stored one's words and addresses stay."""
    if stored.submission is None or new.submission is None:
        return stored.submission or new.submission
    return stored.submission.model_copy(update={"files": new.submission.files | stored.submission.files})


def _with_snapshots(run: Run, more: Sequence[Snapshot]) -> Run:
    """A run with further accuracies on the way; of two at one step the stored one counts."""
    points = {each.step: each for each in (*more, *(run.snapshots or ()))}
    return run.model_copy(update={"snapshots": [points[step] for step in sorted(points)]})


def _gives_way(old: Run, new: Run, retry_failed: bool, again: bool) -> bool:
    """Tell whether a new run takes a stored one's place though their identities may differ; unknown code is any code."""
    if old.code not in (None, new.code):
        return False
    if again and (new.synset is not None or old.synset is None):  # no set came of it: what was scored before stays
        one, other = (run.identity()._replace(synset=None, teacher=None, code=None) for run in (old, new))
        return one == other
    return retry_failed and _never_began(old) and _place(old) == _place(new)


def _never_began(run: Run) -> bool:
    """A run that failed before its set was there: a retry that has a set replaces it, though identities differ."""
    return run.status == "failed" and run.synset is None


def _place(run: Run) -> tuple[Any, ...]:
    """A run's seed and setting, but for what is decided when its set is there."""
    return run.seed, run.device, run.precision, run.threads, run.build, run.devices, run.synthesis, run.training


def _sorted(record: Record) -> Record:
    """Sort the runs of a record in the order of their identities, so that the file does not tell who came first."""

    def order(run: Run) -> tuple[Any, ...]:
        return run.identity().order

    return record.model_copy(update={"runs": sorted(record.runs, key=order)})


def _check_key(record: Record, key: dict[str, Any], where: str) -> None:
    own = record.key()
    if own != key:
        fields = sorted(name for name in own.keys() | key.keys() if own.get(name) != key.get(name))
        raise UsageError(f"{where}: holds another record: {', '.join(fields)} differ")


def safe_name(name: str, length: int = 80) -> str:
    """A name as a file name on any system, inside its folder; the key's hash tells apart what this makes equal."""
    return re.sub(r"[^A-Za-z0-9@.+-]+", "-", name).lstrip(".-")[:length] or "unnamed"


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
