"""Small classics through torchvision: mnist, fashion-mnist, svhn, cifar10, cifar100.

Files lie in `data_dir()` in torchvision's own layout, so a folder that other projects filled serves as it is. A
download goes to a temporary folder beside it and each file is moved into place whole.
"""

import contextlib
import gzip
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.data.dataset import Dataset, DatasetCard, memory_split
from ddbench.errors import UsageError
from ddbench.settings import data_dir
from ddbench.system.downloads import are_refused, fetch
from ddbench.system.files import locked, make_folder

if TYPE_CHECKING:
    import torch

_IDX = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
DEBIAN_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset-fashion-mnist"))
READ_ERRORS = (RuntimeError, ValueError, OSError, EOFError, AssertionError, KeyError, pickle.UnpicklingError)


@dataclass(frozen=True)
class SmallSet:
    """Constants of one data set: the class of torchvision that reads it, its files below the root, its page."""

    title: str
    reader: str
    page: str
    files: tuple[str, ...]
    classes: int
    channels: int
    side: int
    train: int
    test: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


SETS: dict[str, SmallSet] = {
    "mnist": SmallSet(
        "MNIST", "MNIST", "http://yann.lecun.com/exdb/mnist/", tuple(f"MNIST/raw/{f}" for f in _IDX),
        10, 1, 28, 60000, 10000, False, (0.1307,), (0.3081,),
    ),
    "fashion-mnist": SmallSet(
        "Fashion-MNIST", "FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist",
        tuple(f"FashionMNIST/raw/{f}" for f in _IDX),
        10, 1, 28, 60000, 10000, True, (0.2860,), (0.3530,),
    ),
    "svhn": SmallSet(
        "SVHN (cropped digits)", "SVHN", "http://ufldl.stanford.edu/housenumbers/",
        ("train_32x32.mat", "test_32x32.mat"),
        10, 3, 32, 73257, 26032, False, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970),
    ),
    "cifar10": SmallSet(
        "CIFAR-10", "CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar.html",
        tuple(f"cifar-10-batches-py/{f}" for f in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")),
        10, 3, 32, 50000, 10000, True, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010),
    ),
    "cifar100": SmallSet(
        "CIFAR-100", "CIFAR100", "https://www.cs.toronto.edu/~kriz/cifar.html",
        tuple(f"cifar-100-python/{f}" for f in ("train", "test", "meta")),
        100, 3, 32, 50000, 10000, True, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762),
    ),
}  # fmt: skip


def describe(name: str) -> DatasetCard:
    """Card of one of `SETS`; looks only whether its files are there."""
    facts = SETS[name]
    available = _debian_folder(name) is not None or not _missing(facts)
    how = "its files are there" if available else _how(facts)
    return DatasetCard(
        name, facts.title, facts.classes, facts.channels, facts.side, facts.train, facts.test, available, how
    )


def load(name: str) -> Dataset:
    """Read one of `SETS`, downloading it if its files are missing.

    UsageError says what to download by hand and where to put it where that fails, and names damaged files.
    """
    facts = SETS[name]
    debian = _debian_folder(name)
    if debian is not None:
        with _unpacked(debian) as root:
            return _dataset(name, facts, root)
    if _missing(facts):  # asked before locking, too: a shared data folder may be read-only
        if are_refused():
            raise UsageError(f"{name} is not here, and a dry run downloads no data: without --dry-run {_how(facts)}")
        with locked(data_dir() / name):
            if _missing(facts):
                _download(name, facts)
    return _dataset(name, facts, data_dir())


def _dataset(name: str, facts: SmallSet, root: Path) -> Dataset:
    try:
        train, names = _split(facts, root, True)
        test, _ = _split(facts, root, False)
    except READ_ERRORS as error:
        where = root if root == data_dir() else "the Debian package's files"
        files = _listed(facts.files)
        raise UsageError(f"files of {name} in {where} are damaged ({error}): delete {files} and try again") from error
    splits = memory_split(*train), memory_split(*test)
    return Dataset(name, names, facts.channels, facts.side, facts.flip, facts.mean, facts.std, *splits)


def _split(facts: SmallSet, root: Path, train: bool) -> tuple[tuple["torch.Tensor", "torch.Tensor"], tuple[str, ...]]:
    """Pixels uint8 [n, C, H, W] and labels int64 [n] of one split, and the class names."""
    import torch
    import torchvision.datasets

    part: dict[str, Any] = {"split": "train" if train else "test"} if facts.reader == "SVHN" else {"train": train}
    source = getattr(torchvision.datasets, facts.reader)(root, download=False, **part)
    pixels = torch.as_tensor(source.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == facts.channels:  # CIFAR is stored channels last
        pixels = pixels.permute(0, 3, 1, 2)
    labels = torch.as_tensor(source.labels if facts.reader == "SVHN" else source.targets)
    expected = (facts.train if train else facts.test, facts.channels, facts.side, facts.side)
    if tuple(pixels.shape) != expected or len(labels) != expected[0]:
        raise ValueError(f"shape {tuple(pixels.shape)} instead of {expected}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < facts.classes:
        raise ValueError(f"labels outside 0..{facts.classes - 1}")
    names = getattr(source, "classes", [str(label) for label in range(facts.classes)])
    return (pixels, labels), tuple(names)


def _missing(facts: SmallSet) -> list[str]:
    return [file for file in facts.files if not (data_dir() / file).is_file()]


def _how(facts: SmallSet) -> str:
    return f"torchvision downloads it on first use, or {_by_hand(facts)}"


def _by_hand(facts: SmallSet) -> str:
    return (
        f"get it from {facts.page} and put {_listed(facts.files)} (unpacked) below {data_dir()} "
        "(DDBENCH_DATA names another folder)"
    )


def _listed(files: tuple[str, ...]) -> str:
    """Files, those of one folder as folder/{a, b}."""
    folder, _, _ = files[0].rpartition("/")
    names = ", ".join(file.rpartition("/")[2] for file in files)
    return f"{folder}/{{{names}}}" if folder else names


def _download(name: str, facts: SmallSet) -> None:
    """Download into a temporary folder, let torchvision unpack there, then move the files that are read, one by one."""
    import torchvision.datasets

    root = make_folder(data_dir())
    reader = getattr(torchvision.datasets, facts.reader)
    parts: list[dict[str, Any]] = [{"split": "train"}, {"split": "test"}] if facts.reader == "SVHN" else [{}]
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}.", suffix=".tmp", dir=root) as temporary:
            for urls, file, md5 in _archives(facts, reader):
                fetch(Path(temporary) / file, *urls, digest=md5, algorithm="md5")
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for data
                for part in parts:
                    reader(temporary, download=True, **part)
            for file in facts.files:
                make_folder((root / file).parent)
                os.replace(Path(temporary) / file, root / file)
    except (OSError, RuntimeError, ValueError, EOFError, UsageError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot download {name} ({reason}): {_by_hand(facts)}") from error


def _archives(facts: SmallSet, reader: Any) -> list[tuple[list[str], str, str]]:
    """Addresses, place below the root and MD5 of each file that a reader of torchvision downloads."""
    if facts.reader == "SVHN":
        return [([url], file, md5) for url, file, md5 in (reader.split_list[split] for split in ("train", "test"))]
    if facts.reader.startswith("CIFAR"):
        return [([reader.url], reader.filename, reader.tgz_md5)]
    folder = f"{facts.reader}/raw"
    return [([m + file for m in reader.mirrors], f"{folder}/{file}", md5) for file, md5 in reader.resources]


def _debian_folder(name: str) -> Path | None:
    """Folder of the Debian package dataset-fashion-mnist, if it is installed."""
    if name != "fashion-mnist":
        return None
    whole = (folder for folder in DEBIAN_FOLDERS if all((folder / f"{file}.gz").is_file() for file in _IDX))
    return next(whole, None)


@contextlib.contextmanager
def _unpacked(folder: Path) -> Iterator[Path]:
    """Gzip files of `folder` unpacked as torchvision expects them, below a temporary root."""
    with tempfile.TemporaryDirectory() as temporary:
        raw = make_folder(Path(temporary) / "FashionMNIST" / "raw")
        try:
            for file in _IDX:
                with gzip.open(folder / f"{file}.gz") as packed, (raw / file).open("wb") as plain:
                    shutil.copyfileobj(packed, plain)
        except (OSError, EOFError) as error:
            raise UsageError(f"cannot unpack the files in {folder}: {error}") from error
        yield Path(temporary)
