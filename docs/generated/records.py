"""The schema of records: every field with its type, whether it is needed, and what its class says of it."""

import inspect
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import BaseModel

from ddbench.records.record import Record, Run, Snapshot, SynSetFacts, TeacherFacts
from ddbench.records.submission import SharedFile, Submission
from ddbench.schema import LARGEST

from .text import description, table

PARTS: tuple[type[BaseModel], ...] = (Record, Run, SynSetFacts, TeacherFacts, Snapshot, Submission, SharedFile)
HASH = "^[0-9a-f]{64}$"
MEASURED = Path("results/measured")


def schema() -> str:
    """A section for each part of a record."""
    whole = Record.model_json_schema(by_alias=True)
    schemas = {**whole["$defs"], "Record": whole}
    return "\n\n".join(_part(part, schemas[part.__name__]) for part in PARTS)


def example() -> str:
    """The shortest record of `results/measured`, as it lies in its file."""
    shortest = min(MEASURED.rglob("*.json"), key=lambda path: (path.stat().st_size, path))
    return f"`{shortest}`:\n\n```json\n{shortest.read_text(encoding='utf-8').strip()}\n```"


def attributes(part: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """What a class's docstring says of the class, and of each of its fields.

    Raises:
        ValueError: a field of the file that the docstring does not name.
    """
    about, _, listed = inspect.cleandoc(part.__doc__ or "").partition("\n\nAttributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \w)", "\n" + listed)[1:]:
        names, _, meaning = entry.strip().partition(":")
        found |= {name.strip(): " ".join(meaning.split()) for name in names.split(",")}
    silent = {field.alias or name for name, field in part.model_fields.items()} - set(found)
    if silent:
        raise ValueError(f"{part.__name__} does not say what {', '.join(sorted(silent))} is")
    return about, found


def _part(part: type[BaseModel], schema: dict[str, Any]) -> str:
    about, meanings = attributes(part)
    needed = schema.get("required", [])
    rows = [
        (f"`{name}`", words(field), "yes" if name in needed else "", meanings[name])
        for name, field in schema["properties"].items()
    ]
    return f"### {part.__name__}\n\n{description(about)}\n\n" + table(("field", "type", "needed", "meaning"), rows)


def words(schema: dict[str, Any]) -> str:
    """The type that a JSON schema describes, in words; a part of a record as a link to its section."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return Markup('<a href="#{}">{}</a>').format(name.lower(), name)
    if "anyOf" in schema:
        return _join(" or ", [words(each) for each in schema["anyOf"]])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    return _OF_TYPE[schema["type"]](schema) if "type" in schema else "anything"


def _text(schema: dict[str, Any]) -> str:
    if schema.get("pattern") == HASH:
        return "64 hex digits"
    return f"text, at most {schema['maxLength']:,} characters" if "maxLength" in schema else "text"


def _number(kind: str, schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is not None and high < LARGEST:
        return f"{kind}, {low} to {high:,}"
    return f"{kind}, {low} or more" if low is not None else kind


def _list(schema: dict[str, Any]) -> str:
    return _join("", ["list: ", words(schema["items"])])


def _object(schema: dict[str, Any]) -> str:
    """An object of any names; of hashes, where a pattern says so."""
    pattern, values = next(iter(schema.get("patternProperties", {}).items()), ("", schema.get("additionalProperties")))
    key = "hash" if pattern == HASH else "name"
    return _join("", [f"object: {key} to ", words(values) if isinstance(values, dict) else "anything"])


def _join(between: str, parts: list[str]) -> str:
    """The parts joined; as Markup where one of them is."""
    return Markup(between).join(parts) if any(isinstance(part, Markup) for part in parts) else between.join(parts)


_OF_TYPE = {
    "string": _text,
    "integer": lambda schema: _number("whole number", schema),
    "number": lambda schema: _number("number", schema),
    "array": _list,
    "object": _object,
    "boolean": lambda schema: "true or false",
    "null": lambda schema: "null",
}
