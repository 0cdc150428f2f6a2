"""Submissions written and checked: what `ddbench submit` leaves in results/submitted, and what a pull request must hold.

A submission is a record with a claim (`ddbench.records.submission`), kept where the store keeps that record, so that tables and
plots read it as any other. Checking reads files and the plugins that are installed; it fetches nothing and runs nothing.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from pydantic import ValidationError

from ddbench import networks
from ddbench.data.registry import dataset_names
from ddbench.errors import DDBenchError, UsageError, first_problem, unknown
from ddbench.evaluation.protocol import find_protocol
from ddbench.records.addresses import parse_address
from ddbench.records.record import Record
from ddbench.records.store import RecordStore, merge, read_record
from ddbench.records.submission import SharedFile, Submission
from ddbench.schema import UNSEEN
from ddbench.synset.synset import load
from ddbench.system.files import make_folder
from ddbench.training.precision import admitted
from ddbench.training.sealed import look_sealed

SEEDS = 3
"""The fewest evaluation seeds of a claim: a mean of fewer says too little of its own spread."""
CELL = ("protocol", "protocol_version", "dataset", "budget", "student_network", "method", "borrowed")
"""What a record and one that it supersedes have in common."""
CHUNK = 2**22
Part = TypeVar("Part", SharedFile, Submission)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a submission, in one line."""

    file: Path
    text: str

    def __str__(self) -> str:
        return UNSEEN.sub("?", f"{self.file}: {self.text}")  # a file's name may hold anything but / and NUL


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; UsageError if it cannot be read."""
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                total.update(chunk)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


def shared_set(path: Path, address: str) -> tuple[str, SharedFile]:
    """A set's content hash, and how its file is told apart, where it is to be kept."""
    return load(path).hash, _shared("set", path, address)


def shared_product(path: Path, address: str) -> tuple[str, SharedFile]:
    """As `shared_set`, for a teacher (`teachers/HASH.safetensors` of the cache) or an entry of a stage.

    Raises:
        UsageError: neither of the two.
    """
    product = look_sealed(path)
    if path.parent.name == "teachers":
        return product.hash, _shared("teacher", path, address)
    entry = "/".join((*path.parts[-3:-1], path.stem))
    return product.hash, _shared("experts", path, address, entry)


def _shared(kind: str, path: Path, address: str, entry: str | None = None) -> SharedFile:
    facts = {"kind": kind, "size": path.stat().st_size, "sha256": file_sha256(path), "address": address}
    return _read(SharedFile, {**facts, "entry": entry}, str(path))


def claim(files: Mapping[str, SharedFile], **words: object) -> Submission:
    """A claim; `words` are the other fields of `Submission`. UsageError names the field that is wrong."""
    given = {name: value for name, value in words.items() if value is not None}
    return _read(Submission, {**given, "files": dict(files)}, "submission")


def _read(kind: type[Part], fields: Mapping[str, object], where: str) -> Part:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from error


def submit(record: Record, about: Submission, out: Path, *, superseded: Record | None = None) -> Path:
    """Write a record with a claim into a folder of submissions; returns its file.

    Args:
        record: the runs that are claimed.
        about: who claims them.
        out: folder of submissions, results/submitted say.
        superseded: the record of somebody's baseline that an appeal's better recipe supersedes; its file stays.

    Raises:
        UsageError: what `ddbench check-submissions` would not accept, in one line.
    """
    changes: dict[str, object] = {"submission": about}
    if superseded is not None:
        changes["supersedes"] = superseded.key_hash()
    made = record.model_copy(update=changes)
    made = Record.from_json(made.to_json(), "submission")
    wrong = [
        *_claim_problems(made),
        *(_appeal_problems(made, {superseded.key_hash(): superseded}) if superseded else ()),
    ]
    if wrong:
        raise UsageError(wrong[0])
    return RecordStore(make_folder(out)).add(made)


def records_of(synset: Path, results: Sequence[Path]) -> list[Record]:
    """The records, in some folders, that have runs on the set of a file; UsageError if there are none."""
    wanted = load(synset).hash
    found = [record for root in results for record in RecordStore(root) if wanted in record.synsets]
    if not found:
        raise UsageError(
            f"no record of {synset} in {', '.join(map(str, results))}: ddbench evaluate {synset} makes one"
        )
    return found


def check_submissions(results: Path, base: Path | None = None) -> list[Problem]:
    """Everything that is wrong with the submissions below `results`/submitted, a line each; none: they may be merged.

    Args:
        results: folder with `submitted` and, for appeals, `measured`.
        base: the same folder before the change: what is recorded there must still be there.
    """
    root = results / "submitted"
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        return [Problem(root, "no folder")]
    problems, records = [], {}
    for path in _files(root):
        try:
            records[path] = _own_record(path, root)
        except UsageError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
    appeals = any(record.supersedes for record in records.values())
    others = {r.key_hash(): r for r in _other_records(results, records)} if appeals else {}
    for path, record in records.items():
        problems += [Problem(path, text) for text in _each(_record_problems, record, path)]
        problems += [Problem(path, text) for text in _each(_appeal_problems, record, others)]
    return problems + (_lost(base / "submitted", root, records) if base is not None else [])


def _each(check: Callable[..., Iterator[str]], *given: object) -> Iterator[str]:
    """What a check says; an error that it raises is one more line."""
    try:
        yield from check(*given)
    except DDBenchError as error:
        yield str(error)


def _files(root: Path) -> list[Path]:
    """Everything below a folder that is no folder itself, but the empty lock files of the store; links are not followed."""
    found = root.rglob("*") if root.is_dir() else ()
    return sorted(path for path in found if path.is_symlink() or not (path.is_dir() or _is_lock(path)))


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".json.lock") and path.stat().st_size == 0


def _own_record(path: Path, root: Path) -> Record:
    """The record of a file, which must be a plain one, written as we write it, where the store keeps that record."""
    if path.is_symlink() or path.suffix != ".json" or not path.is_file():
        raise UsageError("only records belong here: .json files, no links")
    record = read_record(path)
    if path.read_bytes() != record.to_json().encode():
        raise UsageError("not written as records are: let ddbench submit write it")
    place = RecordStore(root).path(record.key())
    if path != place:
        raise UsageError(f"belongs at {place.relative_to(root)}")
    return record


def _other_records(results: Path, submitted: Mapping[Path, Record]) -> list[Record]:
    return [*submitted.values(), *RecordStore(results / "measured")]


def _record_problems(record: Record, path: Path) -> Iterator[str]:
    """What of a single submission cannot stand."""
    yield from _claim_problems(record)
    if record.submission is not None:
        yield from _kept_here(record.submission, path)


def _claim_problems(record: Record) -> Iterator[str]:
    """What of a record with a claim cannot stand, whatever else there is."""
    if record.submission is None:
        yield "no submission in it: who claims these runs?"
        return
    protocol = find_protocol(record.protocol)
    if (record.protocol_version, record.protocol_digest) != (protocol.version, protocol.digest()):
        yield f"{record.protocol} is not the protocol of this name: its version or digest differs"
    if "@" not in record.dataset and record.dataset not in dataset_names():
        yield str(unknown("data set", record.dataset, dataset_names()))
    networks.describe(record.student_network)
    shared = {key for key, file in record.submission.files.items() if file.kind == "set"}
    missing = sorted({run.synset for run in record.runs if run.synset} - shared)
    if missing:
        yield f"set {missing[0][:12]} has no file in the submission"
    yield from _run_problems(record)


def _run_problems(record: Record) -> Iterator[str]:
    """Seeds may not be chosen: every setting has the seeds 0 to n - 1, the failed ones among them."""
    for runs in record.by_setting().values():
        seeds = {run.seed for run in runs}
        if seeds != set(range(len(seeds))):
            yield f"evaluation seeds are {sorted(seeds)}: all of 0 to n - 1 are needed, none chosen"
        elif len(seeds) < SEEDS:
            yield f"{len(seeds)} evaluation seeds: at least {SEEDS} are needed"
    if not any(run.status == "ok" for run in record.runs):
        yield "no run with an accuracy"
    for precision, device in sorted({(run.precision, run.device) for run in record.runs}):
        if not admitted(precision, device):
            yield f"precision {precision} on {device} is not admitted: it was not shown to give float32's accuracies"
    if any(run.dirty for run in record.runs):
        yield "made with a changed checkout of ddbench (dirty)"


def _kept_here(claim: Submission, path: Path) -> Iterator[str]:
    """Files that are kept beside the record are there and are those that it states."""
    for key, file in claim.files.items():
        place = parse_address(file.address).path
        if place is None:
            continue
        kept = path.parent / place
        if not kept.resolve().is_relative_to(path.parent.resolve()) or not kept.is_file():
            yield f"{file.address}: no such file beside the record"
        elif kept.stat().st_size != file.size or file_sha256(kept) != file.sha256:
            yield f"{file.address}: not the file {key[:12]} that the record states"


def _appeal_problems(record: Record, known: Mapping[str, Record]) -> Iterator[str]:
    """A record supersedes one of its own cell, by a better mean, and not in a circle."""
    if record.supersedes is None:
        return
    old = known.get(record.supersedes)
    if old is None:
        yield f"supersedes {record.supersedes[:12]}, which is no record here"
        return
    differ = [name for name in CELL if getattr(record, name) != getattr(old, name)]
    if differ:
        yield f"supersedes a record of another cell: not the same {', '.join(differ)}"
    elif record.key_hash() == old.key_hash():
        yield "supersedes itself: an appeal has a recipe or a set of its own"
    elif _best(record) <= _best(old):
        yield f"supersedes a record without being better: {_best(record):.4f} against {_best(old):.4f}"
    if record.submission is not None and record.submission.appeal is None:
        yield "supersedes a record without saying why (appeal)"


def _best(record: Record) -> float:
    """The mean of its accuracies, of the best setting; 0 where there is none."""
    groups = ([run.top1 for run in runs if run.top1 is not None] for runs in record.by_setting().values())
    return max((fmean(values) for values in groups if values), default=0.0)


def _lost(before: Path, root: Path, records: Mapping[Path, Record]) -> list[Problem]:
    """Records of the base that are gone or changed: a submission adds, and takes nothing away."""
    problems = []
    for path in RecordStore(before).paths():
        place = root / path.relative_to(before)
        now = records.get(place)
        if now is None:
            problems.append(Problem(place, "was recorded before, and is gone or broken"))
            continue
        try:
            kept = merge(read_record(path), now) == now
        except UsageError as error:
            problems.append(Problem(place, str(error).removeprefix("record: ")))
            continue
        if not kept:
            problems.append(Problem(place, "changes what was recorded before: a submission adds runs, and no more"))
    return problems
