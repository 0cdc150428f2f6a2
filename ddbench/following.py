"""Whether this process leads or follows, where several do one job together: one alone waits for locks and writes records."""

import os

_rank = 0


def follow(rank: int) -> None:
    """Say which of the processes of a job this one is; 0 leads."""
    global _rank
    _rank = rank


def follows() -> bool:
    """Whether another process leads: a lower rank, or the driver on another node (NODE_RANK)."""
    return _rank > 0 or os.environ.get("NODE_RANK", "0") != "0"
