"""Pictures of sets that the cache still has: one per method, data set and budget of the records."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddbench.data.registry import dataset_names, describe
from ddbench.errors import UsageError
from ddbench.records.store import budget_label
from ddbench.report.format import budget_words
from ddbench.settings import cache_dir

from .entries import Entry, file_name

log = logging.getLogger("ddbench")
MOST = 60  # pictures of a site


@dataclass(frozen=True)
class Picture:
    """A picture of a set: its file below the site, what it shows, and the entry whose set it is."""

    file: str
    words: str
    method: str
    entry: str
    synset: str


def draw_pictures(entries: Sequence[Entry], out: Path) -> list[Picture]:
    """Draw, into `out/pictures`, sets of the records that lie in the cache and whose data set is on this machine."""
    cached = _cached()
    found: dict[tuple[str, str, str], Picture] = {}
    for entry, synset, place in _candidates(entries, cached):
        if place in found or len(found) >= MOST:
            continue
        method, dataset, budget = place
        file = f"pictures/{file_name(' '.join(place))}.png"
        if _draw(cached[synset], dataset, out / file):
            words = f"{method} on {dataset}, {budget_words(budget)}: a row per class"
            found[place] = Picture(file, words, method, entry.id, synset)
    return list(found.values())


def _candidates(
    entries: Sequence[Entry], cached: Mapping[str, Path]
) -> Iterator[tuple[Entry, str, tuple[str, str, str]]]:
    known = {name for name in dataset_names() if describe(name).available} if cached else set()
    for entry in entries:
        record = entry.record
        if record.borrowed is None and record.dataset in known:
            for synset in record.synsets:
                if synset in cached:
                    yield entry, synset, (record.method, record.dataset, budget_label(record.budget))


def _cached() -> dict[str, Path]:
    """The sets of the cache by the hash that their header names; what cannot be read is passed over."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in sorted((cache_dir() / "synsets").glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found[str(json.loads((file.metadata() or {})["ddbench"])["hash"])] = path
        except (SafetensorError, OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _draw(file: Path, dataset: str, picture: Path) -> bool:
    """Draw one set; whether that was possible. What is wrong is logged."""
    from ddbench.data.registry import load_dataset
    from ddbench.report.pictures import draw_set
    from ddbench.synset.synset import load

    try:
        draw_set(load(file), load_dataset(dataset), picture)
    except UsageError as error:
        log.warning("no picture of a set: %s", error)
        return False
    return True
