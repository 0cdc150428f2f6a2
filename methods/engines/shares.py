"""Split of a budget over the classes: images of each class, and the labels of a set that has them."""

import torch
from torch import Tensor

from ddbench.distillation.task import Task
from ddbench.errors import UsageError


def equal_shares(task: Task) -> list[int]:
    """Number of images of each class that an IPC budget asks for."""
    if task.ipc is None:
        raise UsageError("this method needs a budget of images per class (ipc)")
    return [task.ipc] * len(task.dataset.class_names)


def proportional_shares(fraction: float, sizes: list[int]) -> list[int]:
    """Split round(fraction * n) images over classes in proportion to their sizes, by largest remainders."""
    quotas = [fraction * size for size in sizes]
    shares = [int(quota) for quota in quotas]
    open_places = max(1, round(fraction * sum(sizes))) - sum(shares)
    by_remainder = sorted(range(len(sizes)), key=lambda c: (shares[c] - quotas[c], c))
    for c in by_remainder[:open_places]:
        shares[c] += 1
    return shares


def shares(task: Task) -> list[int]:
    """Number of images of each class that the budget asks for: `equal_shares`, or `proportional_shares` of a fraction."""
    if task.fraction is None:
        return equal_shares(task)
    return proportional_shares(task.fraction, [len(pool) for pool in task.class_indices()])


def classes_of(task: Task) -> Tensor:
    """Class of each synthetic image, int64 [classes * ipc], class by class."""
    return torch.arange(len(task.dataset.class_names)).repeat_interleave(equal_shares(task)[0])
