"""Freed memory is kept for the next step of a training instead of going back to the system after each.

Every step of a training allocates the same tensors. glibc gives large ones back when they are freed, and the system
then hands out, and zeroes, the same pages again: at 64 px that took 40 % of a ConvNet's step. Where the C library is
not glibc nothing is done. No number changes.
"""

import ctypes
from functools import cache

# mallopt's parameters in glibc's malloc.h
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 2**31 - 1  # bytes at the top of the heap: the largest value that mallopt takes
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
    """Tell the C library to keep what this process frees; False where it takes no such word."""
    library = _glibc()
    if library is None:
        return False
    mapped = any(library.mallopt(MMAP_THRESHOLD, size) == 1 for size in MAPPED)
    return library.mallopt(TRIM_THRESHOLD, KEPT) == 1 and mapped


def give_back() -> None:
    """Return what is free to the system, so that resident memory is what is in use."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
