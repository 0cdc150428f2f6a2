"""Diagnosis of an installation: what works here and what does not, in a few seconds and without a network."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from ddbench import plugins
from ddbench.data.registry import dataset_names, describe
from ddbench.errors import DDBenchError, UsageError
from ddbench.report.format import size
from ddbench.settings import cache_dir, data_dir, default_device, default_threads, results_dir

OLDEST, NEWEST = (3, 11), (3, 13)
TORCH = (2, 9)
LITTLE = 5 * 2**30  # bytes free below which a download or a teacher may not fit
COUNTED = 50_000  # files looked at in one part of the cache
EXTRAS = {
    "ray": ("ray", "grids on a cluster"),
    "lightning_fabric": ("lightning-fabric", "one training on several devices"),
    "open_clip": ("open_clip_torch", "methods that use CLIP"),
    "wandb": ("wandb", "--wandb"),
}
FLAGS = {"amx_bf16": "AMX bfloat16", "avx512_bf16": "AVX-512 bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}


@dataclass(frozen=True)
class Finding:
    """One finding: `ok` is True for what works, False for what is broken, None for what is absent or worth knowing."""

    name: str
    ok: bool | None
    detail: str


def findings() -> list[Finding]:
    """Look at everything; raises nothing, writes no more than a probe file, and asks no server."""
    parts: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python, _torch, _device, _processor, _cache, _results, _plugins, _extras, _datasets,
    )  # fmt: skip
    return [finding for part in parts for finding in _guarded(part)]


def healthy(found: list[Finding]) -> bool:
    """Return False if anything is broken."""
    return all(finding.ok is not False for finding in found)


def _guarded(part: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Collect a part's findings; an error becomes one."""
    try:
        return list(part())
    except Exception as error:  # the diagnosis must not end on a broken machine
        return [Finding(part.__name__.strip("_"), False, _line(error))]


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _python() -> Iterator[Finding]:
    new_enough, tested = sys.version_info[:2] >= OLDEST, sys.version_info[:2] <= NEWEST
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (new_enough and tested):
        detail += f"; {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))} are tested"
    yield Finding("python", (tested or None) if new_enough else False, detail)


def _torch() -> Iterator[Finding]:
    import torch
    from packaging.version import Version

    new_enough = Version(torch.__version__).release[:2] >= TORCH
    wanted = "" if new_enough else f"; at least {'.'.join(map(str, TORCH))} is needed"
    yield Finding("torch", new_enough, torch.__version__ + wanted)
    yield _torchvision(torch.__version__)


def _torchvision(torch_version: str) -> Finding:
    """Check that torchvision fits torch: it loads, its compiled operators run, and its own requirement is met."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:  # a build for another torch fails in its own way
        return Finding("torchvision", False, f"does not work beside torch {torch_version}: {_line(error)}")
    unmet = unmet_requirement("torchvision", "torch", torch_version)
    if unmet is not None:
        return Finding("torchvision", False, f"{torchvision.__version__} needs torch {unmet}, here is {torch_version}")
    return Finding("torchvision", True, f"{torchvision.__version__}, works with this torch")


def unmet_requirement(package: str, other: str, installed: str) -> str | None:
    """Return the versions of `other` that an installed package needs if `installed` is none of them, else None."""
    from packaging.requirements import Requirement

    for text in requires(package) or []:
        needed = Requirement(text)
        applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if needed.name == other and applies and not needed.specifier.contains(installed, prereleases=True):
            return str(needed.specifier)
    return None


def _device() -> Iterator[Finding]:
    import torch

    from ddbench.system.environment import cores

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        detail = f"cuda: {torch.cuda.get_device_name()}, {size(memory)}"
    else:
        detail = "cpu: torch finds no CUDA device"
    wanted = default_device()
    missing = wanted == "cuda" and not torch.cuda.is_available()
    yield Finding("device", not missing, f"{detail}; DDBENCH_DEVICE is {wanted}")
    yield Finding("threads", True, f"{default_threads()} per job (DDBENCH_THREADS), {cores()} cores")


def _processor() -> Iterator[Finding]:
    from ddbench.system.environment import processor

    flags = processor_flags()
    yield Finding(
        "processor", True, ", ".join([processor(), *(words for flag, words in FLAGS.items() if flag in flags)])
    )


def processor_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Read the processor's features as Linux names them; empty where there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _cache() -> Iterator[Finding]:
    root = cache_dir()
    yield _place("cache", root)
    parts = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}
    parts.setdefault("data", data_dir())
    sizes = [f"{name} {folder_size(path)}" for name, path in parts.items() if path.is_dir()]
    yield Finding("cache size", True, ", ".join(sizes) or "empty")
    free = shutil.disk_usage(_nearest(root)).free
    yield Finding("free disk space", True if free >= LITTLE else None, f"{size(free)} where the cache is")


def _results() -> Iterator[Finding]:
    root = results_dir()
    place = _place("results", root)
    count = sum(1 for _ in root.rglob("*.json")) if root.is_dir() else 0
    yield Finding(place.name, place.ok, f"{place.detail}, {count} records")


def _place(name: str, folder: Path) -> Finding:
    """Try to write a temporary file in a folder, or in the parent where it would be made."""
    nearest = _nearest(folder)
    where = f"{folder}" if nearest == folder.absolute() else f"{folder} (not there yet)"
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Finding(name, True, f"{where}, writable")
    except OSError as error:
        return Finding(name, False, f"{where}: cannot write in {nearest}: {error.strerror or error}")


def _nearest(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def folder_size(folder: Path, limit: int = COUNTED) -> str:
    """Return the size of the files below a folder, in words; "at least" where there are more than `limit` of them."""
    total, count = 0, 0
    for path, _, names in os.walk(folder):
        for name in names:
            count += 1
            if count > limit:
                return f"at least {size(total)}"
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return size(total)


def _plugins() -> Iterator[Finding]:
    for group, kind in plugins.KINDS.items():
        yield group_finding(group, f"{kind}es" if kind.endswith(("s", "x")) else f"{kind}s")


def group_finding(group: str, title: str) -> Finding:
    """Import everything that is registered in an entry-point group; what fails is named with its reason."""
    try:
        names = plugins.names(group)
    except UsageError as error:
        return Finding(title, False, str(error))
    broken = [f"{name}: {reason}" for name in names if (reason := _fault(group, name))]
    if broken:
        return Finding(title, False, "; ".join(broken))
    return Finding(title, True, f"{len(names)} load: {', '.join(names)}" if names else "only the built-in ones")


def _fault(group: str, name: str) -> str | None:
    try:
        plugins.find(group, name)
    except DDBenchError as error:
        return str(error)
    except Exception as error:  # anyone's module may raise anything
        return _line(error)
    return None


def _extras() -> Iterator[Finding]:
    for module, (package, purpose) in EXTRAS.items():
        if find_spec(module) is None:
            yield Finding(module, None, f"not installed; optional, for {purpose}: pip install {package}")
            continue
        try:
            yield Finding(module, True, version(package))
        except PackageNotFoundError:
            yield Finding(module, True, "installed")


def _datasets() -> Iterator[Finding]:
    for name in dataset_names():
        card = describe(name)
        ok, detail = (True, "there") if card.available else (None, card.how_to_get)
        yield Finding(f"data set {name}", ok, detail)
