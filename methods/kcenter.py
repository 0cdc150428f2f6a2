"""k-centre greedy: Sener and Savarese, Active Learning for CNNs: A Core-Set Approach, ICLR 2018, arXiv 1708.00489.

For every class, in a feature space f:
1. Begin with the image nearest to the class's mean feature.
2. Until there are IPC images: add argmax_x min_{s in S} || f(x) - f(s) ||_2 (algorithm 1, k-Center-Greedy).
3. Keep the indices.

Differences from the paper: see `DIFFERENCES`. Measured: not yet.
"""

from typing import Literal

import torch
from pydantic import Field

from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.selection.coresets import FeatureKind, features_by_name, indexed, k_center, select

DIFFERENCES = (
    "features are pixels, or the embedding of an untrained network; the paper takes those of a trained one",
    "centers are chosen within each class, beginning at its mean; the paper covers the whole pool, labels unknown, "
    "from an initial random set",
    "greedy only: the paper then lowers the radius by mixed-integer programming that leaves outliers uncovered",
)


class KCenterHyper(Hyper):
    """Hyper-parameters of `kcenter`."""

    features: FeatureKind = Field("pixels", description='f: "pixels" in `space`, or "random-network" (untrained)')
    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: KCenterHyper) -> SynSet:
    """IPC greedy k-centres of every class, as indices."""
    space = task.space(hyper.space)
    features_of = features_by_name(hyper.features, task, space)
    return indexed(task, space, torch.cat(select(task, features_of, k_center)))


METHOD = Method(
    name="kcenter",
    hyper=KCenterHyper,
    distill=distill,
    title="k-centre greedy",
    paper="Sener and Savarese 2018",
    arxiv="1708.00489",
    differences=DIFFERENCES,
    deterministic=True,
)
