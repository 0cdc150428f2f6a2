"""Checkpoints of a running distillation: nested plain data with tensors, sealed, written whole or not at all."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ddbench.training.sealed import read_sealed, write_sealed

MARK, PAIRS, FLOAT = "__tensor__", "__pairs__", "__float__"


class Checkpoint:
    """Last saved state of one job."""

    def __init__(self, path: Path | None, interval: float = 60.0) -> None:
        """Keep the state in `path` (None: nowhere), saved at most every `interval` seconds."""
        self.path, self.interval = path, interval
        self._saved = time.monotonic()

    def load(self) -> Any:
        """Saved state, or None."""
        artifact = read_sealed(self.path) if self.path else None
        return _unpack(artifact.info["state"], artifact.tensors) if artifact else None

    def save_when_due(self, state: Callable[[], Any]) -> None:
        """Save `state()` if the interval has passed since the last time."""
        if self.path and time.monotonic() - self._saved >= self.interval:
            tensors: dict[str, torch.Tensor] = {}
            plain = _pack(state(), tensors)
            write_sealed(self.path, tensors, {"state": plain})
            self._saved = time.monotonic()

    def clear(self) -> None:
        """Forget the state: the job is done."""
        if self.path:
            self.path.unlink(missing_ok=True)


def _pack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace every tensor by a mark, and what JSON would change (keys that are no texts, infinities) likewise."""
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.clone()
        return {MARK: name}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _pack(item, tensors) for key, item in value.items()}
        return {PAIRS: [[key, _pack(item, tensors)] for key, item in value.items()]}  # an optimizer's state, say
    if isinstance(value, list | tuple):
        return [_pack(item, tensors) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    return value


def _unpack(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {MARK}:
        return tensors[value[MARK]]
    if set(value) == {FLOAT}:
        return float(value[FLOAT])
    if set(value) == {PAIRS}:
        return {key: _unpack(item, tensors) for key, item in value[PAIRS]}
    return {key: _unpack(item, tensors) for key, item in value.items()}
