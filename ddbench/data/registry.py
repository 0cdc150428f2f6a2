"""Names to data sets, found by entry point, and kept in memory within the process.

An entry point of the group `ddbench.datasets` gives a module, or an object, with the two functions of `DatasetFamily`. One whose
name ends in a colon and a word, as `folder:PATH`, reads whatever the word stands for.
"""

import os
from functools import lru_cache
from typing import Protocol

from ddbench import plugins
from ddbench.data.dataset import Dataset, DatasetCard
from ddbench.errors import UsageError, unknown
from ddbench.settings import data_dir

GROUP = "ddbench.datasets"
_ORDER = (
    *("digits", "fashion-mnist", "mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet"),
    *("imagenette", "imagewoof", "imagemeow", "imagesquawk", "imagefruit", "imageyellow"),
    *("imagenet-1k", "imagenet-21k-p", "places365"),
)  # as ours are listed, small ones first
KEPT = 4  # data sets that stay in memory


class DatasetFamily(Protocol):
    """One data set, or several under their names. What is behind a colon is given in place of the name."""

    def describe(self, name: str) -> DatasetCard:
        """Card, without reading pixels or importing torch."""
        ...

    def load(self, name: str) -> Dataset:
        """Data set; UsageError where its files are missing (what to download and where to put it) or damaged."""
        ...


def dataset_names() -> tuple[str, ...]:
    """Every name that `load_dataset` knows: ours, then those of plugins; `folder:PATH` comes on top of them."""
    names = [name for name in plugins.names(GROUP) if ":" not in name]
    return (*_ORDER, *(name for name in names if name not in _ORDER))


def describe(name: str, *, dataset_name: str | None = None) -> DatasetCard:
    """Card of a data set, without reading pixels or importing torch. UsageError for an unknown name."""
    source, arguments = _find(name, dataset_name)
    return source.describe(*arguments)


def load_dataset(name: str, *, dataset_name: str | None = None) -> Dataset:
    """Load a data set by name ("digits", "cifar10", ...) or as "folder:PATH"; kept in memory within the process.

    Args:
        name: one of `dataset_names()`, or "folder:" and a path.
        dataset_name: the name of a folder's data set instead of its own; only with "folder:PATH".

    UsageError: an unknown name; data that are missing (what to download and where to put it) or damaged.
    """
    return _load(name, dataset_name, str(data_dir()), os.getcwd())


@lru_cache(maxsize=KEPT)
def _load(name: str, dataset_name: str | None, data: str, folder: str) -> Dataset:
    """Load once per name, folder of data and current folder (which are only part of the key)."""
    source, arguments = _find(name, dataset_name)
    dataset = source.load(*arguments)
    if ":" not in name and dataset.id != name:
        raise UsageError(f"data set {name!r}: what its entry point loads calls itself {dataset.id!r}")
    return dataset


def _find(name: str, dataset_name: str | None) -> tuple[DatasetFamily, tuple[str, ...]]:
    """Who knows a data set, and the arguments of its functions."""
    known = plugins.names(GROUP)
    prefix, colon, rest = name.partition(":")
    entry = next((each for each in known if colon and each.startswith(prefix + colon)), name)
    if entry not in known:
        raise unknown("data set", name, known)
    source: DatasetFamily = plugins.find(GROUP, entry)
    if not (hasattr(source, "describe") and hasattr(source, "load")):
        raise UsageError(
            f"data set {name!r}: its entry point gives {source!r:.80}, without describe(name) and load(name)"
        )
    if dataset_name is None:
        return source, (rest if colon else name,)
    if not colon:
        raise UsageError(f"--dataset-name names the data set of a folder:PATH; {name} has its own name")
    return source, (rest, dataset_name)
