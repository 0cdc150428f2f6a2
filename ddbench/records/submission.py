"""Submissions: what a record of somebody else carries besides its runs, namely who claims them and where the files are.

A claim is words and addresses; nothing here fetches or runs anything. Whether it holds is not stored: it is derived from
the record and the runs that others made of the same set (`ddbench.records.claims`).
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from ddbench.records.addresses import checked_address, checked_link
from ddbench.schema import Hash, Strict, Words

LARGEST_FILE = 2**40
"""Bytes; a record cannot state more."""

Address = Annotated[str, StringConstraints(max_length=2000), AfterValidator(checked_address)]
Link = Annotated[str, StringConstraints(max_length=2000), AfterValidator(checked_link)]
Licence = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+() -]{1,79}$")]
Entry = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,63}/[0-9a-f]{32}/[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]


class SharedFile(Strict):
    """A file that a record rests on, where it is kept, and what tells that it is that file.

    Attributes:
        kind: a distilled set, a teacher, or an entry of a stage (experts).
        size: in bytes.
        sha256: of the file as it is, checked before anything in it is read.
        address: `https://...`, `hf:OWNER/REPO[@REVISION]/PATH`, or `file:PATH` beside the record.
        entry: of experts: stage, the digest of how they are made, and entry, as they are named in the cache.
    """

    kind: Literal["set", "teacher", "experts"]
    size: Annotated[int, Field(ge=1, le=LARGEST_FILE)]
    sha256: Hash
    address: Address
    entry: Entry | None = None

    @model_validator(mode="after")
    def _only_experts_have_an_entry(self) -> Self:
        if (self.kind == "experts") != (self.entry is not None):
            raise ValueError("experts, and nothing else, need the entry of the cache that they are")
        return self


class Submission(Strict):
    """Claim of the runs of a record.

    Attributes:
        name: of the submission, for tables.
        authors: one or more.
        licence: of the files: an SPDX expression, "CC-BY-4.0".
        code, paper: https addresses.
        files: content hash -> file; every set that a run names is among them.
        appeal: why this record supersedes another one.
    """

    name: Words
    authors: Annotated[list[Words], Field(min_length=1, max_length=200)]
    licence: Licence
    code: Link | None = None
    paper: Link | None = None
    files: Annotated[dict[Hash, SharedFile], Field(min_length=1, max_length=10_000)]
    appeal: Words | None = None

    def same_claim(self, other: "Submission") -> bool:
        """Tell whether the same people claim: equal in name and authors."""
        return (self.name, self.authors) == (other.name, other.authors)
