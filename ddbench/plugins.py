"""Installed parts (methods, protocols, data sets, networks, ...), found by entry point and imported only when asked for.

Ours are declared in pyproject.toml exactly as anyone else's would be. A name that two packages declare is an error.
Parts of a student's training (losses, schedules, optimizers, augmentations) are `Components`: built-in or from a plugin,
written as plain data, `{"name": "kl", "temperature": 20}`, whose name leads to a factory with annotated parameters.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from ddbench.errors import UsageError, unknown

Kind = TypeVar("Kind")
KINDS = {
    "ddbench.methods": "method",
    "ddbench.evaluators": "protocol",
    "ddbench.datasets": "data set",
    "ddbench.networks": "network",
    "ddbench.targets": "target kind",
    "ddbench.commands": "command",
    "ddbench.losses": "loss",
    "ddbench.schedules": "schedule",
    "ddbench.optimizers": "optimizer",
    "ddbench.augmentations": "augmentation",
    "ddbench.mixes": "mix",
    "ddbench.views": "view kind",
    "ddbench.costs": "cost description",
}


@cache
def _declared(group: str) -> dict[str, EntryPoint]:
    points = set(entry_points(group=group))
    counts = Counter(point.name for point in points)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        owners = sorted(f"{point.value}" for point in points if point.name == twice[0])
        raise UsageError(f"{KINDS[group]} {twice[0]!r} is registered twice: {', '.join(owners)}")
    return {point.name: point for point in points}


def names(group: str) -> tuple[str, ...]:
    """Every name registered in an entry-point group, sorted; imports nothing."""
    return tuple(sorted(_declared(group)))


def declared(group: str, name: str) -> EntryPoint | None:
    """Entry point of a name, or None; imports nothing."""
    return _declared(group).get(name)


@cache
def find(group: str, name: str) -> Any:
    """Import and return what is registered under a name.

    Raises:
        UsageError: the name is unknown (near matches are named), or its code cannot be imported (the reason is).
    """
    declared = _declared(group)
    if name not in declared:
        raise unknown(KINDS[group], name, declared)
    try:
        return declared[name].load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"{KINDS[group]} {name!r} ({declared[name].value}) cannot be loaded: {error}") from error


def find_a(kind: type[Kind], group: str, name: str) -> Kind:
    """`find`, of a class; UsageError also where what is registered is something else."""
    result = find(group, name)
    if not isinstance(result, kind):
        raise UsageError(
            f"{KINDS[group]} {name!r}: its entry point gives an object of {type(result).__name__}, not of {kind.__name__}"
        )
    return result


@dataclass(frozen=True)
class Components:
    """Factories of one kind.

    Attributes:
        kind: in words, for errors: "loss".
        group: entry-point group where plugins register more of them.
        builtin: name -> factory.
    """

    kind: str
    group: str
    builtin: Mapping[str, Callable[..., Any]]

    def names(self) -> tuple[str, ...]:
        """Every name that can be built; UsageError if a plugin takes a built-in's name."""
        twice = sorted(self.builtin.keys() & set(names(self.group)))
        if twice:
            raise UsageError(f"{self.kind} {twice[0]!r} is registered twice: it is built in")
        return tuple(sorted({*self.builtin, *names(self.group)}))

    def build(self, spec: Mapping[str, Any]) -> Any:
        """Call the factory that `spec["name"]` names with the other entries as parameters.

        Raises:
            UsageError: unknown name, unknown or missing parameter, wrong type: one line that names it.
        """
        from pydantic import (  # slow to import, and `--help` asks for names only
            ConfigDict,
            ValidationError,
            validate_call,
        )

        name = str(spec.get("name"))
        if name not in self.names():
            raise unknown(self.kind, name, self.names())
        factory = self.builtin.get(name) or find(self.group, name)
        strict = validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))(factory)
        try:
            return strict(**{key: value for key, value in spec.items() if key != "name"})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            allowed = ", ".join(inspect.signature(factory).parameters) or "none"
            message = f"{self.kind} {name!r}, parameter {where!r}: {first['msg']}; its parameters: {allowed}"
            raise UsageError(message) from error
