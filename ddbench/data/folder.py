"""folder:PATH: any image folder with train/<class>/ and test/<class>/ (or val/<class>/; test if both are there).

An optional `dataset.toml` in it has the keys name, title, side (pixels), mean, std (per channel, on [0, 1]), flip.
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddbench.data.dataset import RESIDENT_SIDE, Dataset, DatasetCard, Split, channel_statistics
from ddbench.data.images import MEAN, STD, file_split, probe_channels, probe_side
from ddbench.data.listing import Listing, class_folders, list_split, listed
from ddbench.errors import UsageError
from ddbench.hashing import digest

LAYOUT = "train/<class>/ and test/<class>/ (or val/<class>/), the same classes in both"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a name becomes part of file names


@dataclass(frozen=True)
class FolderConfig:
    """What a `dataset.toml` may say; None where it says nothing."""

    name: str | None = None
    title: str | None = None
    side: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flip: bool = True


@dataclass(frozen=True)
class ImageFolder:
    """An image folder, listed and probed, no pixels read."""

    name: str
    config: FolderConfig
    classes: tuple[str, ...]
    side: int
    channels: int
    train: Listing
    test: Listing


def describe(path: str, dataset_name: str | None = None) -> DatasetCard:
    """The card of the image folder at `path`; lists its files and reads some images' headers."""
    folder = scan(path, dataset_name)
    return DatasetCard(
        folder.name, folder.config.title or folder.name, len(folder.classes), folder.channels, folder.side,
        len(folder.train), len(folder.test), True, "its files are there",
    )  # fmt: skip


def load(path: str, dataset_name: str | None = None) -> Dataset:
    """Read the image folder at `path`; resident up to 128 px, streamed above.

    Its name is `dataset_name`, else the `name` in its dataset.toml, else the folder's own; the id adds 8 hex digits
    of a hash over class names, pixels and labels (streamed: file names, sizes and labels), so that it neither holds a
    path nor changes when the folder moves. Without `side`, the first image's short side counts (above 128: 224);
    without mean and std, they are computed from train (streamed: ImageNet's). UsageError names what is wrong.

    The list of a streamed folder's files is kept in the cache and holds until a folder in it changes; an image that is
    written again in place with another size is refused when it is read, and the next load lists anew (`listing`).
    """
    folder = scan(path, dataset_name)
    train = file_split(folder.train, side=folder.side, channels=folder.channels)
    test = file_split(folder.test, side=folder.side, channels=folder.channels)
    content = digest([folder.classes, train.hash, test.hash])
    mean, std = _statistics(folder, train)
    return Dataset(
        f"{folder.name}@{content[:8]}", folder.classes, folder.channels, folder.side, folder.config.flip,
        mean, std, train, test,
    )  # fmt: skip


def scan(path: str, dataset_name: str | None) -> ImageFolder:
    """List and probe the image folder at `path`; every fault of its layout or its dataset.toml is a UsageError."""
    if not path:
        raise UsageError(f"folder:PATH needs a path: a folder with {LAYOUT}")
    root = Path(path).expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"no folder {root}: folder:PATH needs {LAYOUT}")
    config = read_config(root / "dataset.toml")
    test_folder = root / ("test" if (root / "test").is_dir() else "val")
    for split in (root / "train", test_folder):
        if not split.is_dir():
            raise UsageError(f"no folder {split.name} in {root}: folder:PATH needs {LAYOUT}")
    classes = class_folders(root / "train")
    _check_classes(root, classes, class_folders(test_folder), test_folder.name)
    side = config.side or probe_side(list_split(root / "train", classes[:1]))
    train, test = (listed(split, classes, side=side) for split in (root / "train", test_folder))
    channels = probe_channels(train, test)
    for key, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != channels:
            raise UsageError(f"{root / 'dataset.toml'}: {key} has {len(values)} values, the images {channels} channels")
    name = _name(root, config, dataset_name)
    return ImageFolder(name, config, classes, side, channels, train, test)


def read_config(path: Path) -> FolderConfig:
    """Read a dataset.toml; an absent one says nothing. UsageError names file and key."""
    if not path.is_file():
        return FolderConfig()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: {error}") from error
    known = FolderConfig.__dataclass_fields__
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}; allowed are {', '.join(known)}")
        fault = _fault(key, value)
        if fault:
            raise UsageError(f"{path}: {key} = {value!r}, but it must be {fault}")
    if ("mean" in values) != ("std" in values):
        raise UsageError(f"{path}: mean and std are given together or not at all")
    typed: dict[str, Any] = {k: tuple(map(float, v)) if isinstance(v, list) else v for k, v in values.items()}
    return FolderConfig(**typed)


def _fault(key: str, value: object) -> str | None:
    """What the value of a key should have been, or None if it is right."""
    if key in ("name", "title"):
        return None if isinstance(value, str) and value else "a text"
    if key == "flip":
        return None if isinstance(value, bool) else "true or false"
    if key == "side":
        return None if type(value) is int and 4 <= value <= 1024 else "a whole number of pixels from 4 to 1024"
    low = 0.0 if key == "mean" else 1e-6
    right = isinstance(value, list) and value and all(type(v) in (int, float) and low <= v <= 1 for v in value)
    return None if right else f"a list of one number from {low:g} to 1 per channel"


def _check_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...], test_name: str) -> None:
    if len(train) < 2:
        raise UsageError(f"{root / 'train'} has {len(train)} class folders, at least 2 are needed: {LAYOUT}")
    for names, others, here, there in ((train, test, "train", test_name), (test, train, test_name, "train")):
        alone = sorted(set(names) - set(others))
        if alone:
            raise UsageError(
                f"class {alone[0]!r} is in {here} but not in {there} of {root}: folder:PATH needs {LAYOUT}"
            )


def _name(root: Path, config: FolderConfig, dataset_name: str | None) -> str:
    given = dataset_name if dataset_name is not None else config.name
    if given is None:
        given = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).lstrip("._-")
    if not NAME.fullmatch(given):
        raise UsageError(
            f"{given!r} cannot name the data set in {root}: letters, digits, '.', '_' and '-' are allowed, the first a "
            "letter or digit (--dataset-name, or name in its dataset.toml)"
        )
    return given


def _statistics(folder: ImageFolder, train: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    config = folder.config
    if config.mean is not None and config.std is not None:
        return config.mean, config.std
    if folder.side <= RESIDENT_SIDE:
        return channel_statistics(train.read())
    # reading a large set once only to average it would cost hours, so ImageNet's constants stand in
    return (MEAN, STD) if folder.channels == 3 else ((sum(MEAN) / 3,), (sum(STD) / 3,))
