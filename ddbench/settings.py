"""Folders, and defaults from the environment. Flags beat environment beat defaults."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddbench.errors import UsageError


@contextmanager
def variables_kept(*names: str) -> Iterator[None]:
    """Restore these variables of the environment when the block ends."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def cache_dir() -> Path:
    """Stages, teachers, checkpoints, distilled sets: DDBENCH_CACHE, else ~/.cache/ddbench. Safe to delete."""
    return Path(os.environ.get("DDBENCH_CACHE") or Path.home() / ".cache" / "ddbench").expanduser()


def data_dir() -> Path:
    """Downloaded data sets: DDBENCH_DATA, else `data` below the cache."""
    named = os.environ.get("DDBENCH_DATA")
    return Path(named).expanduser() if named else cache_dir() / "data"


def results_dir() -> Path:
    """Records: DDBENCH_RESULTS, else results/measured below the current folder."""
    return Path(os.environ.get("DDBENCH_RESULTS") or Path("results") / "measured").expanduser()


def default_threads() -> int:
    """Threads per job: DDBENCH_THREADS, else 1. Part of every run's identity, so it never follows from --workers."""
    return _positive("DDBENCH_THREADS", 1)


def default_workers() -> int:
    """Worker processes of a grid: DDBENCH_WORKERS, else 1."""
    return _positive("DDBENCH_WORKERS", 1)


def default_device() -> str:
    """DDBENCH_DEVICE ("cpu" or "cuda"), else "auto": CUDA where torch finds it."""
    return _one_of("DDBENCH_DEVICE", "auto", ("auto", "cpu", "cuda"))


def default_precision() -> str:
    """Of students' steps: DDBENCH_PRECISION, else float32, the reference."""
    return _one_of("DDBENCH_PRECISION", "float32", ("float32", "bf16", "auto"))


def default_compile() -> str:
    """Compilation of students' steps: DDBENCH_COMPILE, else off."""
    return _one_of("DDBENCH_COMPILE", "off", ("auto", "on", "off"))


def _one_of(variable: str, default: str, allowed: tuple[str, ...]) -> str:
    word = os.environ.get(variable) or default
    if word not in allowed:
        raise UsageError(f"{variable}={word!r}: allowed are {', '.join(allowed)}")
    return word


def _positive(variable: str, default: int) -> int:
    text = os.environ.get(variable)
    if text is None:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{variable}={text!r}: a whole number of at least 1 is needed")
    return int(text)
