"""Hard labels: students learn the set's classes. `hard-v1`, its small variant, and the plain one (no augmentation)."""

from dataclasses import replace
from typing import Any

from ddbench.evaluation.protocol import Protocol, Tier

DSA = {
    "name": "dsa",
    "ops": ["color", "crop", "cutout", "flip", "scale", "rotate"],
    "align_corners": True,
    "siamese": False,
    "crop_rounding": "floor",
}

CONVNET: dict[str, Any] = {
    "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "step", "at": 0.5, "factor": 0.1},
    "loss": {"name": "ce"},
    "labels": "classes",
    "augmentations": [DSA],
    "mix": None,
    "epochs": 1000,
    "max_steps": 25_000,
    "batch": 256,
}

TINY_IMAGES = {**CONVNET, "network": "convnet-d2-w64-in", "batch": 64, "epochs": 300, "max_steps": 400}

RESNET: dict[str, Any] = {
    "network": "resnet18-bn",
    "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "betas": [0.9, 0.999]},
    "schedule": {"name": "cosine", "stretch": 1.0},
    "loss": {"name": "ce"},
    "labels": "classes",
    "augmentations": [
        {"name": "random-resized-crop", "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]},
        {"name": "flip", "p": 0.5},
    ],
    "mix": None,
    "epochs": 300,
    "max_steps": 500_000,
    "batch": 128,
}

HARD_V1 = Protocol(
    name="hard-v1",
    version=1,
    summary="ConvNet with DSA on the set's classes (ResNet-18 above 128 px)",
    tiers=(
        Tier(16, TINY_IMAGES),
        Tier(48, {**CONVNET, "network": "convnet-d3-w128-in"}),
        Tier(96, {**CONVNET, "network": "convnet-d4-w128-in"}),
        Tier(128, {**CONVNET, "network": "convnet-d5-w128-in"}),
        Tier(None, RESNET),
    ),
)

HARD_SMALL_V1 = Protocol(
    name="hard-small-v1",
    version=1,
    summary="hard-v1 as two cores can afford it: width 32, batch 128, at most 2,000 steps (500 above 48 px)",
    smallest=28,
    tiers=(
        Tier(48, {**CONVNET, "network": "convnet-d3-w32-in", "batch": 128, "max_steps": 2_000}),
        Tier(64, {**CONVNET, "network": "convnet-d4-w32-in", "batch": 128, "max_steps": 500}),
    ),
)


def without_augmentation(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
    """Same students without augmentation and mixing."""
    return tuple(replace(tier, student={**tier.student, "augmentations": [], "mix": None}) for tier in tiers)


HARD_PLAIN_V1 = Protocol(
    name="hard-plain-v1",
    version=1,
    summary="hard-v1 without augmentation",
    tiers=without_augmentation(HARD_V1.tiers),
)
