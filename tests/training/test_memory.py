"""What is freed is kept for the next step, and is not counted as in use."""

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ddbench.training.memory import MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory

FAULTS = """
import resource, sys, torch
from ddbench.training.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    return float(torch.ones(16 * 2**20).sum())
for _ in range(12):  # the heap finds its shape in the first few
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

GIVEN_BACK = """
import torch
from ddbench.training.memory import give_back, keep_freed_memory
from ddbench.training.memory import Meter, resident_bytes
assert keep_freed_memory()
first = resident_bytes()
kept = torch.ones(64 * 2**20)
del kept
freed = resident_bytes()
give_back()
after = resident_bytes()
with Meter(torch.device("cpu")) as meter:
    torch.ones(64 * 2**20)
print(freed - first, after - first, meter.peak_memory)
"""


def python(text: str, *words: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", text, *words], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library: nothing is done there")


@glibc
def test_the_next_step_finds_its_pages_again() -> None:
    """A tensor of 64 MiB: 16,384 pages of 4 KiB, or 32 of 2 MiB, which the system zeroes each time or once."""
    (given_back,), (kept,) = python(FAULTS, "plain"), python(FAULTS, "keep")
    assert kept < 10 < given_back


@glibc
def test_memory_that_is_free_is_not_counted_as_in_use() -> None:
    size = 256 * 2**20
    freed, after, peak = python(GIVEN_BACK)
    assert freed > 0.9 * size
    assert after < 0.1 * size
    assert 0.9 * size < peak < 1.2 * size


def test_an_older_library_takes_a_lower_threshold(monkeypatch):
    asked = []

    def mallopt(parameter, size):
        asked.append((parameter, size))
        return int(parameter != MMAP_THRESHOLD or size <= 2**25)

    monkeypatch.setattr("ddbench.training.memory._glibc", lambda: SimpleNamespace(mallopt=mallopt))
    assert keep_freed_memory.__wrapped__()
    assert asked == [(MMAP_THRESHOLD, 2**30), (MMAP_THRESHOLD, 2**25), (TRIM_THRESHOLD, 2**31 - 1)]
