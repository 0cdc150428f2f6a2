"""Submissions: `ddbench submit` writes them into results/submitted, `ddbench check-submissions` checks a pull request.

A submission is a record with a claim (`ddbench.records.submission`). It lies where the store keeps that record, so tables
and plots read it as any other. The check reads files and the installed plugins; it downloads nothing and runs nothing.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
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
"""Fewest evaluation seeds of a claim: fewer say too little about their own spread."""
CELL = ("protocol", "protocol_version", "dataset", "budget", "student_network", "method", "borrowed")
"""Fields in which a record and one that it supersedes are equal."""
Part = TypeVar("Part", SharedFile, Submission)


@dataclass(frozen=True)
class SubmissionProblem:
    """A file of a submission and what is wrong with it, in one line."""

    file: Path
    text: str

    def __str__(self) -> str:
        return UNSEEN.sub("?", f"{self.file}: {self.text}")  # a file's name may hold anything but / and NUL


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits; UsageError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def shared_set(path: Path, address: str) -> tuple[str, SharedFile]:
    """Describe a set's file: the set's content hash, and size, SHA-256 and address of the file."""
    return load(path).hash, _shared("set", path, address)


def shared_product(path: Path, address: str) -> tuple[str, SharedFile]:
    """Describe a teacher's file (`teachers/HASH.safetensors` of the cache) or an entry of a stage, as `shared_set` does.

    Raises:
        UsageError: the file is neither of the two.
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
    """Make a claim; `words` are the other fields of `Submission`. UsageError names the field that is wrong."""
    fields = {name: value for name, value in words.items() if value is not None}
    return _read(Submission, {**fields, "files": dict(files)}, "submission")


def _read(kind: type[Part], fields: Mapping[str, object], where: str) -> Part:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from error


def submit(record: Record, about: Submission, out: Path, *, superseded: Record | None = None) -> Path:
    """Write a record with a claim into a folder of submissions and return its file.

    Args:
        record: the runs that are claimed.
        about: who claims them.
        out: folder of submissions, such as results/submitted.
        superseded: record of somebody's baseline that an appeal's better recipe supersedes; its file stays.

    Raises:
        UsageError: the first problem that `ddbench check-submissions` would find.
    """
    changes: dict[str, object] = {"submission": about}
    if superseded is not None:
        changes["supersedes"] = superseded.key_hash()
    made = Record.from_json(record.model_copy(update=changes).to_json(), "submission")
    problems = list(claim_problems(made))
    if superseded is not None:
        problems += appeal_problems(made, {superseded.key_hash(): superseded})
    if problems:
        raise UsageError(problems[0])
    return RecordStore(make_folder(out)).add(made)


def records_of(synset: Path, results: Sequence[Path]) -> list[Record]:
    """Return the records, in some folders, that have runs on the set of a file; UsageError if there are none."""
    wanted = load(synset).hash
    records = [record for root in results for record in RecordStore(root) if wanted in record.synsets]
    if not records:
        folders = ", ".join(map(str, results))
        raise UsageError(f"no record of {synset} in {folders}: ddbench evaluate {synset} makes one")
    return records


def check_submissions(results: Path, base: Path | None = None) -> list[SubmissionProblem]:
    """List all problems of the submissions below `results`/submitted; they may be merged if there are none.

    Args:
        results: folder with `submitted` and, for appeals, `measured`.
        base: the same folder before the change: its records must still be there.
    """
    root = results / "submitted"
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        return [SubmissionProblem(root, "no folder")]
    problems, records = [], {}
    for path in _files(root):
        try:
            records[path] = _own_record(path, root)
        except UsageError as error:
            problems.append(SubmissionProblem(path, str(error).removeprefix(f"{path}: ")))
    measured = RecordStore(results / "measured") if any(record.supersedes for record in records.values()) else ()
    known = {record.key_hash(): record for record in (*records.values(), *measured)}
    for path, record in records.items():
        for part in (claim_problems(record), _file_problems(record, path), appeal_problems(record, known)):
            problems += [SubmissionProblem(path, text) for text in _texts(part)]
    return problems + (_lost(base / "submitted", root, records) if base is not None else [])


def _texts(problems: Iterator[str]) -> Iterator[str]:
    """Pass problems on; an error that is raised while they are looked for is one more."""
    try:
        yield from problems
    except DDBenchError as error:
        yield str(error)


def _files(root: Path) -> list[Path]:
    """List everything below a folder but folders and the store's empty lock files; links are not followed."""
    everything = root.rglob("*") if root.is_dir() else ()
    return sorted(path for path in everything if path.is_symlink() or not (path.is_dir() or _is_lock(path)))


def _is_lock(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".json.lock") and path.stat().st_size == 0


def _own_record(path: Path, root: Path) -> Record:
    """Read a record, which must be a plain file, in the suite's own format, where the store keeps that record."""
    if path.is_symlink() or path.suffix != ".json" or not path.is_file():
        raise UsageError("only records belong here: .json files, no links")
    record = read_record(path)
    if path.read_bytes() != record.to_json().encode():
        raise UsageError("not written as records are: let ddbench submit write it")
    place = RecordStore(root).path(record.key())
    if path != place:
        raise UsageError(f"belongs at {place.relative_to(root)}")
    return record


def claim_problems(record: Record) -> Iterator[str]:
    """List what is wrong with a record's claim and runs, without looking at other files."""
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


def _file_problems(record: Record, path: Path) -> Iterator[str]:
    """List the files beside the record that are missing or differ from what it states."""
    for key, file in record.submission.files.items() if record.submission is not None else ():
        place = parse_address(file.address).path
        if place is None:
            continue
        kept = path.parent / place
        if not kept.resolve().is_relative_to(path.parent.resolve()) or not kept.is_file():
            yield f"{file.address}: no such file beside the record"
        elif kept.stat().st_size != file.size or file_sha256(kept) != file.sha256:
            yield f"{file.address}: not the file {key[:12]} that the record states"


def appeal_problems(record: Record, known: Mapping[str, Record]) -> Iterator[str]:
    """List why a record may not supersede another: that must be of the same cell, and have a lower mean."""
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
    """Return the highest mean accuracy of its settings; 0 where there is none."""
    groups = ([run.top1 for run in runs if run.top1 is not None] for runs in record.by_setting().values())
    return max((fmean(values) for values in groups if values), default=0.0)


def _lost(before: Path, root: Path, records: Mapping[Path, Record]) -> list[SubmissionProblem]:
    """List the records of the base that are gone or changed: a submission only adds."""
    problems = []
    for path in RecordStore(before).paths():
        place = root / path.relative_to(before)
        now = records.get(place)
        if now is None:
            problems.append(SubmissionProblem(place, "was recorded before, and is gone or broken"))
            continue
        try:
            kept = merge(read_record(path), now) == now
        except UsageError as error:
            problems.append(SubmissionProblem(place, str(error).removeprefix("record: ")))
            continue
        if not kept:
            problems.append(SubmissionProblem(place, "changes what was recorded before; a submission only adds runs"))
    return problems
