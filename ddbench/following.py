"""Whether this process leads or follows, where several do one job together: one alone waits for locks and writes records."""

_rank = 0


def follow(rank: int) -> None:
    """Say which of the processes of a job, or of the drivers on several nodes, this one is; 0 leads."""
    global _rank
    _rank = rank


def follows() -> bool:
    """Whether another process leads: one of a lower rank."""
    return _rank > 0
