"""Files that are whole or absent: atomic writes, locks between processes, tensors that are checked when they are read."""

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from ddbench.errors import CannotWrite, UsageError
from ddbench.hashing import tensors_digest
from ddbench.system.rank import follows

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


def make_folder(path: Path) -> Path:
    """Create `path` and its parents; CannotWrite in one line where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"cannot create folder {path}: {error.strerror or error}") from error
    return path


def write_with(path: Path, write: Callable[[Path], object]) -> None:
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
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CannotWrite(f"cannot write {path}: {reason}") from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, whole or not at all (see `write_with`)."""
    payload = data.encode() if isinstance(data, str) else data
    write_with(path, lambda temporary: temporary.write_bytes(payload))


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
    """Text of a small UTF-8 file, whoever wrote it.

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
    from filelock import FileLock  # slow to import

    make_folder(path.parent)
    if follows():
        yield
        return
    lock = FileLock(lock_file(path))
    try:
        lock.acquire()
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    try:
        look_again(path.parent)
        yield
    finally:
        lock.release()


def lock_file(path: Path) -> Path:
    """File that is locked for `path`."""
    return path.with_name(f".{path.name}.lock")


def held(path: Path) -> bool:
    """Tell whether anyone holds the lock on `path`; False also where its file system has no locks. Does not wait."""
    from filelock import FileLock, Timeout

    try:
        FileLock(lock_file(path)).acquire(blocking=False).lock.release()
    except Timeout:
        return True
    except OSError:
        return False
    return False


def look_again(folder: Path) -> None:
    """See what other machines wrote in a folder: an NFS client believes what it knew unless the folder is opened."""
    with contextlib.suppress(OSError), os.scandir(folder):
        pass


def cached_tensors(path: Path, build: Callable[[], "dict[str, torch.Tensor]"]) -> tuple["dict[str, torch.Tensor]", str]:
    """Read the named tensors cached at `path`, or build and write them; returns them with their `tensors_digest`.

    Processes that want the same entry wait for the one that builds it. A damaged entry (cut short, bits flipped) is
    reported once through logging and built again. The file is mapped, not copied: do not write to the tensors.
    CannotWrite where the cache cannot be written.
    """
    with locked(path):
        cached = read_checked(path, tensors_digest)
        if cached is None:
            tensors = build()
            cached = tensors, tensors_digest(tensors)
            write_tensors(path, tensors, {"sha256": cached[1]})
        return cached


def read_checked(
    path: Path, checksum: Callable[[dict[str, Any]], str], framework: Literal["pt", "np"] = "pt"
) -> tuple[dict[str, Any], str] | None:
    """Named tensors at `path` and their checksum; None where they are absent or damaged, which is logged.

    Args:
        path: a safetensors file whose metadata has the checksum as `sha256`.
        checksum: of what is read.
        framework: "pt" for tensors, "np" for numpy's arrays.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework=framework) as file:
            expected = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if checksum(tensors) != expected:
            raise ValueError("its hash does not match")
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("cache entry %s is damaged (%s): it is built again", path, error)
        return None
    return tensors, expected
