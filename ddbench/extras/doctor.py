"""What works here and what does not, in a few seconds and without a network."""

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
class Check:
    """One finding: `ok` is False for what is broken, None for what is merely absent or worth knowing."""

    name: str
    ok: bool | None
    detail: str


def checks() -> list[Check]:
    """Look at everything; nothing here raises, writes more than a probe file, or asks a server."""
    parts: tuple[Callable[[], Iterator[Check]], ...] = (
        _python, _torch, _device, _processor, _cache, _results, _plugins, _extras, _datasets,
    )  # fmt: skip
    return [check for part in parts for check in _guarded(part)]


def healthy(found: list[Check]) -> bool:
    """Whether nothing is broken."""
    return all(check.ok is not False for check in found)


def _guarded(part: Callable[[], Iterator[Check]]) -> list[Check]:
    """A part's checks; what it raises becomes one."""
    try:
        return list(part())
    except Exception as error:  # a doctor must survive every patient
        return [Check(part.__name__.strip("_"), False, _line(error))]


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _python() -> Iterator[Check]:
    new_enough, tried = sys.version_info[:2] >= OLDEST, sys.version_info[:2] <= NEWEST
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (new_enough and tried):
        detail += f"; {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))} are tested"
    yield Check("python", False if not new_enough else True if tried else None, detail)


def _torch() -> Iterator[Check]:
    import torch

    new_enough = _release(torch.__version__) >= TORCH
    wanted = "" if new_enough else f"; at least {'.'.join(map(str, TORCH))} is needed"
    yield Check("torch", new_enough, torch.__version__ + wanted)
    yield _torchvision(torch.__version__)


def _torchvision(torch_version: str) -> Check:
    """Whether torchvision fits torch: it loads, its compiled operators run, and its own requirement is met."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:  # a build for another torch fails in its own way
        return Check("torchvision", False, f"does not work beside torch {torch_version}: {_line(error)}")
    unmet = unmet_requirement("torchvision", "torch", torch_version)
    if unmet is not None:
        return Check("torchvision", False, f"{torchvision.__version__} needs torch {unmet}, here is {torch_version}")
    return Check("torchvision", True, f"{torchvision.__version__}, works with this torch")


def unmet_requirement(package: str, other: str, found: str) -> str | None:
    """The versions of `other` that an installed package asks for, if `found` is none of them."""
    from packaging.requirements import Requirement

    for text in requires(package) or []:
        needed = Requirement(text)
        applies = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if needed.name == other and applies and not needed.specifier.contains(found, prereleases=True):
            return str(needed.specifier)
    return None


def _release(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _device() -> Iterator[Check]:
    import torch

    from ddbench.system.environment import cores

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        detail = f"cuda: {torch.cuda.get_device_name()}, {_size(memory)}"
    else:
        detail = "cpu: torch finds no CUDA device"
    wanted = default_device()
    missing = wanted == "cuda" and not torch.cuda.is_available()
    yield Check("device", not missing, f"{detail}; DDBENCH_DEVICE is {wanted}")
    yield Check("threads", True, f"{default_threads()} per job (DDBENCH_THREADS), {cores()} cores")


def _processor() -> Iterator[Check]:
    from ddbench.system.environment import processor

    known = processor_flags()
    fast = [words for flag, words in FLAGS.items() if flag in known]
    yield Check("processor", True, ", ".join([processor(), *fast]))


def processor_flags(path: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The processor's features as Linux names them; empty where they are not to be had."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(next((line.split(":", 1)[1] for line in lines if line.startswith("flags")), "").split())


def _cache() -> Iterator[Check]:
    root = cache_dir()
    yield _place("cache", root)
    parts = {path.name: path for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}
    parts.setdefault("data", data_dir())
    sizes = [f"{name} {folder_size(path)}" for name, path in parts.items() if path.is_dir()]
    yield Check("cache size", True, ", ".join(sizes) or "empty")
    free = shutil.disk_usage(_nearest(root)).free
    yield Check("free disk space", True if free >= LITTLE else None, f"{_size(free)} where the cache is")


def _results() -> Iterator[Check]:
    root = results_dir()
    place = _place("results", root)
    count = sum(1 for _ in root.rglob("*.json")) if root.is_dir() else 0
    yield Check(place.name, place.ok, f"{place.detail}, {count} records")


def _place(name: str, folder: Path) -> Check:
    """Whether files can be written in a folder, or the folder be made; tried with a file that is gone at once."""
    nearest = _nearest(folder)
    where = f"{folder}" if nearest == folder.absolute() else f"{folder} (not there yet)"
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Check(name, True, f"{where}, writable")
    except OSError as error:
        return Check(name, False, f"{where}: cannot write in {nearest}: {error.strerror or error}")


def _nearest(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def folder_size(folder: Path, limit: int = COUNTED) -> str:
    """The size of the files below a folder, in words; "at least" where there are more than `limit` of them."""
    total, count = 0, 0
    for path, _, names in os.walk(folder):
        for name in names:
            count += 1
            if count > limit:
                return f"at least {_size(total)}"
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return _size(total)


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.3g} TB"


def _plugins() -> Iterator[Check]:
    for group, kind in plugins.KINDS.items():
        yield group_check(group, kind)


def group_check(group: str, kind: str) -> Check:
    """Whether everything registered in an entry-point group can be imported; what cannot is named with its reason."""
    try:
        names = plugins.names(group)
    except UsageError as error:
        return Check(_plural(kind), False, str(error))
    broken = [f"{name}: {reason}" for name in names if (reason := _fault(group, name))]
    if broken:
        return Check(_plural(kind), False, "; ".join(broken))
    return Check(_plural(kind), True, f"{len(names)} load: {', '.join(names)}" if names else "only the built-in ones")


def _plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith(("s", "x")) else f"{kind}s"


def _fault(group: str, name: str) -> str | None:
    try:
        plugins.find(group, name)
    except DDBenchError as error:
        return str(error)
    except Exception as error:  # anyone's module may raise anything
        return _line(error)
    return None


def _extras() -> Iterator[Check]:
    for module, (package, purpose) in EXTRAS.items():
        if find_spec(module) is None:
            yield Check(module, None, f"not installed; optional, for {purpose}: pip install {package}")
        else:
            yield Check(module, True, _version(package))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "installed"


def _datasets() -> Iterator[Check]:
    for name in dataset_names():
        card = describe(name)
        ok, detail = (True, "there") if card.available else (None, card.how_to_get)
        yield Check(f"data set {name}", ok, detail)
