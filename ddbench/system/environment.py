"""Surroundings of a number: versions, commit, processor, device. Recorded, never part of a cache key."""

import os
import platform
import subprocess
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ddbench import plugins
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.settings import default_device

PACKAGES = ("ddbench", "torch", "torchvision", "timm", "numpy", "scipy")
SOURCES = ("ddbench", "ddbench.methods", "ddbench.evaluators")


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; those not installed are left out."""
    numbers = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers


@cache
def commit() -> tuple[str, bool] | tuple[None, None]:
    """Commit of the ddbench checkout and whether its tracked files differ from it; (None, None) for a wheel."""
    root = Path(__file__).resolve().parents[2]
    return (_checkout(root) if (root / ".git").exists() else None) or (None, None)


def plugin(group: str, name: str) -> dict[str, str | bool]:
    """Package, version and, of a git checkout, commit and whether it was changed, of who declares an entry point.

    Nothing of what ddbench itself declares, whose version and commit stand beside it.
    """
    point = plugins.declared(group, name)
    if point is None or point.dist is None or point.module.split(".")[0] == "ddbench":
        return {}
    spec = find_spec(point.module.split(".")[0])
    state = _checkout(Path(spec.origin).parent, Path(spec.origin).name) if spec is not None and spec.origin else None
    checkout: dict[str, str | bool] = {"plugin_commit": state[0], "plugin_dirty": state[1]} if state else {}
    return {"plugin": point.dist.name, "plugin_version": point.dist.version, **checkout}


def _checkout(folder: Path, file: str | None = None) -> tuple[str, bool] | None:
    """Commit and state of the checkout of a folder; None where there is none, or where it does not track the file."""
    try:
        if file is not None:
            _git(folder, "ls-files", "--error-unmatch", file)
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        return _git(folder, "rev-parse", "HEAD").strip(), bool(changes.strip())
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def source() -> str:
    """Digest of the source of the core, our methods and our protocols, as this process finds it when first asked."""
    roots = [Path(place) for name in SOURCES for place in import_module(name).__path__]
    return digest(sorted({file.read_text(encoding="utf-8") for root in roots for file in root.rglob("*.py")}))


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=20, check=True)
    return done.stdout


@cache
def processor() -> str:
    """Processor's model name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Versions, commit, processor, threads and, where there is one, the CUDA device: plain data."""
    head, dirty = commit()
    return {
        "versions": versions(),
        "commit": head,
        "dirty": dirty,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def find_device(name: str | None = None) -> torch.device:
    """Device to run on: "cpu", "cuda" or "auto" (None: DDBENCH_DEVICE, else auto: CUDA where torch finds it).

    Turns TF32 off on CUDA: float32 means float32.
    """
    wanted = name or default_device()
    if wanted not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {wanted!r}: allowed are auto, cpu, cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("device cuda: torch finds no CUDA device here")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")
