"""Downloads: whole or not at all, given up when the server is silent, shown on stderr; of data, none in a dry run."""

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ddbench.errors import UsageError
from ddbench.system.files import write_with

TIMEOUT = 30.0  # seconds without an answer after which a download is given up


def fetch(path: Path, *urls: str, digest: str = "", algorithm: str = "sha256") -> None:
    """Download a file from the first of its addresses that has it; what is at `path` already stands.

    Args:
        path: where to write it.
        urls: tried in order.
        digest: hex digits that the hash of the file must begin with.
        algorithm: of the hash, by hashlib's name.

    Raises:
        UsageError: no connection, a broken one, or another hash: of the last address.
    """
    for left in reversed(range(0 if path.exists() else len(urls))):
        try:
            return write_with(path, partial(_download, urls[-1 - left], path.name, digest, algorithm))
        except UsageError:
            if not left:
                raise


def _download(url: str, title: str, digest: str, algorithm: str, out: Path) -> None:
    from rich.console import Console
    from rich.progress import wrap_file

    request, console = urllib.request.Request(url, headers={"User-Agent": "ddbench"}), Console(stderr=True)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, out.open("wb") as file:
            size, hidden = answer.length or 0, not console.is_terminal
            with wrap_file(answer, size, description=title, console=console, disable=hidden) as source:
                shutil.copyfileobj(source, file)
    except OSError as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        raise UsageError(f"{url}: {' '.join(str(error).split())}") from error
    with out.open("rb") as file:
        if out.stat().st_size < size or not hashlib.file_digest(file, algorithm).hexdigest().startswith(digest):
            raise UsageError(f"{url}: not the file that was expected, by its size or hash")


_refused = False


@contextmanager
def refused(when: bool = True) -> Iterator[None]:
    """Within the block, which plans and does nothing, a data set that is not here is an error. `when`: else as before."""
    global _refused
    before, _refused = _refused, _refused or when
    try:
        yield
    finally:
        _refused = before


def are_refused() -> bool:
    """Tell whether this is within `refused`."""
    return _refused
