"""Augmentations and mixings by name and parameters, as student recipes give them.

A new augmentation is an entry point in the group `ddbench.augmentations`: a callable `factory(**parameters)` that
returns `fn(images, generator) -> images`. Ours are declared here; a name registered twice is an error.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch
from torch import Tensor

from ddbench.augment.crops import flip, pad_crop, random_resized_crop
from ddbench.augment.dsa import DSA
from ddbench.augment.mixing import cutmix, mixup
from ddbench.errors import UsageError, unknown

GROUP = "ddbench.augmentations"
Augmentation = Callable[[Tensor, torch.Generator], Tensor]
Mixing = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, float]]


@dataclass(frozen=True)
class PadCrop:
    """`pad_crop` with its padding in pixels."""

    pad: int

    def __post_init__(self) -> None:
        if not isinstance(self.pad, int) or isinstance(self.pad, bool) or self.pad < 0:
            raise UsageError(f"pad-crop: pad is {self.pad!r}; a whole number of pixels, at least 0, is needed")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop each sample; see `pad_crop`."""
        return pad_crop(images, generator, pad=self.pad)


@dataclass(frozen=True)
class Flip:
    """`flip` with its probability."""

    p: float = 0.5

    def __post_init__(self) -> None:
        if not _is_number(self.p) or not 0 <= self.p <= 1:
            raise UsageError(f"flip: p is {self.p!r}; a probability is needed")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror some samples; see `flip`."""
        return flip(images, generator, p=self.p)


@dataclass(frozen=True)
class RandomResizedCrop:
    """`random_resized_crop` with its ranges of area and of width / height."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, most in (("scale", 1.0), ("ratio", float("inf"))):
            ends = getattr(self, name)
            pair = isinstance(ends, list | tuple) and len(ends) == 2 and all(map(_is_number, ends))
            if not pair or not 0 < ends[0] <= ends[1] <= most:
                raise UsageError(f"random-resized-crop: {name} is {ends!r}; two numbers are needed, 0 < low <= high")
            object.__setattr__(self, name, tuple(ends))

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop and enlarge each sample; see `random_resized_crop`."""
        return random_resized_crop(images, generator, scale=self.scale, ratio=self.ratio)


_OURS: dict[str, Callable[..., Augmentation]] = {
    "dsa": DSA,
    "pad-crop": PadCrop,
    "flip": Flip,
    "random-resized-crop": RandomResizedCrop,
}
_MIXINGS: dict[str, Callable[..., tuple[Tensor, Tensor, float]]] = {"cutmix": cutmix, "mixup": mixup}


def augmentation_names() -> tuple[str, ...]:
    """Every registered augmentation: ours, then those of installed packages."""
    return *_OURS, *sorted(_installed())


def build_augmentation(spec: Mapping[str, object]) -> Augmentation:
    """Make an augmentation from {"name": "pad-crop", "pad": 4}; the rest of the mapping is its parameters.

    Raises:
        UsageError: an unknown name, an unknown or missing parameter, or a value out of range.
    """
    name, parameters = _split(spec, "augmentation")
    factory = _OURS.get(name)
    if factory is None:
        installed = _installed()
        if name not in installed:
            raise unknown("augmentation", name, augmentation_names())
        factory = installed[name].load()
    _check_keys(name, factory, parameters)
    return factory(**parameters)


def build_mixing(spec: Mapping[str, object]) -> Mixing:
    """Make a mixing from {"name": "cutmix", "alpha": 1.0}; UsageError as `build_augmentation`."""
    name, parameters = _split(spec, "mixing")
    if name not in _MIXINGS:
        raise unknown("mixing", name, _MIXINGS)
    extra = sorted(parameters.keys() - {"alpha"})
    if extra:
        raise UsageError(f"{name}: unknown parameter {extra[0]!r}; allowed: alpha")
    alpha = parameters.get("alpha", 1.0 if name == "cutmix" else 0.8)
    if not _is_number(alpha) or not 0 < alpha < float("inf"):
        raise UsageError(f"{name}: alpha is {alpha!r}; a number above 0 is needed")
    return partial(_MIXINGS[name], alpha=alpha)


def _split(spec: Mapping[str, object], kind: str) -> tuple[str, dict[str, Any]]:
    parameters = dict(spec)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise UsageError(f"{kind} {dict(spec)!r} has no name")
    return name, parameters


def _check_keys(name: str, factory: Callable[..., Augmentation], parameters: Mapping[str, object]) -> None:
    signature = inspect.signature(factory)
    try:
        signature.bind(**parameters)
    except TypeError as error:
        allowed = ", ".join(signature.parameters) or "none"
        raise UsageError(f"augmentation {name!r}: {error}; its parameters: {allowed}") from None


def _installed() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in _OURS or entry.name in found:
            raise UsageError(f"augmentation {entry.name!r} is registered twice: {entry.value} is one too many")
        found[entry.name] = entry
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
