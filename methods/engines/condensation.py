"""Parts that distribution and trajectory matching share: DSA, reading of real images, steps on images, the DC student."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddbench.augment import OPS
from ddbench.data.spaces import Space
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.training.recipe import StudentRecipe

# Pixels (images x side^2) in one forward: 32 CIFAR images fill the caches of a CPU core; a GPU wants more at once.
_CHUNK_PIXELS = {"cpu": 32 * 32**2, "cuda": 2048 * 32**2}


def chunk_images(device: torch.device, side: int) -> int:
    """Number of images of this side in a forward when the network lets us choose; at least 1."""
    return max(1, _CHUNK_PIXELS.get(device.type, _CHUNK_PIXELS["cpu"]) // side**2)


def dsa_ops(task: Task) -> tuple[str, ...]:
    """DSA's operations, without flips where a flip changes the class."""
    return OPS if task.dataset.flip else tuple(op for op in OPS if op != "flip")


def reader(task: Task, space: Space) -> Callable[[Tensor], Tensor]:
    """Real images by their places: held on the device, or read as needed where the split is too large for that."""
    try:
        images, _ = task.tensors(space)
    except UsageError:  # too large to be held
        return lambda places: task.read(space, places)
    return lambda places: images[places.to(images.device)]


def descend(images: Tensor, velocity: Tensor, gradient: Tensor, lr: float, momentum: float) -> None:
    """One step of SGD with momentum on the images, in place: v <- m v + g, S <- S - lr v. Nothing is clamped."""
    velocity.mul_(momentum).add_(gradient)
    images.sub_(velocity, alpha=lr)


def dsa_student(task: Task, *, epochs: int, batch: int, schedule: dict[str, Any]) -> StudentRecipe:
    """Student of the DC family: SGD 0.01, momentum 0.9, weight decay 5e-4, CE, DSA on every batch."""
    dsa = {"name": "dsa", "ops": list(OPS), "align_corners": False, "crop_rounding": "round"}
    recipe = StudentRecipe(
        network=task.network,
        optimizer={"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        schedule=schedule,
        augmentations=[dsa],
        epochs=epochs,
        batch=batch,
    )
    return recipe.flipped(task.dataset.flip)
