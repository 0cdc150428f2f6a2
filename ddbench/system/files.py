"""Files that are whole or absent: atomic writes and locks between processes."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from ddbench.errors import CannotWrite, UsageError
from ddbench.system.rank import follows

if TYPE_CHECKING:
    import torch

fcntl = import_module("fcntl") if find_spec("fcntl") else None  # Windows has none: there, writers are not held apart


def make_folder(path: Path) -> Path:
    """Create `path` and its parents; CannotWrite in one line where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"cannot create folder {path}: {error.strerror or error}") from error
    return path


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write(temporary_path)` produce a file beside `path`, then move it into place in one step.

    A reader sees the old file or the new one, never a part; after a failure (a full disk say) the old file
    stands and the temporary one is gone. CannotWrite where the folder or file cannot be written.
    """
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotWrite(f"cannot write {path}: {reason}") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, whole or not at all (see `write_with`)."""
    payload = data.encode() if isinstance(data, str) else data

    def write(temporary: Path) -> None:
        temporary.write_bytes(payload)

    write_with(path, write)


def write_tensors(path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: dict[str, str]) -> None:
    """Write named tensors and texts as a safetensors file, whole or not at all. Tensors may share memory."""
    from safetensors.torch import save_file

    plain: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor  # safetensors refuses what is shared
        seen.add(storage)
    write_with(path, lambda temporary: save_file(plain, temporary, metadata))


def read_text(path: Path, limit: int, what: str) -> str:
    """The text of a small UTF-8 file, whoever wrote it.

    Args:
        path: the file.
        limit: bytes that it may have; no more than these are ever read.
        what: it should be, in words.

    Raises:
        UsageError: in one line: no such file, larger, no file that can be read, or no text.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
        if len(raw) > limit:
            raise UsageError(f"{path}: too large for a {what}: more than {limit:,} bytes")
        return raw.decode("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as a {what}: {error}") from error


def check_writable(path: Path) -> None:
    """Raise CannotWrite now if `path` (a file to be written later) could not be written; leaves nothing behind."""
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(prefix=".probe.", dir=path.parent)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    os.close(handle)
    with contextlib.suppress(OSError):
        os.unlink(name)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes on `path` (a hidden lock file beside it). Released if the holder dies.

    Between machines it holds where their shared file system has locks: NFS has, unless mounted with `nolock`.
    Processes of one job make the same things together: those that follow do not wait for the one that leads.
    """
    make_folder(path.parent)
    if follows():
        yield
        return
    try:
        file = lock_file(path).open("a")
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    with file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        look_again(path.parent)
        yield


def lock_file(path: Path) -> Path:
    """The file that is locked for `path`."""
    return path.with_name(f".{path.name}.lock")


def held(path: Path) -> bool:
    """Whether anyone holds the lock on `path`; False also where its file system has no locks. Does not wait."""
    if fcntl is None:
        return True
    with lock_file(path).open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def look_again(folder: Path) -> None:
    """See what other machines wrote in a folder: an NFS client believes what it knew unless the folder is opened."""
    with contextlib.suppress(OSError), os.scandir(folder):
        pass


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
