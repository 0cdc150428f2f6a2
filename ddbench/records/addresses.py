"""Addresses of files: `https:`, `hf:` and `file:`, read strictly, and fetched bounded, hash-checked and whole.

Reading an address touches no network. Fetching follows https alone, also through redirects, stops at the size that was
promised, and leaves either the promised bytes or nothing.
"""

import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, urlsplit

from ddbench.errors import DDBenchError, UsageError
from ddbench.schema import UNSEEN
from ddbench.system.downloads import TIMEOUT
from ddbench.system.files import write_with

# not huggingface_hub: it reads HF_ENDPOINT only when it is imported, and its parser takes more than these forms
HUB = re.compile(r"hf:(datasets/)?([\w.-]+/[\w.-]+)(?:@([\w.-]+))?/(.+)", re.ASCII)
PRINTABLE = re.compile(r"[!-~]+")
HOST = "https://huggingface.co"
CHUNK = 2**20
Progress = Callable[[int, int], None]


class CannotFetch(DDBenchError):
    """A file could not be had from its address, or is not the promised one."""


@dataclass(frozen=True)
class Address:
    """Place of a file: `url` of an https or hf address, or `path` of a file, relative and within its folder."""

    text: str
    url: str | None = None
    path: PurePosixPath | None = None


def parse_address(text: str) -> Address:
    """Read an address.

    `hf:OWNER/REPO[@REVISION]/PATH` is a file of a model repository of the Hugging Face Hub (HF_ENDPOINT), and
    `hf:datasets/OWNER/REPO[@REVISION]/PATH` one of a data set repository; the revision is `main` if none is given.

    Raises:
        ValueError: none of the three forms, a password in it, a path that leaves its folder.
    """
    if text.startswith("https://"):
        return Address(text, url=checked_link(text))
    if text.startswith("hf:"):
        return Address(text, url=_hub_url(text))
    if text.startswith("file:"):
        return Address(text, path=_inner(text.removeprefix("file:")))
    raise ValueError("an address is https://..., hf:OWNER/REPO/PATH, or file:PATH beside the record")


def checked_address(text: str) -> str:
    """Return the address itself, if `parse_address` reads it; ValueError otherwise."""
    parse_address(text)
    return text


def checked_link(text: str) -> str:
    """An https address without user, password and fragment; ValueError for anything else."""
    try:
        parts = urlsplit(text)
        sound = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound or not PRINTABLE.fullmatch(text) or "\\" in text:
        raise ValueError("an address https://HOST/PATH is needed")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("an address without user, password and # is needed")
    return text


def _hub_url(text: str) -> str:
    found = HUB.fullmatch(text)
    if found is None:
        raise ValueError("hf:OWNER/REPO[@REVISION]/PATH or hf:datasets/OWNER/REPO[@REVISION]/PATH is needed")
    kind, repository, revision, path = found.groups()
    if {".", ".."} & {*repository.split("/"), revision}:
        raise ValueError("hf: no part may be a dot")
    place = quote(_inner(path).as_posix())
    return checked_link(f"{HOST}/{kind or ''}{repository}/resolve/{revision or 'main'}/{place}")


def _mirrored(place: Address) -> str:
    """Give the URL to ask, on the host that HF_ENDPOINT names where the address is the hub's."""
    assert place.url is not None
    endpoint = os.environ.get("HF_ENDPOINT")
    if not endpoint or not place.text.startswith("hf:"):
        return place.url
    try:
        return checked_link(endpoint).rstrip("/") + place.url.removeprefix(HOST)
    except ValueError as error:
        raise UsageError(f"HF_ENDPOINT={endpoint!r}: {error}") from error


def _inner(text: str) -> PurePosixPath:
    """A relative path that stays in its folder on any system; ValueError for another."""
    parts = text.split("/")
    odd = any(part in ("", ".", "..") or part.startswith("~") for part in parts)
    if odd or not text.isprintable() or "\\" in text or ":" in text:
        raise ValueError("a relative path with / and without .. is needed")
    return PurePosixPath(text)


def fetch(
    address: str,
    out: Path,
    *,
    size: int,
    sha256: str,
    folder: Path,
    limit: int,
    progress: Progress | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write the file of an address to `out`: the promised bytes, whole, or nothing.

    Args:
        address: see `parse_address`.
        out: the file to write; one that is there is replaced only by the promised bytes.
        size: promised size in bytes; not one more is read.
        sha256: promised SHA-256 of the bytes, 64 hex digits.
        folder: that a `file:` address is relative to, and may not leave, by a link either.
        limit: bytes that the caller is willing to take.
        progress: called with (bytes read, size).
        check: called with the fresh file before it is put in place; what it raises keeps it out.

    Raises:
        UsageError: no address, a size above the limit, a file outside its folder, a place that cannot be written.
        CannotFetch: in one line: the network or server failed, or the bytes are not the promised ones.
    """
    try:
        place = parse_address(address)
    except ValueError as error:
        raise UsageError(f"{address!r:.200}: {error}") from error
    if size > limit:
        raise UsageError(f"{address}: {size:,} bytes, more than the {limit:,} that are allowed (--limit)")

    def write(temporary: Path) -> None:
        with _opened(place, folder) as source, temporary.open("wb") as target:
            _copy(source, target, place.text, size, sha256, progress)
        if check is not None:
            check(temporary)

    write_with(out, write)


def _copy(source: Any, target: IO[bytes], name: str, size: int, sha256: str, progress: Progress | None) -> None:
    total, seen = 0, hashlib.sha256()
    while chunk := _read(source, name, min(CHUNK, size + 1 - total)):
        total += len(chunk)
        if total > size:
            raise CannotFetch(f"{name}: larger than the {size:,} bytes that the record states")
        seen.update(chunk)
        target.write(chunk)
        if progress is not None:
            progress(total, size)
    if total < size:
        raise CannotFetch(f"{name}: {total:,} bytes, the record states {size:,}")
    if seen.hexdigest() != sha256:
        raise CannotFetch(f"{name}: not the file that the record states: its SHA-256 is {seen.hexdigest()}")


def _read(source: Any, name: str, count: int) -> bytes:
    try:
        return bytes(source.read(count))
    except (OSError, http.client.HTTPException) as error:
        raise CannotFetch(f"{name}: broke off: {_reason(error)}") from error


def _opened(place: Address, folder: Path) -> Any:
    return _open_file(place, folder) if place.path is not None else _open_url(place)


def _open_file(place: Address, folder: Path) -> IO[bytes]:
    assert place.path is not None
    root = folder.resolve()
    try:
        path = (root / place.path).resolve()
        if not path.is_relative_to(root):
            raise UsageError(f"{place.text}: leads out of {folder}")
        if not path.is_file():
            raise CannotFetch(f"{place.text}: no such file in {folder}")
        return path.open("rb")
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise CannotFetch(f"{place.text}: cannot be read: {_reason(error)}") from error


def _open_url(place: Address) -> Any:
    opener = urllib.request.OpenerDirector()  # by hand, so that no other scheme can be opened
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _OnlyHttps(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(_mirrored(place), headers={"User-Agent": "ddbench", "Accept-Encoding": "identity"})
    try:
        return opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise CannotFetch(f"{place.text}: the server answers {error.code} {_clean(str(error.reason))}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CannotFetch(f"{place.text}: cannot be reached: {_reason(error)}") from error


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """Redirects to https alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Make the next request; refused where it would leave https."""
        if not newurl.startswith("https://"):
            fp.close()
            raise urllib.error.URLError(f"redirected to {newurl!r:.100}, only https is followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    text = getattr(cause, "strerror", None) or cause
    return _clean(str(text)) or type(error).__name__


def _clean(text: str) -> str:
    """One line of at most 200 characters that can be seen: a server may answer anything."""
    return UNSEEN.sub("?", " ".join(text.split()))[:200]
