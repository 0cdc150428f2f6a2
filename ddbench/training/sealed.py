"""Sealed files: named tensors and plain facts in a safetensors file that carries its own hash.

Trained things (teachers, experts, dynamics) and checkpoints are written so: whole or not at all, and never a pickle.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ddbench.errors import UsageError
from ddbench.hashing import canonical_json, tensors_digest
from ddbench.system.environment import environment
from ddbench.system.files import write_tensors

log = logging.getLogger("ddbench")


@dataclass(frozen=True, eq=False)
class Artifact:
    """Cached result: named tensors, plain facts, and the hash of both (64 hex digits)."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    hash: str = ""


def write_sealed(path: Path, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]) -> Artifact:
    """Write tensors and plain facts to a safetensors file that carries its own hash; return the artifact."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sealed = tensors_digest(plain, info)
    header = {"ddbench": canonical_json({"info": info, "hash": sealed, "environment": environment()})}
    write_tensors(path, plain, header)
    return Artifact(plain, dict(info), sealed)


def read_sealed(path: Path) -> Artifact | None:
    """Read what `write_sealed` wrote; None if it is absent. A damaged file is logged, removed, and counts as absent."""
    if not path.exists():
        return None
    try:
        return look_sealed(path)
    except UsageError as error:
        log.warning("cache entry %s is damaged (%s): made again", path.name, error)
        path.unlink(missing_ok=True)
        return None


def look_sealed(path: Path) -> Artifact:
    """As `read_sealed`, of a file that anyone may have written: UsageError says, in one line, why it is no artifact."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["ddbench"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        artifact = Artifact(tensors, dict(header["info"]), header["hash"])
        content = tensors_digest(tensors, header["info"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: no sealed artifact: {' '.join(str(error).split())}") from error
    if content != artifact.hash:
        raise UsageError(f"{path}: content does not match its hash")
    return artifact
