"""Errors that people meet: each message is one clear line (what, where, allowed values)."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class DDBenchError(Exception):
    """A check or a job failed; the command line exits with code 1."""


class UsageError(DDBenchError):
    """Bad input: an unknown name, a wrong value, a broken file; the command line exits with code 2."""


class CannotWrite(UsageError):
    """A file cannot be written (no right, full disk): no fault of the job that wanted to, so nothing is recorded."""


class JobFailed(DDBenchError):
    """A job that can give no result, a diverged one say; recorded as failed with this reason."""


class NotScored(Exception):
    """A protocol does not apply to a set: `shipped-v1` where the set ships no student recipe."""


class NotDefined(DDBenchError):
    """A cell that the method's definition excludes; recorded as n/a with this reason."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is not known, with the nearest names first.

    Args:
        kind: what the name should have been, in words: "data set", "method".
        name: what was given.
        known: every allowed name.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f": did you mean {', '.join(near)}?" if near else "."
    return UsageError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names) or 'none'}")


def first_problem(error: "ValidationError", within: str = "") -> str:
    """One line for a pydantic error: the first bad field, what is wrong with it, and how many more there are.

    Args:
        error: of pydantic.
        within: the field that the checked value is of, if it is not everything.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    field = ".".join(str(part) for part in ((within, *first["loc"]) if within else first["loc"]))
    message = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(first["type"], first["msg"])
    shown = isinstance(first["input"], str | int | float | None) and message == first["msg"]
    given = f" (given {first['input']!r:.60})" if shown else ""
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{field + ': ' if field else ''}{message}{given}{more}"
