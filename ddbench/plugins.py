"""What is installed: methods, protocols and target kinds, found by entry point and imported only when asked for.

Ours are declared in pyproject.toml exactly as anyone else's would be. A name that two packages declare is an error.
"""

from collections import Counter
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ddbench.errors import UsageError, unknown

KINDS = {
    "ddbench.methods": "method",
    "ddbench.evaluators": "protocol",
    "ddbench.targets": "target kind",
    "ddbench.commands": "command",
    "ddbench.training.losses": "loss",
    "ddbench.training.optimizers": "schedule",
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
