"""Names to data sets: which file knows a name, and what was loaded in this process."""

from functools import lru_cache
from pathlib import Path
from types import ModuleType

from ddbench.data import digits, folder, imagenet, small
from ddbench.data.dataset import Dataset, DatasetCard
from ddbench.errors import UsageError, unknown
from ddbench.settings import data_dir

_FAMILIES: dict[str, ModuleType] = {name: family for family in (digits, small, imagenet) for name in family.NAMES}
_ORDER = ("digits", "fashion-mnist", "mnist", "svhn", "cifar10", "cifar100")
KEPT = 4  # data sets that stay in memory


def dataset_names() -> tuple[str, ...]:
    """Every name that `load_dataset` knows, small ones first; `folder:PATH` comes on top of them."""
    return (*_ORDER, *(name for name in _FAMILIES if name not in _ORDER))


def describe(name: str, *, dataset_name: str | None = None) -> DatasetCard:
    """The card of a data set, without reading pixels or importing torch. UsageError for an unknown name."""
    if name.startswith(folder.PREFIX):
        return folder.describe(_folder_path(name), dataset_name)
    _check(name, dataset_name)
    card: DatasetCard = _FAMILIES[name].describe(name)
    return card


def load_dataset(name: str, *, dataset_name: str | None = None) -> Dataset:
    """Load a data set by name ("digits", "cifar10", ...) or as "folder:PATH"; kept in memory within the process.

    Args:
        name: one of `dataset_names()`, or "folder:" and a path.
        dataset_name: the name of a folder's data set instead of its own; only with "folder:PATH".

    UsageError: an unknown name; data that are missing (what to download and where to put it) or damaged.
    """
    if name.startswith(folder.PREFIX):
        name = folder.PREFIX + str(Path(_folder_path(name)).resolve())
    else:
        _check(name, dataset_name)
    return _load(name, str(data_dir()), dataset_name)


@lru_cache(maxsize=KEPT)
def _load(name: str, data: str, dataset_name: str | None) -> Dataset:
    """Load once per name, data folder and given name (`data` is only part of the key)."""
    if name.startswith(folder.PREFIX):
        return folder.load(name.removeprefix(folder.PREFIX), dataset_name)
    dataset: Dataset = _FAMILIES[name].load(name)
    return dataset


def _folder_path(name: str) -> str:
    path = name.removeprefix(folder.PREFIX)
    if not path:
        raise UsageError(f"folder:PATH needs a path: a folder with {folder.LAYOUT}")
    return str(Path(path).expanduser())


def _check(name: str, dataset_name: str | None) -> None:
    if name not in _FAMILIES:
        raise unknown("data set", name, (*dataset_names(), "folder:PATH"))
    if dataset_name is not None:
        raise UsageError(f"--dataset-name names the data set of a folder:PATH; {name} has its own name")
