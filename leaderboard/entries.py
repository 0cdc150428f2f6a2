"""Records and where they stand: measured here, claimed by others, or claimed and verified."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ddbench.hashing import digest
from ddbench.records.claims import claim_holds
from ddbench.records.record import Record
from ddbench.records.store import merge, read_records
from ddbench.settings import results_dir

Standing = Literal["measured", "verified", "claimed"]
STANDINGS: dict[str, str] = {
    "measured": "run here; the record has the commit and whether the checkout was clean",
    "verified": "submitted, and evaluated again here: the claim holds",
    "claimed": "submitted, not yet verified: shown, but not ranked",
    "reported": "printed in a paper: not measured under a protocol of this suite, not ranked",
}
MOST_NAME = 48  # characters of a file name before its hash
RANKED = ("measured", "verified")


@dataclass(frozen=True)
class Entry:
    """A record of the site.

    Attributes:
        record: as it lies in its file.
        standing: where it stands; see `STANDINGS`.
        about: of a submission, what its authors say of it: names to values, shown as text.
    """

    record: Record
    standing: Standing = "measured"
    about: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Names its file and address: the hash of the record's key, and its standing unless it is measured."""
        key = self.record.key_hash()
        return key if self.standing == "measured" else f"{key}-{self.standing}"


def read(folders: Sequence[Path] = ()) -> list[Entry]:
    """Every record of some folders, with where it stands; a record with a submission is a claim, verified where it holds
    against what was measured (`ddbench.records.claims`).

    Args:
        folders: of records; none: `ddbench.settings.results_dir`, and `submitted` beside it where that is there.

    Parts of one record that lie in several folders are merged, but never a claim with what was measured. UsageError
    for a broken file, or where there is no record at all.
    """
    places = list(folders) or default_folders()
    records = read_records(places)
    measured: dict[str, list[Record]] = {}
    for record in records:
        if record.submission is None:
            measured.setdefault(record.key_hash(), []).append(record)
    return united(_entry(record, measured.get(record.key_hash(), [])) for record in records)


def default_folders() -> list[Path]:
    """The folder of measured records, and the one of submitted records beside it where there is one."""
    measured = results_dir()
    submitted = measured.parent / "submitted"
    return [measured, *([submitted] if submitted.is_dir() else [])]


def _entry(record: Record, measured: Sequence[Record]) -> Entry:
    """A record; of a claim also the records that were measured of its cell, which may bear it out."""
    claim = record.submission
    if claim is None:
        return Entry(record)
    standing: Standing = "verified" if claim_holds(record, measured) else "claimed"
    return Entry(record, standing, words_of(claim.model_dump(mode="json", exclude_none=True)))


def words_of(claim: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """What a submission says of itself, as texts by name: lists with commas, parts of parts by the names of both."""
    found: dict[str, str] = {}
    for name, value in claim.items():
        full = f"{before} {name[:12]}".strip() if before else name
        if isinstance(value, Mapping):
            found |= words_of(value, full)
        else:
            found[full] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def united(entries: Iterable[Entry]) -> list[Entry]:
    """One entry per id: the parts of one record, merged; in the order of their first parts."""
    found: dict[str, Entry] = {}
    for entry in entries:
        first = found.get(entry.id)
        if first is None:
            found[entry.id] = entry
        else:
            record = merge(first.record, entry.record, where="two folders of records")
            found[entry.id] = Entry(record, entry.standing, first.about | entry.about)
    return list(found.values())


def file_name(name: str) -> str:
    """A name as a file name inside its folder, on any system; where that changes it, its hash keeps it apart."""
    plain = re.sub(r"[^a-z0-9.+-]+", "-", name.lower()).lstrip(".-")[:MOST_NAME]
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", plain)
    return plain if plain == name and not reserved else f"{plain or 'name'}_{digest(name)[:12]}"
