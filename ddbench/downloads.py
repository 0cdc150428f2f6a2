"""What every download of a library has here: a time limit for silent servers, and its messages on stderr."""

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
