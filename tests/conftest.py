"""What every test has: its own cache, data and results folders, one thread; and, on request, a package of toys."""

import os
import sys
import time
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

TOYS = Path(__file__).parent / "toys"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    for name in ("CACHE", "DATA", "RESULTS"):
        monkeypatch.setenv(f"DDBENCH_{name}", str(tmp_path / "home" / name.lower()))
    for name in ("THREADS", "WORKERS"):
        monkeypatch.delenv(f"DDBENCH_{name}", raising=False)
    monkeypatch.setenv("DDBENCH_DEVICE", "cpu")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def slept(monkeypatch):
    """A clock on which nothing but sleeping takes time; sleeping takes none of ours."""
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Install `toybox` and `toyparts` (tests/toys) for one test; gives the file that its calls are logged in."""
    from ddbench import plugins
    from ddbench.system import code

    def forget():
        plugins._declared.cache_clear()
        plugins.find.cache_clear()
        code.forget()

    monkeypatch.syspath_prepend(TOYS)
    monkeypatch.setenv("PYTHONPATH", str(TOYS))  # for processes that a test starts
    log = tmp_path / "toy.log"
    monkeypatch.setenv("DDBENCH_TOY_LOG", str(log))
    monkeypatch.setenv("DDBENCH_TOY_MARK", str(tmp_path / "toy.mark"))
    forget()
    yield ToyLog(log)
    forget()
    for name in ("toybox", "toyparts"):
        sys.modules.pop(name, None)


class ToyLog:
    """What the toys did, in whichever process."""

    def __init__(self, path):
        self.path = path

    def count(self, word: str) -> int:
        return sum(line.split()[0] == word for line in self._lines())

    def processes(self, word: str) -> set[str]:
        return {line.split()[1] for line in self._lines() if line.split()[0] == word}

    def _lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
