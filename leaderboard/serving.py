"""A server of one folder for one machine: it reads files, lists nothing, and is not reached from elsewhere."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ddbench.errors import UsageError

HOST = "127.0.0.1"


class _Files(SimpleHTTPRequestHandler):
    """Files of the folder; no lists of folders, no lines on stderr, nothing kept by the browser."""

    def list_directory(self, path: Any) -> None:
        self.send_error(404, "No such page")

    def log_message(self, format: str, *args: Any) -> None:
        return

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()


def server_for(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the folder's files on this machine alone; port 0 takes a free one. UsageError for a port in use."""
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Files, directory=str(folder)))
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror or error}; another one, or 0 for a free one") from error
