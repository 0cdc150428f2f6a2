"""Pulling: the files that a record states, from where it says they are, hash-checked before they are put in place.

A set comes into a folder; a teacher into the cache, under the hash of its content, where whatever asks for it finds it;
experts into the stage that they are an entry of, only when they are asked for by name. Nothing in a file is executed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ddbench.errors import UsageError
from ddbench.records.addresses import CannotFetch, Progress, fetch
from ddbench.records.record import Record
from ddbench.records.store import safe_name
from ddbench.records.submission import SharedFile
from ddbench.settings import cache_dir
from ddbench.synset.synset import load
from ddbench.synset.teachers import read_teacher
from ddbench.training.sealed import look_sealed

Kind = Literal["set", "teacher", "experts"]
KINDS: tuple[Kind, ...] = ("set", "teacher", "experts")
LIMIT = 8 * 2**30
"""Bytes of one file that are taken unless more are allowed."""


def pull(
    record: Record,
    where: Path,
    *,
    what: Kind = "set",
    out: Path | None = None,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> list[tuple[Path, str]]:
    """Fetch the files of one kind that a record states.

    Args:
        record: with a submission that has files of this kind.
        where: the record's file; `file:` addresses are beside it.
        what: "set", "teacher" or "experts".
        out: folder for sets (default: the current one).
        limit: bytes of a file above which nothing is fetched.
        progress: called with (bytes read, size).

    Returns:
        Each file and the hash of its content, in the order of the hashes. One that was there already is kept.

    Raises:
        UsageError: no such file in the record, a size above the limit, a place that cannot be written.
        CannotFetch: the network failed, or what came is not what the record states; nothing is left behind.
    """
    files = record.submission.files if record.submission is not None else {}
    wanted = {key: file for key, file in sorted(files.items()) if file.kind == what}
    if not wanted:
        raise UsageError(f"{where}: states no address of a {what}; it has {_kinds(files)}")
    return [(_pulled(key, file, record, where, out or Path(), limit, progress), key) for key, file in wanted.items()]


def _kinds(files: Mapping[str, SharedFile]) -> str:
    return ", ".join(sorted({file.kind for file in files.values()})) or "none of anything"


def _pulled(
    key: str, file: SharedFile, record: Record, where: Path, out: Path, limit: int, progress: Progress | None
) -> Path:
    place, stated = _place(key, file, record, out), f"{file.kind} {key[:12]} that the record states"
    if place.exists():
        _check(place, key, file, CannotFetch(f"{place}: is there already, and is not the file {key[:12]}"))
        return place
    fetch(
        file.address,
        place,
        size=file.size,
        sha256=file.sha256,
        folder=where.parent,
        limit=limit,
        progress=progress,
        check=lambda fresh: _check(fresh, key, file, CannotFetch(f"{file.address}: is not the {stated}")),
    )
    return place


def _place(key: str, file: SharedFile, record: Record, out: Path) -> Path:
    """Where a file belongs: below `out` or the cache, whatever the record says."""
    if file.kind == "set":
        return out / f"{safe_name(record.method, 48)}_{key[:12]}.safetensors"
    if file.kind == "teacher":
        return cache_dir() / "teachers" / f"{key}.safetensors"
    assert file.entry is not None  # a record has been read: its form is checked
    stage, digest, entry = file.entry.split("/")
    return cache_dir() / "stages" / stage / digest / f"{entry}.safetensors"


def _check(path: Path, key: str, file: SharedFile, otherwise: CannotFetch) -> None:
    """Raise an error unless the content of a file, read as its kind is, has that hash."""
    readers = {"set": lambda: load(path).hash, "teacher": lambda: read_teacher(path).hash}
    try:
        found = readers.get(file.kind, lambda: look_sealed(path).hash)()
    except UsageError as error:
        raise CannotFetch(f"{otherwise}: {str(error).removeprefix(f'{path}: ')}") from error
    if found != key:
        raise otherwise
