"""Tensors kept in the cache: written whole, checked when read, rebuilt when damaged."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddbench.errors import UsageError
from ddbench.hashing import tensors_digest
from ddbench.system.files import locked, write_with

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

Tensors = dict[str, "torch.Tensor"]


def cached_tensors(path: Path, build: Callable[[], Tensors]) -> tuple[Tensors, str]:
    """Read the named tensors kept at `path`, or build and keep them; returns them with their `tensors_digest`.

    Processes that want the same entry wait for the one that builds it. A damaged entry (cut short, bits flipped) is
    reported once through logging and built again. The file is mapped, not copied: do not write to the tensors.
    UsageError where the cache cannot be written.
    """
    with locked(path):
        found = read_kept(path, tensors_digest)
        if found is not None:
            return found
        tensors = build()
        sha256 = tensors_digest(tensors)
        write_with(path, lambda temporary: _save(tensors, temporary, path, sha256))
        return tensors, sha256


def read_kept(
    path: Path, checksum: Callable[[dict[str, Any]], str], framework: Literal["pt", "np"] = "pt"
) -> tuple[dict[str, Any], str] | None:
    """The named tensors, or numpy's arrays, kept at `path` and their checksum; None where they are absent or damaged.

    Args:
        path: a safetensors file whose metadata has the checksum as `sha256`.
        checksum: of what is read.
        framework: "pt" for tensors, "np" for arrays.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework=framework) as file:
            expected = (file.metadata() or {}).get("sha256")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("cache entry %s is damaged (%s): it is built again", path, error)
        return None
    if checksum(tensors) != expected:
        log.warning("cache entry %s is damaged (its hash does not match): it is built again", path)
        return None
    return tensors, expected


def _save(tensors: Tensors, temporary: Path, path: Path, sha256: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, temporary, metadata={"sha256": sha256})
    except SafetensorError as error:  # a full disk arrives as this, not as OSError
        raise UsageError(f"cannot write {path}: {error}") from error
