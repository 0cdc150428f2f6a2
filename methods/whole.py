"""Whole training split: the reference that a distilled set is measured against.

1. Keep the index of every training image; a student sees them in `space`.
"""

from typing import Literal

import torch
from pydantic import Field

from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.selection.coresets import indexed


class WholeHyper(Hyper):
    """Hyper-parameters of `whole`."""

    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: WholeHyper) -> SynSet:
    """Every training image, as indices."""
    return indexed(task, task.space(hyper.space), torch.arange(len(task.dataset.labels)))


METHOD = Method(
    name="whole",
    hyper=WholeHyper,
    distill=distill,
    title="Whole training set",
    balanced=False,
    budgets=("all",),
    deterministic=True,
)
