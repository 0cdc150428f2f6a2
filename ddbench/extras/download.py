"""Downloads of the files that a record names, each checked against its hash before it is put in place.

A set goes into a folder. A teacher goes into the cache under the hash of its content, where the suite finds it. Experts
go into the cached stage that they are an entry of, only when they are asked for by name. Nothing in a file is executed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

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
"""Bytes of the largest file that is downloaded by default."""


def pull(
    record: Record,
    where: Path,
    *,
    what: Kind = "set",
    out: Path | None = None,
    limit: int = LIMIT,
    progress: Progress | None = None,
) -> list[tuple[Path, str]]:
    """Download the files of one kind that a record names.

    Args:
        record: with a submission that has files of this kind.
        where: the record's file; `file:` addresses are relative to its folder.
        what: "set", "teacher" or "experts".
        out: folder for sets (default: the current one).
        limit: largest size of a file, in bytes.
        progress: called with (bytes read, size).

    Returns:
        Path and content hash of each file, in the order of the hashes. A file that is there already is kept.

    Raises:
        UsageError: no such file in the record, a size above the limit, a place that cannot be written.
        CannotFetch: the network failed, or the file is not the one that the record states; nothing is left behind.
    """
    files = record.submission.files if record.submission is not None else {}
    wanted = {key: file for key, file in sorted(files.items()) if file.kind == what}
    if not wanted:
        kinds = ", ".join(sorted({file.kind for file in files.values()})) or "none of anything"
        raise UsageError(f"{where}: states no address of a {what}; it has {kinds}")
    downloads = []
    for key, file in wanted.items():
        place = _place(key, file, record, out or Path())
        _download(key, file, place, where.parent, limit, progress)
        downloads.append((place, key))
    return downloads


def _download(key: str, file: SharedFile, place: Path, folder: Path, limit: int, progress: Progress | None) -> None:
    if place.exists():
        _check(place, key, file, f"{place}: is there already, and is not the file {key[:12]}")
        return
    problem = f"{file.address}: is not the {file.kind} {key[:12]} that the record states"
    fetch(
        file.address,
        place,
        size=file.size,
        sha256=file.sha256,
        folder=folder,
        limit=limit,
        progress=progress,
        check=lambda fresh: _check(fresh, key, file, problem),
    )


def _place(key: str, file: SharedFile, record: Record, out: Path) -> Path:
    """Return the path of a file: below `out` or the cache, whatever the record says."""
    if file.kind == "set":
        return out / f"{safe_name(record.method, 48)}_{key[:12]}.safetensors"
    if file.kind == "teacher":
        return cache_dir() / "teachers" / f"{key}.safetensors"
    assert file.entry is not None  # the record's schema demands it of experts
    return cache_dir() / "stages" / f"{file.entry}.safetensors"


def _check(path: Path, key: str, file: SharedFile, problem: str) -> None:
    """Raise CannotFetch(`problem`) unless the file is of its kind and its content has the hash `key`."""
    readers: dict[str, Callable[[Path], Any]] = {"set": load, "teacher": read_teacher, "experts": look_sealed}
    try:
        content = readers[file.kind](path)
    except UsageError as error:
        raise CannotFetch(f"{problem}: {str(error).removeprefix(f'{path}: ')}") from error
    if content.hash != key:
        raise CannotFetch(problem)
