"""Cache of trained things (teachers, experts, dynamics), keyed by how they are made.

A method's stage (squeezing, training experts) has a cache of its own: a folder named by the digest of its key, whose
entries are safetensors files, sealed by a hash and written whole or not at all. The key says how entries are made, not
how many there are: they are added on demand. Where and with what an entry was made is recorded inside it, so that experts
made on a GPU serve a CPU.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ddbench.hashing import digest
from ddbench.settings import cache_dir
from ddbench.system import rank
from ddbench.system.files import locked, write_atomic
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.sealed import Artifact, read_sealed, write_sealed


class Cache:
    """Sealed entries of one stage, in a folder."""

    def __init__(self, name: str, key: Mapping[str, Any]) -> None:
        """Open (not create) the cache of the stage `name`, made as `key`, plain data, says.

        What several processes train together is kept apart: batch norms see a part of each batch.
        """
        self.name = name
        self.key = {**key, **({"devices": rank.count()} if rank.count() > 1 else {})}
        self.folder = cache_dir() / "stages" / name / digest({"name": name, "key": self.key})[:32]

    def entries(self) -> list[str]:
        """Names of the entries that are there, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.safetensors"))

    def load(self, entry: str) -> Artifact | None:
        """An entry, or None if it is not there (or was damaged, which is logged)."""
        return read_sealed(self.folder / f"{entry}.safetensors")

    def save(self, entry: str, tensors: Mapping[str, torch.Tensor], info: Mapping[str, Any] | None = None) -> Artifact:
        """Seal an entry; the key is kept beside it for people to read. Its checkpoint is no longer needed."""
        if not (self.folder / "key.json").exists():
            write_atomic(self.folder / "key.json", json.dumps(self.key, indent=2, sort_keys=True) + "\n")
        product = write_sealed(self.folder / f"{entry}.safetensors", tensors, info or {})
        self.checkpoint(entry).clear()
        return product

    def checkpoint(self, entry: str) -> Checkpoint:
        """Checkpoint for the making of an entry: a file beside it, which is no entry and is removed when the entry is sealed."""
        return Checkpoint(self.folder / f"{entry}.checkpoint")

    def drop(self, entry: str) -> None:
        """Remove an entry that is no longer wanted; nothing happens if it is not there."""
        (self.folder / f"{entry}.safetensors").unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the cache against other processes: what one builds, the other then finds."""
        with locked(self.folder / "stage"):
            yield

    def product(self, build: Callable[[], tuple[Mapping[str, torch.Tensor], Mapping[str, Any]]]) -> Artifact:
        """Load the cache's only artifact, or build and seal it once."""
        artifact = self.load("product")
        if artifact is None:
            with self.locked():
                artifact = self.load("product") or self.save("product", *build())
        return artifact
