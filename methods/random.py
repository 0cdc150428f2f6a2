"""Random real images: the baseline that every distilled set is compared with.

1. For every class draw IPC training images without replacement (or, with a fraction, the class's share of
   round(fraction * n) images by largest remainders).
2. Keep their indices; a student sees them in `space`.

A larger IPC keeps the images of a smaller one at the same seed. Train the students of this baseline exactly as those
of the set it is compared with: by the DC family's DSA training it reaches 50.6 % on CIFAR-10 at IPC 50, where papers
that copy older rows print 43.4 % (DC-Bench).
"""

from typing import Literal

import torch
from pydantic import Field

from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.selection.coresets import indexed, random_choice
from .engines.shares import shares


class RandomHyper(Hyper):
    """Hyper-parameters of `random`."""

    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: RandomHyper) -> SynSet:
    """Class-balanced (fraction: proportional) random training images, as indices."""
    return indexed(task, task.space(hyper.space), torch.cat(random_choice(task, shares(task))))


METHOD = Method(
    name="random",
    hyper=RandomHyper,
    distill=distill,
    title="Random real images",
    budgets=("ipc", "fraction"),
)
