"""What every download of a library has here: a time limit for silent servers, its messages on stderr, no data in a dry run."""

import contextlib
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TIMEOUT = 30.0  # seconds without an answer after which a download is given up


@contextmanager
def patience() -> Iterator[None]:
    """Within the block, sockets give up after a while, and what is printed goes to stderr: stdout is for data."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)


_refused = False


@contextmanager
def refused(when: bool = True) -> Iterator[None]:
    """Within the block, which plans and does nothing, a data set that is not here is an error. `when`: else as before."""
    global _refused
    before, _refused = _refused, _refused or when
    try:
        yield
    finally:
        _refused = before


def are_refused() -> bool:
    """Whether this is within `refused`."""
    return _refused
