"""Memory of a training: kept between its steps, measured around a block, and saved by autograd for a backward pass.

Every step of a training allocates the same tensors. glibc gives large ones back when they are freed, and the system
then hands out, and zeroes, the same pages again: at 64 px that took 40 % of a ConvNet's step. So freed memory is kept;
where the C library is not glibc nothing is done. No number changes.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

STATM = Path("/proc/self/statm")
# mallopt's parameters in glibc's malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
TOP_BYTES = 2**31 - 1  # bytes at the top of the heap: the largest value that mallopt takes
# bytes from which on a tensor is mapped by itself: wanted, and the most that an older glibc takes
MAPPED = (2**30, 2**25)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
    except (OSError, TypeError):  # no such loader: Windows
        return None


@cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what this process frees; False where it does not."""
    library = _glibc()
    if library is None:
        return False
    mapped = any(library.mallopt(MMAP_THRESHOLD, size) == 1 for size in MAPPED)
    return library.mallopt(TRIM_THRESHOLD, TOP_BYTES) == 1 and mapped


def give_back() -> None:
    """Return what is free to the system, so that resident memory is what is in use."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def resident_bytes() -> int:
    """Resident memory of this process in bytes; 0 where the system does not say."""
    try:
        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class Meter:
    """Measures the block it surrounds.

    On a CPU, resident memory is sampled every 20 ms; on CUDA, the allocator's own peak is read.

    Attributes:
        seconds: wall-clock time.
        peak_memory: bytes above the level at the start; None where the system does not say.
    """

    def __init__(self, device: torch.device, interval: float = 0.02) -> None:
        """Measure work on `device`, sampling every `interval` seconds."""
        self.device, self.interval = device, interval
        self.seconds = 0.0
        self.peak_memory: int | None = None
        self._stop = threading.Event()

    def __enter__(self) -> "Meter":
        self._started = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._base = torch.cuda.memory_allocated()
            return self
        give_back()
        self._base = self._peak = resident_bytes()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            self.peak_memory = torch.cuda.max_memory_allocated() - self._base
        else:
            self._stop.set()
            self._thread.join()
            self.peak_memory = max(self._peak, resident_bytes()) - self._base if self._base else None
        self.seconds = time.perf_counter() - self._started

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self._peak = max(self._peak, resident_bytes())


def saved_activation_bytes(forward: Callable[[], object], weights: Iterable[Tensor]) -> int:
    """Bytes that autograd saves of a forward pass, which decide how many problems go through at once.

    Args:
        forward: the pass.
        weights: are there anyhow, and left out.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in weights}
    saved: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        forward()
    return sum(saved.values())
