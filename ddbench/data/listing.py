"""Image files of a split: listed folder by folder, held in a few arrays, and kept in the cache for large images.

What is kept (the class index) stands as long as the folders stand. Each folder's times of change are recorded, which
move when an entry of it comes, goes or is renamed, and they are asked again at every load: one question a folder instead
of one a file. A file that is written again in place moves no folder's time. Its size is part of a streamed split's hash,
so sizes are checked where files are touched anyway: of some files at every load, and of every image when it is read
(`Listing.unchanged`). Splits that are decoded once are listed anew at every load: their cache's key rests on every file's
time.
"""

import contextlib
import hashlib
import logging
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ddbench.data.dataset import RESIDENT_SIDE
from ddbench.errors import CannotWrite, UsageError
from ddbench.hashing import canonical_json, digest
from ddbench.settings import cache_dir
from ddbench.system.files import read_checked, write_with

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

log = logging.getLogger(__name__)

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".tif", ".tiff", ".webp")
INDEX_VERSION = 1  # raised by hand when what is listed, or how it is kept, changes; part of the index's key
SETTLED = (
    2.0  # seconds; a folder that changed later than that before it was listed may change again within one time stamp
)
SAMPLED = 64  # files whose sizes are compared when an index is read
AT_ONCE = 4096  # numbers that become Python's own at a time


@dataclass(frozen=True, eq=False)
class Names:
    """Many short texts in one piece of memory: UTF-8 `text`, the i-th up to `ends[i]` (int64)."""

    text: bytes
    ends: "Array"

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Names":
        """Those of some texts."""
        import numpy as np

        text, ends = bytearray(), array("q")
        for each in texts:
            text += each.encode()
            ends.append(len(text))
        return cls(bytes(text), np.array(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        return self.text[self.ends[index - 1] if index else 0 : self.ends[index]].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in _plain(self.ends):
            yield self.text[start:end].decode()
            start = end


class File(NamedTuple):
    """One image file: its name relative to the split's folder, with forward slashes; label; bytes; mtime in ns."""

    name: str
    label: int
    size: int
    mtime: int


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files of one split, in order of class and then of name; some 60 bytes each.

    Attributes:
        root: the split's folder.
        names: relative to it, with forward slashes.
        labels, sizes, mtimes: int64 [n]: 0..K-1, bytes, ns.
        index: the file in the cache that holds the same, if there is one.
    """

    root: Path
    names: Names
    labels: "Array"
    sizes: "Array"
    mtimes: "Array"
    index: Path | None = None

    @classmethod
    def of(cls, root: Path, files: Iterable[File]) -> "Listing":
        """Listing of files in order, none of which is held longer than needed."""
        import numpy as np

        columns = tuple(array("q") for _ in range(3))

        def name_of_each() -> Iterator[str]:
            for name, *numbers in files:
                for column, number in zip(columns, numbers, strict=True):
                    column.append(number)
                yield name

        names = Names.of(name_of_each())
        labels, sizes, mtimes = (np.array(column) for column in columns)
        return cls(root, names, labels, sizes, mtimes)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Where the image at `index` lies."""
        return self.root / self.names[index]

    def unchanged(self, index: int) -> Path:
        """Where the image at `index` lies, if it still has the size that the split's hash covers.

        Raises:
            UsageError: it has another size; the index in the cache is then removed, so that the next load lists anew.
        """
        path = self.path(index)
        try:
            size = path.stat().st_size
        except OSError:
            return path  # who opens it says what is wrong
        if size != self.sizes[index]:
            if self.index is not None:
                with contextlib.suppress(OSError):  # a cache that others keep
                    self.index.unlink()
            raise UsageError(
                f"image {path} has changed since its folder was listed ({self.sizes[index]:,} bytes then, {size:,} now): "
                "start again, so that it is listed anew"
            )
        return path

    def contents(self) -> Iterator[tuple[str, int, int]]:
        """Name, bytes and label of each file: what the hash of a streamed split covers."""
        return zip(self.names, _plain(self.sizes), _plain(self.labels), strict=True)

    def label_list(self) -> Iterator[int]:
        """Labels, one by one."""
        return _plain(self.labels)

    def stats(self) -> Iterator[tuple[int, int]]:
        """Bytes and mtime (ns) of each file."""
        return zip(_plain(self.sizes), _plain(self.mtimes), strict=True)


def _plain(numbers: "Array") -> Iterator[int]:
    """Python's own numbers of an array [n], a part at a time."""
    for start in range(0, len(numbers), AT_ONCE):
        yield from numbers[start : start + AT_ONCE].tolist()


def class_folders(split: Path) -> tuple[str, ...]:
    """Sorted names of the folders right below a split's folder, hidden ones left out.

    Raises:
        UsageError: a name that is no UTF-8.
    """
    with os.scandir(split) as entries:
        names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    for name in names:
        _check_name("class folder", name, split)
    return tuple(names)


def _check_name(what: str, name: str, folder: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"the name of {what} {name!r} in {folder} is no UTF-8: rename it") from error


def listed(split: Path, classes: Sequence[str], *, side: int) -> Listing:
    """Listing of a split whose images are read at `side` pixels: from the cache where they are streamed.

    Raises:
        UsageError: see `list_split`.
    """
    return list_split(split, classes) if side <= RESIDENT_SIDE else indexed_split(split, classes)


def list_split(split: Path, classes: Sequence[str]) -> Listing:
    """List the images below `split/<class>/` (at any depth) for each class in order.

    Raises:
        UsageError: an empty class, a folder that cannot be read, a name that is no UTF-8.
    """
    return Listing.of(split, _files(split, classes, []))


class Folder(NamedTuple):
    """A folder that was listed, relative to the split's, and when it and its entries last changed, both in ns."""

    name: str
    mtime: int
    ctime: int  # cannot be set back, as programs that unpack archives do with the other


def _files(split: Path, classes: Sequence[str], folders: list[Folder]) -> Iterator[File]:
    """Files of a split in order; the folders that they were found in go into `folders`."""
    for label, name in enumerate(classes):
        images = sorted(_images_below(split / name, name, folders))
        if not images:
            raise UsageError(f"no images in class folder {split / name} (suffixes read: {' '.join(SUFFIXES)})")
        yield from (File(file, label, size, mtime) for file, size, mtime in images)


def _images_below(folder: Path, prefix: str, folders: list[Folder]) -> Iterator[tuple[str, int, int]]:
    try:
        folders.append(_state(prefix, os.stat(folder)))  # before it is read: what changes it meanwhile is seen later
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    _check_name("folder", name, folder)
                    yield from _images_below(folder / entry.name, name, folders)
                elif entry.name.lower().endswith(SUFFIXES):
                    _check_name("image", name, folder)
                    stat = entry.stat()
                    yield name, stat.st_size, stat.st_mtime_ns
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror or error}") from error


def _state(name: str, stat: os.stat_result) -> Folder:
    return Folder(name, stat.st_mtime_ns, stat.st_ctime_ns)


def indexed_split(split: Path, classes: Sequence[str]) -> Listing:
    """As `list_split`, but read from the cache where no folder has changed since; see the module.

    A damaged index is reported once through logging and made again; one that cannot be written, likewise.
    """
    key = digest([INDEX_VERSION, os.fsencode(split.resolve()).hex(), list(classes)])
    path = cache_dir() / "index" / f"{key}.safetensors"
    cached = _read(path, split)
    if cached is not None:
        return cached
    started, folders = time.time_ns(), list[Folder]()
    listing = Listing.of(split, _files(split, classes, folders))
    if max(changed for folder in folders for changed in folder[1:]) > started - SETTLED * 1e9:
        return listing
    try:
        write_with(path, lambda temporary: _write(listing, folders, temporary))
    except CannotWrite as error:
        log.warning("the list of images in %s is not kept: %s", split, error)
    return replace(listing, index=path)


def _write(listing: Listing, folders: Sequence[Folder], path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    walked = Names.of(folder.name for folder in folders)
    arrays = {
        "names": np.frombuffer(listing.names.text, np.uint8),
        "ends": listing.names.ends,
        "labels": listing.labels,
        "sizes": listing.sizes,
        "mtimes": listing.mtimes,
        "folders": np.frombuffer(walked.text, np.uint8),
        "folder-ends": walked.ends,
        "folder-times": np.array([folder[1:] for folder in folders], dtype=np.int64),
    }
    save_file(arrays, path, metadata={"sha256": _checksum(arrays)})


def _read(path: Path, split: Path) -> Listing | None:
    """Listing kept at `path`, or None: there is none, it is damaged, or the split has changed since."""
    cached = read_checked(path, _checksum, "np")
    if cached is None:
        return None
    arrays, _ = cached
    names = Names(arrays["names"].tobytes(), arrays["ends"])
    listing = Listing(split, names, arrays["labels"], arrays["sizes"], arrays["mtimes"], path)
    walked = Names(arrays["folders"].tobytes(), arrays["folder-ends"])
    times = arrays["folder-times"].tolist()
    folders = (Folder(name, *changed) for name, changed in zip(walked, times, strict=True))
    return listing if _stands(listing, folders) else None


def _stands(listing: Listing, folders: Iterable[Folder]) -> bool:
    """Tell whether no folder of a split has changed, and no file of a sample has another size."""
    root, count = str(listing.root), min(SAMPLED, len(listing))
    sample = (step * len(listing) // count for step in range(count))
    try:
        return all(_state(folder.name, os.stat(f"{root}/{folder.name}")) == folder for folder in folders) and all(
            listing.path(place).stat().st_size == listing.sizes[place] for place in sample
        )
    except OSError:
        return False


def _checksum(arrays: "dict[str, Array]") -> str:
    """SHA-256 over named arrays."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        total.update(canonical_json([name, str(values.dtype), list(values.shape)]).encode())
        total.update(values.data)
    return total.hexdigest()
