"""Randomness is a key, not a stream: every draw comes from a generator seeded by what the draw is for.

So a cache hit, a resume or another worker count shifts nothing. What libraries draw from torch's global
generators (initializers, dropout) runs inside `forked`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ddbench.hashing import canonical_json

Key = str | int


def seed_of(seed: int, *key: Key) -> int:
    """Derive the 63-bit seed that stands for (seed, key): the head of the SHA-256 of their canonical JSON."""
    head = hashlib.sha256(canonical_json([seed, *key]).encode()).digest()[:8]
    return int.from_bytes(head, "big") >> 1


def rng(seed: int, *key: Key) -> torch.Generator:
    """A fresh CPU generator for one purpose: `rng(seed, "dsa", step)`."""
    return torch.Generator().manual_seed(seed_of(seed, *key))


@contextmanager
def forked(seed: int, *key: Key) -> Iterator[None]:
    """Run a block with torch's global generators (CPU, and CUDA where present) seeded by key, then restore them."""
    with torch.random.fork_rng(devices=_cuda_devices()):
        number = seed_of(seed, *key)
        torch.default_generator.manual_seed(number)  # torch.manual_seed asks for CUDA anew at every call
        if _cuda_devices():
            torch.cuda.manual_seed_all(number)
        yield


@cache
def _cuda_devices() -> range:
    return range(torch.cuda.device_count())
