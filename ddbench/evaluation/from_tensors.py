"""From tensors, NumPy arrays or lists in memory to a SynSet, every assumption checked."""

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from ddbench.data.dataset import Dataset
from ddbench.data.spaces import make_space
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.synset.synset import Provenance, SynSet, Targets
from ddbench.training.recipe import StudentRecipe

LARGEST = 16.0  # no image without a negative value goes beyond, except one of 0 to 255
SoftForm = Literal["logits", "probabilities"]
Numbers = torch.Tensor | ArrayLike
"""A tensor, a NumPy array, or lists of numbers."""


def as_tensor(values: Numbers, what: str) -> torch.Tensor:
    """Convert to a tensor, which shares no memory with an array; UsageError, beginning with `what`, if it cannot be."""
    if isinstance(values, torch.Tensor):
        return values
    try:
        return torch.from_numpy(np.array(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{what} must be a tensor, a NumPy array or lists of numbers: {error}") from error


def from_tensors(
    images: Numbers,
    labels: Numbers,
    dataset: Dataset,
    *,
    space: str = "normalised",
    soft_labels: Numbers | None = None,
    soft_form: SoftForm = "logits",
    syn_lr: float | None = None,
    name: str = "imported",
    note: str | None = None,
) -> SynSet:
    """Make a set of tensors, NumPy arrays or lists that stand for a data set.

    With a step size or soft labels the set ships a student recipe, so that `shipped-v1` scores it: the training of
    `hard-v1` with that step size as its learning rate, and with cross-entropy against the soft labels.

    Args:
        images: [n, C, H, W], any float type, values in `space`; or uint8 pixels (255 stands for 1.0), which are
            mapped into `space` for training.
        labels: [n] class indices in the order of `dataset.class_names`, any integer type or whole floats. The order
            cannot be checked here: labels in another order give a set of wrong labels.
        dataset: what the set stands for.
        space: "pixel", "normalised" (by the data set's own mean and std) or "zca".
        soft_labels: [n, K], columns in the order of `dataset.class_names`.
        soft_form: what they are: "logits", or "probabilities" whose rows sum to 1.
        syn_lr: learned step size, above 0.
        name: method name, for tables.
        note: where the set comes from; free text.

    Raises:
        UsageError: in one line: shapes that do not fit, values that are not finite, labels out of range or not
            whole, a class without an image (unless there are soft labels).
    """
    pixels = _images(as_tensor(images, "images"), dataset)
    _check_range(pixels, space)
    classes = as_classes(as_tensor(labels, "labels"), len(pixels), dataset.class_names)
    soft = None
    if soft_labels is not None:
        soft = _soft(as_tensor(soft_labels, "soft labels"), len(pixels), dataset.class_names, soft_form)
    if soft is None:
        _check_every_class(classes, dataset)
    return SynSet.of(
        dataset,
        classes=classes,
        space=make_space(space, dataset),
        images=pixels,
        codec="uint8" if pixels.dtype == torch.uint8 else "float",
        targets=None if soft is None else Targets("soft", {"form": soft_form}, {"labels": soft}),
        student_recipe=shipped_recipe(dataset, syn_lr, soft is not None),
        provenance=Provenance(method=name, note=note),
    )


def shipped_recipe(dataset: Dataset, syn_lr: float | None, soft: bool) -> StudentRecipe | None:
    """Student recipe of a set that brings a step size or soft labels; None for one that brings neither."""
    if syn_lr is not None and not (math.isfinite(syn_lr) and syn_lr > 0):
        raise UsageError(f"the step size must be a finite number above 0, not {syn_lr}")
    if syn_lr is None and not soft:
        return None
    recipe = find_protocol("hard-v1").student(dataset)
    changes: dict[str, object] = {}
    if syn_lr is not None:
        changes["optimizer"] = {**recipe.optimizer, "lr": float(syn_lr)}
    if soft:
        changes |= {"labels": "targets", "loss": {"name": "soft-ce"}}
    return recipe.model_copy(update=changes)


def as_classes(labels: torch.Tensor, count: int, class_names: tuple[str, ...]) -> torch.Tensor:
    """Class indices as int64 [n]; UsageError if they are not `count` whole numbers from 0 to K - 1."""
    if labels.dtype == torch.bool or labels.is_complex():
        raise UsageError(f"labels must be whole numbers, not {labels.dtype}")
    if labels.shape != (count,):
        raise UsageError(f"labels have shape {list(labels.shape)}, but there are {count} images: [{count}] is needed")
    whole = labels.detach().cpu()
    if whole.is_floating_point() and not bool((whole == whole.round()).all()):
        raise UsageError("labels must be whole numbers: soft labels are given as [n, K]")
    classes = whole.to(torch.int64).contiguous()
    low, high = int(classes.min()), int(classes.max())
    if low < 0 or high >= len(class_names):
        raise UsageError(f"labels run from {low} to {high}, allowed are 0 to {len(class_names) - 1}")
    return classes


def _images(images: torch.Tensor, dataset: Dataset) -> torch.Tensor:
    shape = (dataset.channels, dataset.side, dataset.side)
    if images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) == 0:
        last = images.ndim == 4 and tuple(images.shape[1:]) == (*shape[1:], shape[0])
        hint = ": move the channels before height and width" if last else ""
        wanted = f"[n, {', '.join(map(str, shape))}]"
        raise UsageError(f"images have shape {list(images.shape)}, {dataset.id} needs {wanted}{hint}")
    if images.dtype == torch.uint8:
        return images.detach().cpu().contiguous()
    if not images.is_floating_point():
        raise UsageError(f"images must be of a float type, or uint8 pixels, not {images.dtype}")
    plain = images.detach().cpu().float().contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise UsageError("images hold values that are not finite (NaN or infinity)")
    return plain


def _check_range(images: torch.Tensor, space: str) -> None:
    """Refuse pixels of 0 to 255 that come as floats: an easy mistake, which trains, badly, without an error."""
    if images.dtype == torch.uint8 or space == "zca":
        return
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high > LARGEST:
        raise UsageError(
            f"images run from {low:g} to {high:g}, which is no {space} space: give pixels as uint8, or divide by 255"
        )


def _soft(labels: torch.Tensor, count: int, class_names: tuple[str, ...], form: SoftForm) -> torch.Tensor:
    shape = (count, len(class_names))
    if tuple(labels.shape) != shape or not labels.is_floating_point():
        raise UsageError(f"soft labels must be floats of shape {list(shape)}, not {labels.dtype} {list(labels.shape)}")
    plain = labels.detach().cpu()
    plain = (plain if plain.dtype == torch.float16 else plain.float()).contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise UsageError("soft labels hold values that are not finite (NaN or infinity)")
    if form not in ("logits", "probabilities"):
        raise UsageError(f"soft labels are logits or probabilities, not {form!r}")
    if form == "probabilities" and not are_probabilities(plain):
        raise UsageError("soft labels: probabilities must be 0 or more and sum to 1 in every row")
    return plain


def are_probabilities(labels: torch.Tensor) -> bool:
    """Tell whether every row of [n, K] is 0 or more and sums to 1."""
    return float(labels.min()) >= 0 and float((labels.float().sum(1) - 1).abs().max()) <= 1e-3


def _check_every_class(classes: torch.Tensor, dataset: Dataset) -> None:
    """A CIFAR-10 set given as CIFAR-100's has the right shape and labels in range; this is what gives it away."""
    counts = classes.bincount(minlength=len(dataset.class_names))
    if bool((counts == 0).any()):
        missing = int((counts == 0).sum())
        first = dataset.class_names[int((counts == 0).int().argmax())]
        raise UsageError(
            f"the set has no image of {missing} of the {len(counts)} classes of {dataset.id} ({first!r} first): "
            "is it a set of another data set?"
        )
