"""Canonical text and hash of a value: recipes, caches, records and sets are keyed by them."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PART = 4096  # values of a long list that are written at a time


def canonical_json(value: Any) -> str:
    """Write plain data (dicts, lists, strings, finite numbers) as JSON that equal values share.

    Keys are sorted, no white space, NaN and infinities are refused (ValueError). Tuples read as lists. A float
    that is a whole number is written as Python writes it (`1.0`), so 1 and 1.0 differ: recipes are typed.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def list_json(values: Iterable[Any]) -> Iterator[str]:
    """Canonical JSON of a list in parts, for one that is too long to be written at once."""
    left, before = iter(values), "["
    while part := list(islice(left, PART)):
        yield before + canonical_json(part)[1:-1]
        before = ","
    yield "]" if before == "," else "[]"


def digest_of_parts(parts: Iterable[str]) -> str:
    """Compute the `digest` of the value whose canonical JSON the parts make up, in order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode())
    return total.hexdigest()


def is_digest(value: Any) -> bool:
    """Tell whether a value is a SHA-256 as `digest` writes it: what files are named by, so nothing else may pass for one."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def tensors_digest(tensors: Mapping[str, "torch.Tensor"], header: Any = None) -> str:
    """SHA-256 over named tensors (name, dtype, shape, bytes; in the order of their names) and a plain header."""
    import torch

    total = hashlib.sha256(canonical_json(header).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()
