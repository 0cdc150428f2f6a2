"""Budgets: how much of a data set may be kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddbench.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """A budget: images per class, a fraction of the split, or everything."""

    ipc: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if self.ipc is not None and (type(self.ipc) is not int or self.ipc < 1):
            raise UsageError(f"ipc must be a whole number of at least 1, not {self.ipc!r}")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise UsageError(f"fraction must be above 0 and at most 1, not {self.fraction!r}")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Budget":
        """Read what `to_json` wrote."""
        return cls(value.get("ipc"), value.get("fraction"))

    @property
    def kind(self) -> str:
        """Kind of budget: "ipc", "fraction" or "all"."""
        return "ipc" if self.ipc is not None else "fraction" if self.fraction is not None else "all"

    def to_json(self) -> dict[str, Any]:
        """{"ipc": 10}, {"fraction": 0.1} or {"all": True}."""
        return {"all": True} if self.kind == "all" else {self.kind: getattr(self, self.kind)}

    def __str__(self) -> str:
        return {"ipc": f"IPC {self.ipc}", "fraction": f"fraction {self.fraction}", "all": "all"}[self.kind]
