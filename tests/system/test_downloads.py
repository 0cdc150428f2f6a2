"""Downloads: whole or not at all, from the first address that has the file, given up when the server is silent."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ddbench.errors import UsageError
from ddbench.system import downloads

CONTENT = bytes(range(256)) * 100


class Server(BaseHTTPRequestHandler):
    """Has /file, breaks off in /short, says nothing in /silent."""

    def do_GET(self):
        if self.path == "/silent":
            self.server.end.wait(10)
        elif self.path in ("/file", "/short"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/file" else CONTENT[:100])
        else:
            self.send_error(404)

    def log_message(self, *words):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.end = threading.Event()
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.end.set()
        server.shutdown()


def test_a_file_comes_from_the_first_address_that_has_it(site, tmp_path, capsys):
    path = tmp_path / "new" / "file"
    urls = (f"{site}/absent", f"{site}/silent", f"{site}/file")
    downloads.fetch(path, *urls, digest=hashlib.md5(CONTENT).hexdigest()[:8], algorithm="md5")
    assert path.read_bytes() == CONTENT and capsys.readouterr().out == ""
    downloads.fetch(path, f"{site}/absent")  # what is there stands


@pytest.mark.parametrize(
    ("name", "words"), [("silent", "timed out"), ("absent", "404"), ("file", "hash"), ("short", "hash")]
)
def test_what_fails_is_one_line_and_leaves_nothing(name, words, site, tmp_path):
    with pytest.raises(UsageError, match=words) as caught:
        downloads.fetch(tmp_path / "file", f"{site}/{name}", digest="0" * 8)
    assert "\n" not in str(caught.value) and f"{site}/{name}" in str(caught.value)
    assert not list(tmp_path.iterdir())
