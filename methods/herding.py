"""Herding: Welling, Herding Dynamical Weights to Learn, ICML 2009.

For every class with mean feature mu, in a feature space f:
1. For t = 1 .. IPC take the image x_t, not taken before, that minimizes || mu - (f(x_1) + ... + f(x_t)) / t ||_2.
2. Keep the indices.

Differences from the paper: see `DIFFERENCES`. Measured: not yet.
"""

from typing import Literal

import torch
from pydantic import Field

from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.selection.coresets import FeatureKind, features_by_name, herding, indexed, select

DIFFERENCES = (
    "an image is taken at most once, and by the distance of the running mean to mu (as in iCaRL, arXiv 1611.07725, "
    "and the condensation papers); Welling's dynamics take argmax <w_t, f(x)> and may return, which is the same "
    "choice where all features have one length",
    "features are pixels, or the embedding of an untrained network; the condensation papers take a trained one's",
)


class HerdingHyper(Hyper):
    """Hyper-parameters of `herding`."""

    features: FeatureKind = Field("pixels", description='f: "pixels" in `space`, or "random-network" (untrained)')
    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: HerdingHyper) -> SynSet:
    """Keep the first IPC herded images of every class, as indices."""
    space = task.space(hyper.space)
    features_of = features_by_name(hyper.features, task, space)
    return indexed(task, space, torch.cat(select(task, features_of, herding)))


METHOD = Method(
    name="herding",
    hyper=HerdingHyper,
    distill=distill,
    title="Herding",
    paper="Welling 2009",
    differences=DIFFERENCES,
    deterministic=True,
)
