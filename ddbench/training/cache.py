"""Stages: cached products (teachers, experts, dynamics) keyed by how they are made.

A stage is a folder named by the digest of its key; its entries are safetensors files, sealed by a hash and written
whole or not at all. The key says how a product is made, not how much of it: entries are added on demand. Where and
with what an entry was made is recorded inside it, so that experts made on a GPU serve a CPU.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from ddbench.errors import UsageError
from ddbench.hashing import canonical_json, digest, tensors_digest
from ddbench.settings import cache_dir
from ddbench.system import rank
from ddbench.system.environment import environment
from ddbench.system.files import locked, write_atomic, write_tensors

if TYPE_CHECKING:
    from ddbench.training.checkpoints import Checkpoint

log = logging.getLogger("ddbench")


@dataclass(frozen=True, eq=False)
class Product:
    """What a stage gives: named tensors, plain facts, and the hash of both (64 hex digits)."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    hash: str = ""


def write_sealed(path: Path, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any]) -> Product:
    """Write tensors and plain facts to a safetensors file that carries its own hash; return the product."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sealed = tensors_digest(plain, info)
    header = {"ddbench": canonical_json({"info": info, "hash": sealed, "environment": environment()})}
    write_tensors(path, plain, header)
    return Product(plain, dict(info), sealed)


def read_sealed(path: Path) -> Product | None:
    """Read what `write_sealed` wrote; None if it is absent. A damaged file is logged, removed, and counts as absent."""
    if not path.exists():
        return None
    try:
        return look_sealed(path)
    except UsageError as error:
        log.warning("cache entry %s is damaged (%s): made again", path.name, error)
        path.unlink(missing_ok=True)
        return None


def look_sealed(path: Path) -> Product:
    """As `read_sealed`, of a file that anyone may have written: UsageError says, in one line, why it is no product."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["ddbench"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        product = Product(tensors, dict(header["info"]), header["hash"])
        found = tensors_digest(tensors, header["info"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: no sealed product: {' '.join(str(error).split())}") from error
    if found != product.hash:
        raise UsageError(f"{path}: content does not match its hash")
    return product


class Stage:
    """One product in the cache: a folder of sealed entries."""

    def __init__(self, name: str, key: Mapping[str, Any]) -> None:
        """Open (not create) the stage `name` made as `key`, plain data, says.

        What several processes train together is another product: batch norms see a part of each batch.
        """
        self.name = name
        self.key = {**key, **({"devices": rank.count()} if rank.count() > 1 else {})}
        self.folder = cache_dir() / "stages" / name / digest({"name": name, "key": self.key})[:32]

    def entries(self) -> list[str]:
        """Names of the entries that are there, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.safetensors"))

    def load(self, entry: str) -> Product | None:
        """An entry, or None if it is not there (or was damaged, which is logged)."""
        return read_sealed(self.folder / f"{entry}.safetensors")

    def save(self, entry: str, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any] | None = None) -> Product:
        """Seal an entry; the stage's key is kept beside it for people to read. Its checkpoint is no longer needed."""
        if not (self.folder / "key.json").exists():
            write_atomic(self.folder / "key.json", json.dumps(self.key, indent=2, sort_keys=True) + "\n")
        product = write_sealed(self.folder / f"{entry}.safetensors", tensors, info or {})
        self.checkpoint(entry).clear()
        return product

    def checkpoint(self, entry: str) -> "Checkpoint":
        """Where the making of an entry keeps its state: a file beside the entry, itself none, gone when it is sealed."""
        from ddbench.training.checkpoints import Checkpoint  # which builds on this module

        return Checkpoint(self.folder / f"{entry}.checkpoint")

    def drop(self, entry: str) -> None:
        """Remove an entry that is no longer wanted; nothing happens if it is not there."""
        (self.folder / f"{entry}.safetensors").unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the stage against other processes: what one builds, the other then finds."""
        with locked(self.folder / "stage"):
            yield

    def product(self, build: Callable[[], tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]]) -> Product:
        """The stage's only product: loaded if it is there, else built once and sealed."""
        found = self.load("product")
        if found is None:
            with self.locked():
                found = self.load("product") or self.save("product", *build())
        return found
