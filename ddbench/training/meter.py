"""Cost of a block of work: wall-clock seconds and peak memory above the level at its start."""

import os
import threading
import time
from pathlib import Path

import torch

from ddbench.training.allocator import give_back

STATM = Path("/proc/self/statm")


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
