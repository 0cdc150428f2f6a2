"""Soft labels: students match the data set's reference teacher online. `soft-v1`, its small and plain variants."""

from typing import Any

from ddbench.evaluation.protocol import Protocol, Tier

from .hard import without_augmentation

STUDENT: dict[str, Any] = {
    "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01, "betas": [0.9, 0.999]},
    "schedule": {"name": "cosine", "stretch": 1.0},
    "loss": {"name": "kl", "temperature": 20.0, "squared": False},
    "labels": "teacher",
    "mix": {"name": "cutmix", "alpha": 1.0},
    "epochs": 300,
    "max_steps": 500_000,
}

TEACHER: dict[str, Any] = {
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "stretch": 1.0},
    "loss": {"name": "ce"},
    "labels": "classes",
    "mix": None,
    "epochs": 200,
    "max_steps": 20_000,
    "batch": 128,
}


PAD_CROP: list[dict[str, Any]] = [{"name": "pad-crop", "fraction": 0.125}, {"name": "flip", "p": 0.5}]
RESIZED_CROP: list[dict[str, Any]] = [
    {"name": "random-resized-crop", "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]},
    {"name": "flip", "p": 0.5},
]

TINY = {**STUDENT, "network": "convnet-d2-w64-bn", "augmentations": PAD_CROP, "batch": 64, "max_steps": 400}
SMALL = {**STUDENT, "network": "resnet18-bn", "augmentations": PAD_CROP, "batch": 64}
LARGE = {**STUDENT, "network": "resnet18-bn", "augmentations": RESIZED_CROP, "batch": 128}

MEASURED = {"digits": 0.98}
"""Test accuracy of `soft-v1`'s reference teacher by data set id, float32 on a CPU: one that is off is flagged."""

SOFT_V1 = Protocol(
    name="soft-v1",
    version=1,
    summary="ResNet-18 with CutMix on the reference teacher's labels (ConvNet-BN up to 16 px)",
    space="teacher",
    tiers=(Tier(16, TINY), Tier(64, SMALL), Tier(None, LARGE)),
    teacher=(
        Tier(16, {**TEACHER, "augmentations": PAD_CROP, "max_steps": 400}),
        Tier(None, {**TEACHER, "augmentations": PAD_CROP}),
    ),
    accuracies=MEASURED,
)

NARROW = {**STUDENT, "augmentations": PAD_CROP, "batch": 128}

SOFT_SMALL_V1 = Protocol(
    name="soft-small-v1",
    version=1,
    summary="soft-v1 as two cores can afford it: ConvNet-BN of width 32, batch 128, at most 2,000 steps (500 above 48 px)",
    space="teacher",
    smallest=28,
    tiers=(
        Tier(48, {**NARROW, "network": "convnet-d3-w32-bn", "max_steps": 2_000}),
        Tier(64, {**NARROW, "network": "convnet-d4-w32-bn", "max_steps": 500}),
    ),
    teacher=(Tier(64, {**TEACHER, "augmentations": PAD_CROP, "max_steps": 2_000}),),
)

SOFT_PLAIN_V1 = Protocol(
    name="soft-plain-v1",
    version=1,
    summary="soft-v1 without augmentation and mixing of the student",
    space="teacher",
    tiers=without_augmentation(SOFT_V1.tiers),
    teacher=SOFT_V1.teacher,
    accuracies=MEASURED,
)
