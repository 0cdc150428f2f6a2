"""Subset of the real samples that is kept, by any score and any rule, as in `prune` and `prune-kd`."""

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.distillation.task import Task
from ddbench.errors import UsageError

from ..shares import shares
from .coresets import embedder, herding, k_center, shown_at_once
from .dynamics import DynamicsFields, dynamics_of
from .graph_cut import Cosine, graph_cut
from .pruning import SCORES, KeepFields, kept, require_enough

Ranking = Literal[
    "el2n", "grand", "forgetting", "aum", "aum-prob", "entropy", "dyn-unc", "dual", "tdds",
    "random", "herding", "k-centre", "graph-cut",
]  # fmt: skip
GEOMETRY = {
    "herding": herding,
    "k-centre": k_center,
    "graph-cut": lambda features, count: graph_cut(Cosine.of(features), count),
}
"""Choices by the scoring network's features [n, d], of so many positions."""


class SubsetFields(DynamicsFields, KeepFields):
    """Score and rule by which samples are kept."""

    score: Ranking = Field(
        "el2n",
        description="score that ranks samples (engines/selection/pruning.py); random; or geometry of the scoring network's features",
    )

    @model_validator(mode="after")
    def _rule_of_a_score(self) -> Self:
        if self.score not in SCORES and self.keep != "hard":
            raise ValueError(f"keep = {self.keep} ranks by a score: {self.score} is none")
        return self


def subset(task: Task, fields: SubsetFields) -> Tensor:
    """Places of the samples that the budget keeps, int64, class by class (balance) or of the whole split.

    Raises:
        UsageError: a class, or the split, with fewer samples than are to be kept; epochs that make no window.
    """
    pools, counts, names = _pools(task, fields)
    require_enough(fields, names, pools, counts)
    if fields.score == "random":
        drawn = [torch.randperm(len(pool), generator=task.rng("random", at)) for at, pool in enumerate(pools)]
        return torch.cat([pool[order[:count]] for pool, order, count in zip(pools, drawn, counts, strict=True)])
    if fields.score in GEOMETRY:
        return _by_geometry(task, fields, pools, counts)
    score = SCORES[fields.score]
    score.require_epochs(fields)
    dynamics = dynamics_of(task, fields, movement=score.movement)
    truth = torch.stack([run.true.double().mean(0) for run in dynamics.runs]).mean(0)
    return kept(task, fields, score(dynamics, fields), truth, pools, counts)


def _pools(task: Task, fields: SubsetFields) -> tuple[list[Tensor], list[int], list[str]]:
    """Samples that are ranked together, number of them that is kept, and their name in errors."""
    classes = task.class_indices()
    if fields.balance:
        return classes, shares(task), [f"class {name!r}" for name in task.dataset.class_names]
    return [torch.arange(len(task.dataset.labels))], [sum(shares(task))], ["the training split"]


def _by_geometry(task: Task, fields: SubsetFields, pools: list[Tensor], counts: list[int]) -> Tensor:
    network = dynamics_of(task, fields).runs[0].network
    embed, choose, chosen = embedder(network.module(task.device)), GEOMETRY[fields.score], []
    for number in task.loop(0, len(pools), "choosing"):
        pool = pools[number]
        if not counts[number]:
            continue
        with torch.inference_mode():
            parts = pool.split(shown_at_once(task.dataset.side))
            features = torch.cat([embed(task.read(network.space, part)) for part in parts])
        chosen.append(pool[choose(features, counts[number]).cpu()])
    if not chosen:
        raise UsageError("the budget keeps no sample")
    return torch.cat(chosen)
