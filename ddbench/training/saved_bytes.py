"""How much memory a forward pass keeps for its backward pass: what decides how many problems go through at once."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def kept_bytes(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass; `weights`, which are there anyhow, are left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in weights}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(seen.values())
