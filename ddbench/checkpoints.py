"""Checkpoints of a running distillation: nested plain data with tensors, sealed, written whole or not at all."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ddbench.stages import read_sealed, write_sealed

MARK = "__tensor__"


class Checkpoint:
    """The last saved state of one job."""

    def __init__(self, path: Path | None, interval: float = 60.0) -> None:
        """Keep the state in `path` (None: nowhere), saved at most every `interval` seconds."""
        self.path, self.interval = path, interval
        self._saved = time.monotonic()

    def load(self) -> Any:
        """The saved state, or None."""
        product = read_sealed(self.path) if self.path else None
        return _unpack(product.info["state"], product.tensors) if product else None

    def save_when_due(self, state: Callable[[], Any]) -> None:
        """Save `state()` if the interval has passed since the last time."""
        if self.path and time.monotonic() - self._saved >= self.interval:
            tensors: dict[str, torch.Tensor] = {}
            plain = _pack(state(), "state", tensors)
            write_sealed(self.path, tensors, {"state": plain})
            self._saved = time.monotonic()

    def clear(self) -> None:
        """Forget the state: the job is done."""
        if self.path:
            self.path.unlink(missing_ok=True)


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace every tensor by a mark and collect it under a name of its own."""
    if isinstance(value, torch.Tensor):
        tensors[name] = value.clone()
        return {MARK: name}
    if isinstance(value, dict):
        return {str(key): _pack(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]
    return value


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {MARK}:
            return tensors[value[MARK]]
        return {key: _unpack(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    return value
