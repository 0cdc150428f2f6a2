"""Spaces that images live in, and the maps between a space and pixels in [0, 1].

pixel: [0, 1] as it is. normalised: (x - mean) / std per channel. zca: whitened by kornia's definition
(ZCAWhitening(eps=0.1, compute_inv=True), as MTT uses it): with X the n x F training images in
[0, 1], mu their mean, S = (X - mu)^T (X - mu) / (n - 1) = U diag(s) U^T,

    z = (x - mu) U diag((s + 0.1)^(-1/2)) U^T,    x = z U diag((s + 0.1)^(1/2)) U^T + mu.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import torch

from ddbench.data.dataset import Dataset, Split
from ddbench.errors import UsageError, unknown
from ddbench.settings import cache_dir
from ddbench.system.files import cached_tensors

SPACE_KINDS = ("pixel", "normalised", "zca")
ZCA_EPS = 0.1  # added to the eigenvalues, variances of pixels in [0, 1]
ZCA_LIMIT = 12288  # values of an image (3 x 64 x 64); the matrices have its square
PROBE = 64  # whitened values that a space carries
PROBE_TOLERANCE = 1e-3
# 1024 products of values in -128..127 sum to at most 2^24, which float32 holds exactly
EXACT_ROWS = 1024


@dataclass(frozen=True)
class Space:
    """A named space with all that is needed to recognise it. UsageError on anything missing, extra or out of range.

    Attributes:
        kind: "pixel", "normalised" or "zca".
        mean: normalised: per channel, on [0, 1].
        std: normalised: per channel, above 0.
        eps: zca: what was added to the eigenvalues.
        split_hash: zca: the training split that the whitening was fitted on.
        probe: zca: 64 evenly spaced values of the whitened first training image.
    """

    kind: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    eps: float | None = None
    split_hash: str | None = None
    probe: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in SPACE_KINDS:
            raise unknown("space", str(self.kind), SPACE_KINDS)
        present = {name for name in _ALL_FIELDS if getattr(self, name) not in ((), None)}
        if present != set(_FIELDS[self.kind]):
            raise UsageError(f"a {self.kind} space has the fields {list(_FIELDS[self.kind])}, not {sorted(present)}")
        if self.kind == "normalised" and (len(self.mean) != len(self.std) or min(self.std) <= 0):
            raise UsageError(f"a normalised space needs a std above 0 for each mean, not {self.mean} and {self.std}")
        if self.kind == "zca" and (len(self.probe) != PROBE or self.eps is None or self.eps <= 0):
            raise UsageError(f"a zca space needs eps above 0 and {PROBE} probe values")
        if not all(map(math.isfinite, (*self.mean, *self.std, *self.probe, self.eps or 0.0))):
            raise UsageError(f"a {self.kind} space holds a value that is not finite")

    def to_json(self) -> dict[str, Any]:
        """Plain data with only the fields that the kind has; `from_json` gives an equal space back."""
        values = {name: getattr(self, name) for name in _FIELDS[self.kind]}
        return {"kind": self.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Space":
        """Read what `to_json` wrote; UsageError on unknown fields, wrong types or values out of range."""
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise UsageError(f"a space is an object with a kind ({', '.join(SPACE_KINDS)}), not {value!r:.80}")
        for name, entry in value.items():
            if name not in ("kind", *_ALL_FIELDS) or not _right_type(name, entry):
                raise UsageError(f"space: field {name!r} is unknown or has the wrong type: {entry!r:.80}")
        lists = {k: tuple(float(v) for v in entry) for k, entry in value.items() if isinstance(entry, list)}
        return cls(**{**value, **lists})


_FIELDS: dict[str, tuple[str, ...]] = {
    "pixel": (), "normalised": ("mean", "std"), "zca": ("eps", "split_hash", "probe"),
}  # fmt: skip
_ALL_FIELDS = ("mean", "std", "eps", "split_hash", "probe")


def _right_type(name: str, value: object) -> bool:
    if name in ("kind", "split_hash"):
        return isinstance(value, str)
    numbers = [value] if name == "eps" else value
    return isinstance(numbers, list) and all(type(number) in (int, float) for number in numbers)


@dataclass(frozen=True, eq=False)
class Transform:
    """A pair of maps, each other's inverse, on float32 [n, C, H, W]; differentiable and affine. Of the pixel space: none."""

    def encode(self, images01: torch.Tensor) -> torch.Tensor:
        """Pixels in [0, 1] to the space."""
        return images01

    def decode(self, images: torch.Tensor) -> torch.Tensor:
        """Space to pixels (not clamped to [0, 1])."""
        return images

    def to(self, device: torch.device | str) -> Self:
        """Same maps with their tensors on `device`."""
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, eq=False)
class Normalization(Transform):
    """(x - mean) / std per channel; both float32 [C, 1, 1]."""

    mean: torch.Tensor
    std: torch.Tensor

    def encode(self, images01: torch.Tensor) -> torch.Tensor:
        """(x - mean) / std."""
        return (images01 - self.mean) / self.std

    def decode(self, images: torch.Tensor) -> torch.Tensor:
        """Z std + mean."""
        return images * self.std + self.mean


@dataclass(frozen=True, eq=False)
class Whitening(Transform):
    """ZCA over whole images: mean float32 [F], whiten and unwhiten float32 [F, F], F = C H W."""

    mean: torch.Tensor
    whiten: torch.Tensor
    unwhiten: torch.Tensor

    def encode(self, images01: torch.Tensor) -> torch.Tensor:
        """(x - mu) W."""
        return ((images01.flatten(1) - self.mean) @ self.whiten).view_as(images01)

    def decode(self, images: torch.Tensor) -> torch.Tensor:
        """Z W_inv + mu."""
        return (images.flatten(1) @ self.unwhiten + self.mean).view_as(images)


def make_space(kind: str, dataset: Dataset) -> Space:
    """Space of that kind that belongs to a data set.

    zca fits the whitening on the training split (cached below `cache_dir()/zca` by the split's hash) and fills the
    probe. UsageError: an unknown kind, or images too large to whiten.
    """
    if kind == "normalised":
        return Space("normalised", mean=dataset.mean, std=dataset.std)
    if kind == "zca":
        probe = _probe(_whitening(dataset, str(cache_dir())), dataset)
        return Space("zca", eps=ZCA_EPS, split_hash=dataset.train.hash, probe=probe)
    return Space(kind)


def transform_for(space: Space, dataset: Dataset) -> Transform:
    """Maps of a space, tensors on the CPU.

    A zca space is re-fitted on the data set's training split, and must agree with it: equal eps and split hash, and
    probe values within 1e-3; UsageError otherwise.
    """
    if space.kind == "pixel":
        return Transform()
    if space.kind == "normalised":
        if len(space.mean) != dataset.channels:
            raise UsageError(f"a space of {len(space.mean)} channels does not fit {dataset.id} ({dataset.channels})")
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (space.mean, space.std))
        return Normalization(mean, std)
    if space.eps != ZCA_EPS:
        raise UsageError(f"zca space with eps {space.eps}: only {ZCA_EPS} is known")
    if space.split_hash != dataset.train.hash:
        raise UsageError(
            f"the zca space was fitted on the split {str(space.split_hash)[:12]}, not on {dataset.id}'s "
            f"({dataset.train.hash[:12]}): load the data set that it was made on"
        )
    whitening = _whitening(dataset, str(cache_dir()))
    worst = max(abs(a - b) for a, b in zip(space.probe, _probe(whitening, dataset), strict=True))
    if not worst <= PROBE_TOLERANCE:
        raise UsageError(f"the zca space's probe is off by {worst:.2g} from a fit on {dataset.id}: allowed is 1e-3")
    return whitening


def _probe(whitening: Whitening, dataset: Dataset) -> tuple[float, ...]:
    """Entries floor(i F / 64), i = 0..63, of the first training image, whitened and flattened."""
    first = whitening.encode(dataset.train.read(torch.tensor([0])).float() / 255).flatten()
    return tuple(first[torch.arange(PROBE) * len(first) // PROBE].tolist())


@lru_cache(maxsize=2)
def _whitening(dataset: Dataset, cache: str) -> Whitening:
    """Whitening of a data set, from the cache or fitted; `cache` is part of the key only."""
    size = dataset.channels * dataset.side**2
    if size > ZCA_LIMIT:
        raise UsageError(
            f"zca whitens images of at most {ZCA_LIMIT} values (3 x 64 x 64), {dataset.id} has {size}: "
            "use the space normalised or pixel"
        )
    path = cache_dir() / "zca" / f"{dataset.train.hash}.safetensors"
    return Whitening(**cached_tensors(path, lambda: fit_zca(dataset.train, size))[0])


def fit_zca(split: Split, size: int) -> dict[str, torch.Tensor]:
    """Fit kornia's ZCA on a split of images of `size` values: mean [F], whiten and unwhiten [F, F], float32."""
    mean, covariance = pixel_covariance(split, size)
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values.clamp(min=0) + ZCA_EPS).sqrt()
    unwhiten = ((vectors * scale) @ vectors.T).float()
    return {"mean": mean.float(), "whiten": ((vectors / scale) @ vectors.T).float(), "unwhiten": unwhiten}


def pixel_covariance(split: Split, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [F] and covariance [F, F] (over n - 1) of a split's pixels in [0, 1], float64.

    Chunk products of v - 128 are sums of integers below 2^24, exact in float32 (in TF32 and bfloat16 too) whatever
    the order; they are added up in float64, also exactly. So the second moments cost half of a float64 product,
    carry no rounding, and do not depend on threads.
    """
    total = torch.zeros(size, dtype=torch.float64)
    moments = torch.zeros(size, size, dtype=torch.float64)
    for chunk in torch.arange(len(split)).split(EXACT_ROWS):
        rows = split.read(chunk).flatten(1).float() - 128
        total += rows.sum(0, dtype=torch.float64)
        moments += rows.T @ rows
    count = len(split)
    moments -= total[:, None] * (total / count)
    return (total / count + 128) / 255, moments / (255**2 * max(count - 1, 1))
