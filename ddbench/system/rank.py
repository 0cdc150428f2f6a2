"""Rank of this process where several do one job together: one leads; it alone waits for locks and writes records."""

from collections.abc import Iterator
from contextlib import contextmanager

_rank, _count = 0, 1


def follow(rank: int, count: int = 1) -> None:
    """Say which of the processes of a job, or of the drivers on several nodes, this one is (0 leads).

    Args:
        rank: see above.
        count: processes that train together here; a driver trains nothing.
    """
    global _rank, _count
    _rank, _count = rank, count


def follows() -> bool:
    """Tell whether another process leads: one of a lower rank."""
    return _rank > 0


@contextmanager
def as_one_of(count: int, rank: int = 0) -> Iterator[None]:
    """Within the block, this is one of so many processes that train together: their stages are not those of one alone."""
    before = _rank, _count
    follow(rank, count)
    try:
        yield
    finally:
        follow(*before)


def count() -> int:
    """Number of processes that train together in this one's job; 1: it is alone."""
    return _count
