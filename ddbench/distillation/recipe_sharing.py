"""Recipe files spelt out: bases that recipes are like, lists of data sets, columns of values."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ddbench.errors import UsageError, unknown

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
Ipc = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Ipcs = Ipc | Annotated[list[Ipc], Field(min_length=1)]
Shares = Share | Annotated[list[Share], Field(min_length=1)]

BUDGETS = ("ipc", "fraction", "all")
ABSENT = "-"
"""In a column: this budget has no such field, or no such note."""
MOST_RECIPES = 4096
MOST_BASES = 2048
MOST_FIELDS = 256
MOST_NOTES = 64
LONGEST_SOURCE = 10_000
"""Limits of a file once it is spelt out: a megabyte of bases that double would fill any memory."""
Fields = Annotated[dict[str, Any], Field(max_length=MOST_FIELDS)]


class RecipePart(BaseModel):
    """A `[base.NAME]` or a `[[recipe]]` as it is written: all that it leaves out is taken from what it is like."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    like: str | Annotated[list[str], Field(max_length=16)] = []
    name: Name | None = None
    dataset: str | Annotated[list[str], Field(min_length=1)] | None = None
    ipc: Ipcs | None = None
    fraction: Shares | None = None
    all: bool = False
    network: str | None = None
    default: bool = False
    source: str | None = Field(default=None, min_length=3)
    note: str | list[str] | None = None
    hyper: Fields = {}
    each: dict[str, list[Any]] = {}

    @model_validator(mode="after")
    def _set_once(self) -> "RecipePart":
        if both := sorted(self.hyper.keys() & self.each.keys()):
            raise ValueError(f"{both[0]!r} stands in hyper and in each")
        return self


class WrittenFile(BaseModel):
    """A recipe file as it is written."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")
    method: str
    generic: dict[str, Any] = {}
    base: Annotated[dict[Name, RecipePart], Field(max_length=MOST_BASES)] = {}
    recipe: list[RecipePart] = []


def spelt_out(written: WrittenFile) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every recipe of a file with all its fields, in order, behind the key that it is written at.

    Raises:
        UsageError: a base that does not stand above, a column that does not fit, too much; begins with the key.
    """
    bases: dict[str, dict[str, Any]] = {}
    for name, part in written.base.items():
        bases[name] = _merged(part, bases, f"base.{name}")
    count = 0
    for index, part in enumerate(written.recipe):
        key = f"recipe.{index}"
        for fields in _recipes(_merged(part, bases, key), key):
            count += 1
            if count > MOST_RECIPES:
                raise UsageError(f"{key}: more than {MOST_RECIPES:,} recipes in one file")
            yield key, fields


def _merged(part: RecipePart, bases: Mapping[str, dict[str, Any]], key: str) -> dict[str, Any]:
    """Merge a part over the bases that it is like, of which a later one goes before an earlier.

    Bases stand above what is like them, so that no circle can be.
    """
    own = part.model_dump(exclude_unset=True, exclude={"like", "note"})
    own["notes"] = [] if part.note is None else [part.note]
    merged: dict[str, Any] = {"hyper": {}, "each": {}, "notes": []}
    for name in [part.like] if isinstance(part.like, str) else part.like:
        if name not in bases:
            raise UsageError(f"{key}.like: {unknown('base above it', name, bases)}")
        merged = _over(merged, bases[name])
    merged = _over(merged, own)
    if len(merged["hyper"]) + len(merged["each"]) > MOST_FIELDS:
        raise UsageError(f"{key}: more than {MOST_FIELDS} hyper-parameters")
    if len(merged["notes"]) > MOST_NOTES:
        raise UsageError(f"{key}: more than {MOST_NOTES} notes")
    return merged


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Join the fields of both; where both have one, that of `above`. Its notes go after those that it keeps."""
    if any(kind in above for kind in BUDGETS):
        below = {key: value for key, value in below.items() if key not in BUDGETS}
    hyper, each = above.get("hyper", {}), above.get("each", {})
    return {
        **below,
        **above,
        "hyper": {key: value for key, value in below["hyper"].items() if key not in each} | hyper,
        "each": {key: value for key, value in below["each"].items() if key not in hyper} | each,
        "notes": [*([] if "source" in above else below["notes"]), *above["notes"]],
    }


def _recipes(part: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    """Yield the recipes of a part: one for each data set, and where it has columns, one for each budget."""
    same = {name: value for name, value in part.items() if name not in ("each", "notes")}
    datasets = part.get("dataset")
    for data in [{"dataset": name} for name in datasets] if isinstance(datasets, list) else [{}]:
        for column, budget in _budgets(part, key):
            values = {name: value[column] for name, value in part["each"].items() if value[column] != ABSENT}
            recipe = {**same, **data, **budget, "hyper": part["hyper"] | values}
            if "source" in part:
                notes = [note if isinstance(note, str) else note[column] for note in part["notes"]]
                recipe["source"] = "; ".join([part["source"], *(note for note in notes if note != ABSENT)])
                if notes and len(recipe["source"]) > LONGEST_SOURCE:
                    raise UsageError(f"{key}.note: a source of more than {LONGEST_SOURCE:,} letters")
            yield recipe


def _budgets(part: Mapping[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
    """Number the budgets that get a recipe of their own; a single nameless one where there are no columns."""
    columns = [(f"each.{name}", values) for name, values in part["each"].items()]
    columns += [("note", note) for note in part["notes"] if isinstance(note, list)]
    if not columns:
        return [(0, {})]
    kind = next((kind for kind in BUDGETS if isinstance(part.get(kind), list)), None)
    if kind is None:
        raise UsageError(f"{key}.{columns[0][0]}: a column needs a list of ipc or fraction")
    for name, values in columns:
        if len(values) != len(part[kind]):
            raise UsageError(f"{key}.{name}: {len(values)} values for {len(part[kind])} of {kind}")
    return [(column, {kind: value}) for column, value in enumerate(part[kind])]
