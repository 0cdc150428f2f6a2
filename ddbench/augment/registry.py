"""Augmentations and mixings by name and parameters, as student recipes give them.

A new one is an entry point in the group `ddbench.augmentations` (or `ddbench.mixes`): a callable
`factory(**parameters)` that returns `fn(images, generator)`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ddbench.augment.crops import flip, pad_crop, random_resized_crop
from ddbench.augment.dsa import DSA
from ddbench.augment.mixing import cutmix, mixup
from ddbench.augment.patches import shuffle_patches
from ddbench.errors import UsageError
from ddbench.plugins import Components

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
Mixing = Callable[[Tensor, torch.Generator], tuple[Tensor, Tensor, float]]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


def dsa(
    ops: list[str] | None = None, align_corners: bool = True, siamese: bool = False, crop_rounding: str = "floor"
) -> Augmentation:
    """`DSA` with its parameters; no ops means all six."""
    chosen = {} if ops is None else {"ops": tuple(ops)}
    return DSA(**chosen, align_corners=align_corners, siamese=siamese, crop_rounding=crop_rounding)


def padded_crop(
    pad: Annotated[int, Field(ge=0)] | None = None, fraction: Annotated[float, Field(ge=0, lt=1)] | None = None
) -> Augmentation:
    """`pad_crop` by `pad` pixels, or by a fraction of the side rounded down."""
    if (pad is None) == (fraction is None):
        raise UsageError("augmentation 'pad-crop' takes either pad (pixels) or fraction (of the side)")

    def crop(images: Tensor, generator: torch.Generator) -> Tensor:
        return pad_crop(images, generator, pad=pad if pad is not None else int((fraction or 0) * images.shape[-1]))

    return crop


def flipped(p: Probability = 0.5) -> Augmentation:
    """`flip` with probability p."""
    return partial(flip, p=p)


def resized_crops(
    scale: list[Positive] | tuple[Positive, Positive] = (0.08, 1.0),
    ratio: list[Positive] | tuple[Positive, Positive] = (3 / 4, 4 / 3),
) -> Augmentation:
    """`random_resized_crop` with its ranges of area and of width / height."""
    for name, ends, most in (("scale", scale, 1.0), ("ratio", ratio, float("inf"))):
        if len(ends) != 2 or not ends[0] <= ends[1] <= most:
            raise UsageError(f"augmentation 'random-resized-crop': {name} {list(ends)} is not low <= high <= {most}")
    return partial(random_resized_crop, scale=(scale[0], scale[1]), ratio=(ratio[0], ratio[1]))


def shuffled(factor: Annotated[int, Field(ge=1)]) -> Augmentation:
    """`shuffle_patches` with `factor` tiles along a side."""
    return partial(shuffle_patches, factor=factor)


def cutmixed(alpha: Positive = 1.0) -> Mixing:
    """`cutmix` with Beta(alpha, alpha)."""
    return partial(cutmix, alpha=alpha)


def mixed_up(alpha: Positive = 0.8) -> Mixing:
    """`mixup` with Beta(alpha, alpha)."""
    return partial(mixup, alpha=alpha)


AUGMENTATIONS = Components(
    "augmentation",
    "ddbench.augmentations",
    {
        "dsa": dsa,
        "pad-crop": padded_crop,
        "flip": flipped,
        "random-resized-crop": resized_crops,
        "shuffle-patches": shuffled,
    },
)
MIXES = Components("mix", "ddbench.mixes", {"cutmix": cutmixed, "mixup": mixed_up})


def build_augmentation(spec: Mapping[str, Any]) -> Augmentation:
    """Make an augmentation from {"name": "pad-crop", "pad": 4}; the rest of the mapping is its parameters.

    Raises:
        UsageError: an unknown name, an unknown or missing parameter, or a value out of range.
    """
    return AUGMENTATIONS.build(spec)


def build_mixing(spec: Mapping[str, Any]) -> Mixing:
    """Make a mixing from {"name": "cutmix", "alpha": 1.0}; UsageError as `build_augmentation`."""
    return MIXES.build(spec)
