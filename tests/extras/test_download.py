"""Addresses and downloads: the promised bytes or nothing, over https alone, inside their folders."""

import contextlib
import hashlib
import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import trustme
from command import ddbench, done
from submitted_records import WORDS, submitted

from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space
from ddbench.errors import UsageError
from ddbench.extras.download import pull
from ddbench.extras.submit import shared_product, shared_set
from ddbench.networks import create
from ddbench.records import addresses
from ddbench.records.addresses import CannotFetch, fetch, parse_address
from ddbench.settings import cache_dir
from ddbench.synset.synset import SynSet, load, save
from ddbench.synset.teachers import Teacher, recall
from ddbench.training.sealed import read_sealed, write_sealed

BYTES = bytes(range(256)) * 5000
SHA = hashlib.sha256(BYTES).hexdigest()
HUB = "https://huggingface.co"


# --- what an address is

ADDRESSES = {
    "https://example.org/a/b.safetensors?x=1": "https://example.org/a/b.safetensors?x=1",
    "https://example.org:8443/a": "https://example.org:8443/a",
    "hf:me/repo/a.safetensors": f"{HUB}/me/repo/resolve/main/a.safetensors",
    "hf:me/re.po@v1.0/sub/a b.st": f"{HUB}/me/re.po/resolve/v1.0/sub/a%20b.st",
    "hf:datasets/me/sets@abc123/a.st": f"{HUB}/datasets/me/sets/resolve/abc123/a.st",
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_an_address_leads_where_it_says(text):
    assert parse_address(text).url == ADDRESSES[text]


def test_a_path_is_beside_the_record():
    found = parse_address("file:sets/a.safetensors")
    assert found.url is None and found.path is not None and found.path.parts == ("sets", "a.safetensors")


BAD = (
    *("", "a", "http://example.org/a", "ftp://example.org/a", "HTTPS://example.org/a", "https://", "https:///a"),
    *("https://me@example.org/a", "https://me:pw@example.org/a", "https://example.org/a#b", "https://example.org/a b"),
    *("https://example.org/\x00", "https://example.org\\@evil/a", "https://[::1/a", "https://example.org:x/a"),
    *("https://example.org:99999/a", "https://exämple.org/a", "hf:", "hf:me", "hf:me/repo", "hf:me/repo/", "hf:/a/b/c"),
    *("hf:me/../a/b", "hf:../me/a/b", "hf:me/repo/../x", "hf:me/repo@../x/y", "hf:me/repo//x", "hf:me/repo/a\nb"),
    *("file:", "file:/etc/passwd", "file:../a", "file:a/../../b", "file:a//b", "file:./a", "file:a\\b", "file:C:/a"),
    *("file:~/a", "file:///etc/passwd", "file:a\x00", "file:a/", "data:text/plain,x", "javascript:alert(1)"),
)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address_is_refused(text, tmp_path):
    with pytest.raises(ValueError):
        parse_address(text)
    with pytest.raises(UsageError) as caught:
        fetch(text, tmp_path / "out", size=1, sha256=SHA, folder=tmp_path, limit=10)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


# --- a server that may do anything


ANSWERS = {
    "good": BYTES,
    "me": BYTES,  # as the hub: /me/repo/resolve/...
    "short": BYTES[:-1],
    "long": BYTES + b"x",
    "other": BYTES[:-1] + b"x",
    "away": "/good",
    "local": "file:///etc/passwd",
    "loop": "/loop",
}
"""Bytes that are sent, or an address that is redirected to."""


class Server(BaseHTTPRequestHandler):
    """Answers by the first word of the path; else 404."""

    protocol_version = "HTTP/1.0"

    def do_GET(self):
        word = self.path.strip("/").split("/")[0]
        with contextlib.suppress(OSError):
            if isinstance(ANSWERS.get(word), bytes):
                self.body(ANSWERS[word])
            elif word in ANSWERS:
                self.redirect(ANSWERS[word])
            else:
                getattr(self, f"on_{word}", lambda: self.send_error(404))()

    def body(self, raw, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw) if length is None else length))
        self.end_headers()
        self.wfile.write(raw)

    def redirect(self, place):
        self.send_response(302)
        self.send_header("Location", place)
        self.end_headers()

    def on_cut(self):
        self.body(BYTES[:100], length=len(BYTES))

    def on_endless(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(10_000):
            self.server.sent += self.wfile.write(b"x" * 2**16)

    def on_slow(self):
        self.send_response(200)
        self.end_headers()
        time.sleep(3)

    def on_plain(self):
        self.redirect(f"http://localhost:{self.server.server_port}/good")

    def on_rude(self):
        self.wfile.write(b"HTTP/1.0 599 \x1b[31m" + b"red " * 1000 + b"\x9b\r\n\r\n")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost, and the file of the authority that issued it."""
    authority, path = trustme.CA(), tmp_path_factory.mktemp("certificate") / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return authority.issue_cert("localhost"), path


@pytest.fixture
def server(certificate, monkeypatch):
    """An https server of this machine, whose certificate is trusted; gives its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate[0].configure_cert(context)
    running = ThreadingHTTPServer(("localhost", 0), Server)
    running.daemon_threads, running.sent = True, 0
    running.handle_error = lambda *_: None
    running.socket = context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(addresses, "TIMEOUT", 1.0)
    yield running, f"https://localhost:{running.server_port}"
    running.shutdown()
    running.server_close()


def fetched(address, into, **more):
    fetch(address, into / "out", **{"size": len(BYTES), "sha256": SHA, "folder": into, "limit": 2**30, **more})
    return (into / "out").read_bytes()


@pytest.mark.parametrize("path", ["good", "away"])
def test_the_promised_bytes_come_whole(path, server, tmp_path):
    seen = []
    assert fetched(f"{server[1]}/{path}", tmp_path, progress=lambda done, total: seen.append((done, total))) == BYTES
    assert seen[-1] == (len(BYTES), len(BYTES)) and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_hub_is_where_hf_endpoint_says(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server[1])
    assert fetched("hf:me/repo/a.safetensors", tmp_path) == BYTES
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost")
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        fetched("hf:me/repo/a.safetensors", tmp_path)


FAILURES = {
    "absent": "the server answers 404",
    "short": "1,279,999 bytes, the record states 1,280,000",
    "long": "larger than the 1,280,000 bytes",
    "endless": "larger than the 1,280,000 bytes",
    "other": "not the file that the record states",
    "cut": "",
    "plain": "only https is followed",
    "local": "is not allowed",
    "loop": "the server answers 302",
    "slow": "timed out",
    "rude": "599 ",
}


@pytest.mark.parametrize("path", FAILURES)
def test_anything_else_is_one_line_and_leaves_what_was_there(path, server, tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(CannotFetch) as caught:
        fetched(f"{server[1]}/{path}", tmp_path)
    assert FAILURES[path] in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 400
    assert (tmp_path / "out").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    assert server[0].sent < 30 * 2**20, "it must stop reading at the promised size"


def test_who_cannot_be_reached_or_trusted_is_one_line(server, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    monkeypatch.delenv("SSL_CERT_FILE")
    for address in (f"https://localhost:{port}/a", f"{server[1]}/good", "https://no-such-host.invalid/a"):
        with pytest.raises(CannotFetch, match="cannot be reached") as caught:
            fetched(address, tmp_path)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_more_than_is_allowed_is_not_asked_for(server, tmp_path):
    with pytest.raises(UsageError, match="--limit"):
        fetched(f"{server[1]}/endless", tmp_path, limit=len(BYTES) - 1)
    assert server[0].sent == 0


# --- files beside the record


def test_a_file_beside_the_record_and_nothing_outside(tmp_path):
    folder, out = tmp_path / "records", tmp_path / "out"
    (folder / "sets").mkdir(parents=True)
    out.mkdir()
    (folder / "sets" / "a.st").write_bytes(BYTES)
    (tmp_path / "secret").write_bytes(BYTES)
    assert fetched("file:sets/a.st", out, folder=folder) == BYTES
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "round").symlink_to(folder / "round")
    for name, words in (("link", "leads out"), ("up/secret", "leads out"), ("sets", "no such"), ("none", "no such")):
        with pytest.raises((UsageError, CannotFetch), match=words):
            fetched(f"file:{name}", out, folder=folder)
    with pytest.raises((UsageError, CannotFetch)):
        fetched("file:round", out, folder=folder)


# --- from records


def a_set(folder, seed=0):
    digits = load_dataset("digits")
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    save(SynSet.of(digits, classes=torch.arange(10), space=make_space("pixel", digits), images=images), folder / "a.st")
    return folder / "a.st"


def a_record(files, method="mine"):
    sets = {key: {"images": 10, "bytes": {}} for key, file in files.items() if file.kind == "set"}
    teachers = {key: {"network": "mlp", "accuracy": 0.5} for key, file in files.items() if file.kind == "teacher"}
    claim = {**WORDS, "files": {key: file.model_dump(mode="json") for key, file in files.items()}}
    return submitted(synsets=sets, teachers=teachers, runs=[], submission=claim, method=method)


def of_file(path, root, share=shared_product):
    """The record of a file with its address beside it."""
    return a_record(dict([share(path, f"file:{path.relative_to(root).as_posix()}")]))


def test_a_set_comes_into_the_folder_once(tmp_path):
    path, where, out = a_set(tmp_path), tmp_path / "record.json", tmp_path / "sets"
    one = of_file(path, tmp_path, shared_set).model_copy(update={"method": "../../mine"})
    ((place, key),) = pull(one, where, out=out)
    assert place.parent == out and load(place).hash == key == load(path).hash
    before = place.stat().st_mtime_ns
    path.unlink()
    assert pull(one, where, out=out) == [(place, key)] and place.stat().st_mtime_ns == before
    place.write_bytes(b"something else")
    with pytest.raises(CannotFetch, match="is there already"):
        pull(one, where, out=out)
    assert place.read_bytes() == b"something else"


def test_a_file_with_the_right_bytes_that_is_another_set_is_refused(tmp_path):
    path, out = a_set(tmp_path), tmp_path / "sets"
    key, file = shared_set(path, "file:a.st")
    other = key.replace(key[0], "f" if key[0] != "f" else "e")
    with pytest.raises(CannotFetch, match="is not the set"):
        pull(a_record({other: file}), tmp_path / "record.json", out=out)
    path.write_bytes(b"no set at all")
    fake = file.model_copy(update={"size": 13, "sha256": hashlib.sha256(b"no set at all").hexdigest()})
    with pytest.raises(CannotFetch, match="is not the set") as caught:
        pull(a_record({key: fake}), tmp_path / "record.json", out=out)
    assert "\n" not in str(caught.value) and list(out.iterdir()) == []


def a_teacher(**changes):
    digits = load_dataset("digits")
    state = create("mlp-w8", channels=1, side=8, classes=10).state_dict()
    made = Teacher.of(digits, network="mlp-w8", space=make_space("pixel", digits), recipe_hash="0" * 64, state=state)
    return made.state, {**made.facts(), **changes}


def test_a_teacher_comes_into_the_cache_and_is_found_there(tmp_path):
    path = tmp_path / "teachers" / "a.st"
    sealed = write_sealed(path, *a_teacher())
    one = of_file(path, tmp_path)
    with pytest.raises(UsageError, match="no address of a set; it has teacher"):
        pull(one, tmp_path / "record.json")
    ((place, key),) = pull(one, tmp_path / "record.json", what="teacher")
    assert place.parent == cache_dir() / "teachers" and key == sealed.hash
    assert recall(key) is not None and recall(key).network == "mlp-w8"


STRANGE = {
    "another network": {"network": "mlp-w9"},
    "no network": {"network": "convent"},
    "network from the hub": {"network": "timm:hf-hub:me/evil"},
    "huge side": {"side": 10**9},
    "text as side": {"side": "8"},
    "many classes": {"class_names": ["a"] * 11},
    "names missing": {"class_names": None},
    "space": {"space": {"kind": "fourier"}},
    "surprise": {"surprise": 1},
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_teacher_that_is_none_is_refused_in_one_line(case, tmp_path):
    path = tmp_path / "teachers" / "a.st"
    write_sealed(path, *a_teacher(**STRANGE[case]))
    with pytest.raises(CannotFetch, match="is not the teacher") as caught:
        pull(of_file(path, tmp_path), tmp_path / "record.json", what="teacher")
    assert "\n" not in str(caught.value) and list((cache_dir() / "teachers").iterdir()) == []


def test_experts_come_into_their_stage(tmp_path):
    path = tmp_path / "experts" / ("1" * 32) / "0-5.safetensors"
    sealed = write_sealed(path, {"parameters": torch.ones(3)}, {"loss": 0.5})
    ((place, key),) = pull(of_file(path, tmp_path), tmp_path / "record.json", what="experts")
    assert place == cache_dir() / "stages" / "experts" / ("1" * 32) / "0-5.safetensors"
    assert read_sealed(place).hash == sealed.hash == key


def test_the_command(server, tmp_path):
    path = a_set(tmp_path)
    where = tmp_path / "record.json"
    where.write_text(of_file(path, tmp_path, shared_set).to_json())
    place, key = done(ddbench("pull", where, "--out", tmp_path / "sets", "--quiet")).stdout.split()
    assert load(tmp_path / place).hash == key
    where.write_text(a_record(dict([shared_set(path, f"{server[1]}/absent")])).to_json())
    gone = ddbench("pull", where, "--out", tmp_path / "other", "--quiet")
    assert gone.exit_code == 1 and gone.stderr.count("\n") == 1 and "404" in gone.stderr and gone.stdout == ""
    for more in (["--what", "sets"], ["--limit", "1"], ["--limit", "x"]):
        assert ddbench("pull", where, *more, "--quiet").exit_code == 2
