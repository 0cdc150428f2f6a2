"""folder:PATH: any image folder with train/<class>/ and test/<class>/ (or val/<class>/; test if both are there).

An optional `dataset.toml` in it has the keys name, title, side (pixels), mean, std (per channel, on [0, 1]), flip.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from ddbench.data.dataset import Dataset, DatasetCard, channel_statistics
from ddbench.data.images import MEAN, STD, file_split, probe_channels, probe_side
from ddbench.data.listing import Listing, class_folders, list_split, listed
from ddbench.errors import UsageError, first_problem
from ddbench.hashing import digest
from ddbench.schema import Strict

LAYOUT = "train/<class>/ and test/<class>/ (or val/<class>/), the same classes in both"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a name becomes part of file names


class FolderConfig(Strict):
    """A `dataset.toml`; None where it says nothing. `mean` and `std` are of pixels in [0, 1], one number per channel."""

    name: str | None = None
    title: Annotated[str, Field(min_length=1)] | None = None
    side: Annotated[int, Field(ge=4, le=1024)] | None = None
    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = None
    std: tuple[Annotated[float, Field(ge=1e-6, le=1)], ...] | None = None
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
    """Card of the image folder at `path`; lists its files and reads some images' headers."""
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
    if folder.config.mean and folder.config.std:
        mean, std = folder.config.mean, folder.config.std
    elif train.resident:
        mean, std = channel_statistics(train.read())
    else:  # reading a large set once only to average it would cost hours, so ImageNet's constants stand in
        mean, std = (MEAN, STD) if folder.channels == 3 else ((sum(MEAN) / 3,), (sum(STD) / 3,))
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
    return ImageFolder(_name(root, config, dataset_name), config, classes, side, channels, train, test)


def read_config(path: Path) -> FolderConfig:
    """Read a dataset.toml; an absent one says nothing. UsageError names file and key."""
    if not path.is_file():
        return FolderConfig()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        config = FolderConfig.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        raise UsageError(
            f"{path}: {first_problem(error)}; its keys are {', '.join(FolderConfig.model_fields)}"
        ) from error
    except (tomllib.TOMLDecodeError, ValueError, OSError) as error:
        raise UsageError(f"{path}: {error}") from error
    if (config.mean is None) != (config.std is None):
        raise UsageError(f"{path}: mean and std are given together or not at all")
    return config


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
    name = dataset_name if dataset_name is not None else config.name
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", root.resolve().name).lstrip("._-")
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name the data set in {root}: letters, digits, '.', '_' and '-' are allowed, the first a "
            "letter or digit (--dataset-name, or name in its dataset.toml)"
        )
    return name
