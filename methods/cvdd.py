"""CV-DD: Cui et al., Dataset Distillation via Committee Voting, 2025, arXiv 2501.07575.

1. Squeeze a committee of M networks f_i. Prior performance p_i, in percent: the accuracy of a student trained on a set
   that was distilled from member i alone (given in the recipe, or measured here on a part of train that is held out).
2. Recover: as `sre2l++`, but each IPC index has N = 2 voters, drawn at random (or all pairs in turn), with

       L = sum_i w_i ( CE_i + r_bn BN_i ),   w = softmax(p / 5) over the two.

3. Relabel: z = sum_i v_i z_i over the whole committee, v = softmax(p / 10), each teacher's batch norms using the
   statistics of the student's sub-batch (BSSL).

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/decoupled.md`, and the records of `results/measured`.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.networks import canonical
from ddbench.synset.synset import SynSet

from .engines.decoupled.pipeline import recovered, require_members, require_recoverable, space_of
from .engines.decoupled.priors import held_accuracies
from .engines.decoupled.relabel import relabeled
from .engines.decoupled.squeeze import squeeze
from .engines.shares import equal_shares
from .sre2lpp import DIFFERENCES as SRE2LPP
from .sre2lpp import METHOD as SRE2LPP_METHOD
from .sre2lpp import SRe2LPPHyper

DIFFERENCES = (
    *SRE2LPP,
    "priors that are not given in the recipe are measured on a part of train, which then teaches nobody; the paper's mix "
    "test accuracies at several IPC",
    "each member's own patches are not kept: the distillation network, or the first member, scores them for all",
)


class CVDDHyper(SRe2LPPHyper):
    """Hyper-parameters of `cvdd`."""

    committee: tuple[str, ...] = Field(min_length=2, description="networks of the committee, M")
    prior: tuple[float, ...] | None = Field(None, description="p_i in percent, in their order; none: measured here")
    prior_fraction: float = Field(0.1, gt=0, lt=1, description="share of train held out where priors are measured")
    prior_ipc: int | None = Field(
        None, ge=1, description="IPC of the sets that priors are measured on; none: the run's"
    )
    voters: int = Field(2, ge=1, description="members that vote on an IPC index, N")
    pairing: Literal["random", "cycle"] = Field(
        "random", description="voters drawn anew for each index, or all in turn"
    )
    first_voters: tuple[str, ...] | None = Field(
        None, min_length=1, description="voters of every index, instead of a pairing"
    )
    vote_temperature: float = Field(5.0, gt=0, description="of the softmax over the voters' priors")
    label_temperature: float = Field(10.0, gt=0, description="of the softmax over all priors, for the labels")

    @model_validator(mode="after")
    def _sizes(self) -> "CVDDHyper":
        if self.prior is not None and len(self.prior) != len(self.committee):
            raise ValueError(f"prior has {len(self.prior)} values for {len(self.committee)} members")
        if self.voters > len(self.committee):
            raise ValueError(f"{self.voters} voters of {len(self.committee)} members")
        return self


def distill(task: Task, hyper: CVDDHyper) -> SynSet:
    """Recover each IPC index from two members; the whole committee labels."""
    ipc, names = equal_shares(task)[0], [canonical(name, side=task.dataset.side) for name in hyper.committee]
    require_members(names, "committee")
    chosen = [voters_of(task, hyper, names, j) for j in range(ipc)]
    held = None if hyper.prior else task.holdout(hyper.prior_fraction)
    require_recoverable(task, hyper, names)
    teachers = squeeze(task, hyper, names)
    priors = (
        list(hyper.prior or ())
        if held is None
        else held_accuracies(task, hyper, teachers, held, hyper.prior_ipc or ipc)
    )
    votes = [
        dict(zip(pair, weights([priors[names.index(n)] for n in pair], hyper.vote_temperature), strict=True))
        for pair in chosen
    ]
    labellers = list(zip(teachers.values(), weights(priors, hyper.label_temperature), strict=True))

    def make_set(images: Tensor, classes: Tensor) -> SynSet:
        return relabeled(task, hyper, space_of(teachers), labellers, classes=classes, images=images)

    return make_set(*recovered(task, hyper, teachers, votes, make_set))


def weights(priors: Sequence[float], temperature: float) -> list[float]:
    """softmax(p / temperature), p in percent."""
    shares: list[float] = (torch.tensor(priors, dtype=torch.float64) / temperature).softmax(0).tolist()
    return shares


def voters_of(task: Task, hyper: CVDDHyper, names: Sequence[str], j: int) -> tuple[str, ...]:
    """Members that vote on IPC index j, in the committee's order."""
    if hyper.first_voters is not None:
        wanted = [canonical(name, side=task.dataset.side) for name in hyper.first_voters]
        require_members(wanted, "first_voters")
        if not set(wanted) <= set(names):
            raise UsageError(
                f"first_voters {', '.join(wanted)} are not all members of the committee {', '.join(names)}"
            )
        return tuple(name for name in names if name in wanted)
    every = list(combinations(names, hyper.voters))
    if hyper.pairing == "cycle":
        return every[j % len(every)]
    return every[int(torch.randint(len(every), (), generator=task.rng("voters", j)))]


METHOD = Method(
    name="cvdd",
    hyper=CVDDHyper,
    distill=distill,
    title="Committee voting",
    paper="Cui et al. 2025",
    arxiv="2501.07575",
    differences=DIFFERENCES,
    snapshots=True,
    network="convnet-bn",
    toy={**SRE2LPP_METHOD.toy, "committee": ["convnet-d2-w32-bn", "convnet-d1-w32-bn"], "prior": [60.0, 55.0]},
)
