"""Canonical JSON and hashes; files that are whole or absent; locks between processes."""

import errno
import hashlib
import os
import subprocess
import sys
import threading

import pytest
import torch

from ddbench import settings
from ddbench.errors import CannotWrite, UsageError, unknown
from ddbench.hashing import canonical_json, digest, tensors_digest
from ddbench.system.files import check_writable, locked, write_atomic, write_with


def test_canonical_json_is_one_text_per_value():
    assert canonical_json({"b": [1, 2.5, None, True], "a": "é"}) == '{"a":"é","b":[1,2.5,null,true]}'
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    assert canonical_json((1, 2)) == canonical_json([1, 2])
    assert canonical_json(1) != canonical_json(1.0)
    assert digest("x") == hashlib.sha256(b'"x"').hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_canonical_json_refuses_what_json_has_not(value):
    with pytest.raises(ValueError):
        canonical_json(value)


def test_tensors_digest_sees_names_types_shapes_and_bytes():
    base = {"a": torch.arange(6.0), "b": torch.tensor([1, 2])}
    same = {"b": torch.tensor([1, 2]), "a": torch.arange(6.0)}
    assert tensors_digest(base) == tensors_digest(same)
    others = [
        {**base, "a": torch.arange(6.0).double()},
        {**base, "a": torch.arange(6.0).view(2, 3)},
        {**base, "a": torch.arange(6.0).flip(0)},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
    ]
    found = {tensors_digest(base), tensors_digest(base, {"h": 1}), *map(tensors_digest, others)}
    assert len(found) == len(others) + 2
    transposed = torch.arange(6.0).view(2, 3).T
    assert tensors_digest({"a": transposed}) == tensors_digest({"a": transposed.contiguous()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int8, torch.float64])
def test_tensors_digest_takes_every_type(dtype):
    for shape in ((), (0,), (2, 3)):
        assert len(tensors_digest({"x": torch.zeros(shape).to(dtype)})) == 64


def test_write_is_whole_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "file.json"
    write_atomic(path, "first")
    write_atomic(path, b"second \xff")
    assert path.read_bytes() == b"second \xff"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch, at):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if at != "write":
        monkeypatch.setattr(os, at, full)

    def write(temporary):
        temporary.write_text("half")
        if at == "write":
            full()

    with pytest.raises(CannotWrite, match="No space left") as error:
        write_with(path, write)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    monkeypatch.undo()
    assert path.read_text() == "old" and list(tmp_path.glob("*.tmp")) == list(tmp_path.glob(".*.tmp")) == []


def test_a_bug_in_the_writer_leaves_no_temporary_file(tmp_path):
    def write(temporary):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        write_with(tmp_path / "sub" / "file", write)
    assert list((tmp_path / "sub").iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("no folder")
    for act in (lambda p: write_atomic(p, "x"), check_writable, lambda p: locked(p).__enter__()):
        with pytest.raises(CannotWrite, match="cannot") as error:
            act(blocker / "below" / "x")
        assert "\n" not in str(error.value) and isinstance(error.value, UsageError)
    check_writable(tmp_path / "fine")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


COUNT = """
import pathlib, sys, time
from ddbench.system.files import locked, write_atomic
path = pathlib.Path(sys.argv[1])
for _ in range(10):
    with locked(path):
        seen = int(path.read_text())
        time.sleep(0.002)
        write_atomic(path, str(seen + 1))
"""


def test_the_lock_holds_threads_and_processes_apart(tmp_path):
    path = tmp_path / "count"
    write_atomic(path, "0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT, str(path)]) for _ in range(2)]
    threads = [threading.Thread(target=exec, args=(COUNT.replace("sys.argv[1]", repr(str(path))),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0]
    assert path.read_text() == "40"


def test_a_lock_ends_with_its_holder(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "x"):
        raise RuntimeError
    with locked(tmp_path / "x"):
        pass


def test_unknown_names_come_with_near_ones():
    message = str(unknown("data set", "cifar", ["cifar10", "cifar100", "digits"]))
    assert "'cifar'" in message and "did you mean" in message and message.index("cifar10") < message.index("digits")
    assert "did you mean" not in str(unknown("data set", "zzzz", ["digits"])) and "digits" in message


def test_settings_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("DDBENCH_DATA")
    assert settings.cache_dir() == tmp_path and settings.data_dir() == tmp_path / "data"
    monkeypatch.setenv("DDBENCH_THREADS", "3")
    assert settings.default_threads() == 3 and settings.default_workers() == 1
    for bad in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("DDBENCH_THREADS", bad)
        with pytest.raises(UsageError, match="DDBENCH_THREADS"):
            settings.default_threads()
    monkeypatch.setenv("DDBENCH_DEVICE", "tpu")
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        settings.default_device()
