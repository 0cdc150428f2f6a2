"""Named parts of a student's training (losses, schedules, optimisers): built-in or from a plugin, checked strictly.

A component is written as plain data, `{"name": "kl", "temperature": 20}`. Its name leads to a factory, whose annotated
parameters say what is allowed. A new one is a function and an entry point, not an edit.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from ddbench import plugins
from ddbench.errors import UsageError, unknown


@dataclass(frozen=True)
class Components:
    """The factories of one kind.

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
        twice = sorted(self.builtin.keys() & set(plugins.names(self.group)))
        if twice:
            raise UsageError(f"{self.kind} {twice[0]!r} is registered twice: it is built in")
        return tuple(sorted({*self.builtin, *plugins.names(self.group)}))

    def build(self, spec: Mapping[str, Any]) -> Any:
        """Call the factory that `spec["name"]` names with the other entries as parameters.

        Raises:
            UsageError: unknown name, unknown or missing parameter, wrong type: one line that names it.
        """
        name = str(spec.get("name"))
        if name not in self.names():
            raise unknown(self.kind, name, self.names())
        factory = self.builtin.get(name) or plugins.find(self.group, name)
        strict = validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))(factory)
        try:
            return strict(**{key: value for key, value in spec.items() if key != "name"})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            allowed = ", ".join(inspect.signature(factory).parameters) or "none"
            message = f"{self.kind} {name!r}, parameter {where!r}: {first['msg']}; its parameters: {allowed}"
            raise UsageError(message) from error
