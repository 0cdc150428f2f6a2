"""Types that records, reported figures and submissions are made of: strict, frozen, bounded.

A file of a stranger is read into these and nothing else; what does not fit is refused with the name of the field.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Fraction = Annotated[float, Field(ge=0, le=1)]
LARGEST = 2**63 - 1
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Number = Annotated[int, Field(ge=1, le=LARGEST)]
Seconds = Annotated[float, Field(ge=0)]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Plain = str | int | float | bool | None

UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""Control characters, and those that hide or reorder what stands beside them."""


class Strict(BaseModel):
    """Base of every part of a record: frozen, no unknown field, no conversion of types, only finite numbers."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def _seen(text: str) -> str:
    if UNSEEN.search(text):
        raise ValueError("holds a character that cannot be seen")
    return text


Words = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(_seen)]
"""A line that people wrote."""
