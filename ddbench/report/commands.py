"""The words of commands that make a score again, for whoever shows one: data, budget, files, protocol and setting."""

from collections.abc import Collection, Mapping
from typing import Any


def data_words(dataset: str) -> list[str]:
    """The data set; of a folder its name, and PATH for where it is."""
    family, folder, _ = dataset.partition("@")
    return ["--dataset", "folder:PATH", "--dataset-name", family] if folder else ["--dataset", family]


def folder_words(dataset: str) -> list[str]:
    """The data set beside a set's file, which says it itself unless it was made on a folder."""
    return data_words(dataset) if "@" in dataset else []


def size_words(ipc: float | None, fraction: float | None) -> list[str]:
    """The budget; nothing for all the data."""
    if ipc is not None:
        return ["--ipc", str(ipc)]
    return [] if fraction is None or fraction != fraction else ["--fraction", str(fraction)]


def set_file(set_hash: str) -> str:
    """What stands for the file of a set that is known by its hash."""
    return f"SET-{set_hash[:12]}.safetensors"


def borrow_words(lender: str | None) -> list[str]:
    """Whose student recipe is borrowed, if anyone's: the method of the set that ships it."""
    return ["--borrow", f"SET-OF-{lender}.safetensors"] if lender else []


def scoring_words(protocol: str, network: str, seeds: Collection[int], setting: Mapping[str, Any]) -> list[str]:
    """How a set is scored; `setting` has the device, threads, precision, devices, and whether steps are compiled.

    A comma is behind a single seed, which would be a number of seeds without.
    """
    text = ",".join(map(str, sorted(seeds))) + ("," if len(seeds) == 1 else "")
    words = ["--protocol", protocol, "--network", network, "--seeds", text]
    words += ["--device", setting["device"], "--threads", str(setting["threads"])]
    words += ["--devices", str(setting["devices"])] if setting["devices"] > 1 else []
    words += ["--precision", setting["precision"]] if setting["precision"] != "float32" else []
    return [*words, "--compile", "on"] if setting["compiled"] else words
