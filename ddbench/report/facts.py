"""Plain data on what is installed and stored: a method, its recipes' budgets, a protocol, a set."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddbench.distillation.method import Method
from ddbench.distillation.recipes import published
from ddbench.evaluation.protocol import Protocol
from ddbench.synset.synset import SynSet


def method_facts(method: Method) -> dict[str, Any]:
    """All that is known of a method, as plain data."""
    file = published(method)
    module = inspect.getmodule(method.hyper)
    return {
        "name": method.name,
        "title": method.title,
        "paper": method.paper,
        "arxiv": method.arxiv,
        "budgets": list(method.budgets),
        "balanced": method.balanced,
        "description": inspect.cleandoc(module.__doc__ or "") if module else "",
        "differences": list(method.differences),
        "hyper": [_hyper(key, field) for key, field in method.hyper.model_fields.items()],
        "generic": file.generic,
        "recipes": [entry.model_dump(mode="json", exclude_none=True) for entry in file.recipe],
    }


def _hyper(name: str, field: Any) -> dict[str, Any]:
    annotation = getattr(field.annotation, "__name__", "") if isinstance(field.annotation, type) else ""
    return {
        "name": name,
        "type": annotation or str(field.annotation).replace("typing.", ""),
        "required": field.is_required(),
        "default": None if field.is_required() else field.get_default(call_default_factory=True),
        "range": _range(field.metadata),
        "description": field.description or "",
    }


def _range(metadata: list[Any]) -> str:
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("min_length", "length >="))
    found = [(sign, getattr(bound, key, None)) for bound in metadata for key, sign in signs]
    return ", ".join(f"{sign} {value:g}" for sign, value in found if value is not None)


def allowed(row: dict[str, Any]) -> str:
    """What a hyper-parameter may be: its choices, or its type and range."""
    if row["type"].startswith("Literal["):
        return row["type"].removeprefix("Literal[").removesuffix("]").replace("'", "").replace(", ", " | ")
    return f"{row['type']} {row['range']}".strip()


def recipe_budgets(entry: Mapping[str, Any]) -> str:
    """The budgets of a published recipe: "IPC 1, 10"."""
    if entry.get("all"):
        return "all"
    kind = "ipc" if "ipc" in entry else "fraction"
    values = entry[kind] if isinstance(entry[kind], list) else [entry[kind]]
    return f"{kind.replace('ipc', 'IPC')} {', '.join(map(str, values))}"


def protocol_facts(protocol: Protocol) -> dict[str, Any]:
    """Every constant of a protocol as plain data, with its digest."""
    return {
        "name": protocol.name,
        "version": protocol.version,
        "digest": protocol.digest(),
        "summary": protocol.summary,
        "space": protocol.space,
        "smallest": protocol.smallest,
        "students": [{"up_to": tier.up_to, **tier.student} for tier in protocol.tiers],
        "teachers": [{"up_to": tier.up_to, **tier.student} for tier in protocol.teacher],
    }


def set_facts(synset: SynSet, path: Path) -> dict[str, Any]:
    """What is known of a set, as plain data."""
    counts = synset.per_class()
    return {
        "file": str(path),
        "hash": synset.hash,
        "dataset": synset.dataset,
        "split_hash": synset.split_hash,
        "images": len(synset),
        "classes": len(synset.class_names),
        "per_class": counts,
        "channels": synset.channels,
        "side": synset.side,
        "space": synset.space.kind,
        "codec": synset.codec if synset.images is not None else "indices",
        "bytes": {name: tensor.nbytes for name, tensor in synset.tensors().items()},
        "targets": synset.targets and {"kind": synset.targets.kind, "params": synset.targets.params},
        "views": synset.views and {"kind": synset.views.kind, "params": synset.views.params},
        "student_recipe": synset.student_recipe and synset.student_recipe.model_dump(mode="json"),
        "provenance": synset.provenance.model_dump(mode="json"),
    }
