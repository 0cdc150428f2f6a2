"""Pruning: keep the real images that a score ranks first; the scores are listed in `engines/selection/pruning.py`.

1. Train a network on the whole split and record, for every sample after every epoch, what scores need
   (`engines.selection.dynamics`; one training serves all scores).
2. Score every sample.
3. Keep IPC images of each class (or a fraction of the split), by a rule: the hardest first; the easiest first; strata of
   the score without the hardest (CCS, arXiv 2210.15809); or drawn, easier ones the fewer are kept (DUAL, arXiv
   2502.06905). Herding, k-centre and graph cut choose by the trained network's features instead.
4. Keep their indices; students learn their classes.

Differences from the papers: see `DIFFERENCES`. Figures: `benchmarks/pruning.md`, and the records of `results/measured`.
"""

from typing import Literal

from pydantic import Field

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.selection.coresets import indexed
from .engines.selection.subsets import SubsetFields, subset
from .engines.students import RealStudentFields

DIFFERENCES = (
    "outputs are those after each epoch in eval mode without augmentation, where a recipe does not say score_outputs = "
    "train; released codes differ, and some keep half precision",
    "GraNd is that of the last layer's weights and biases; its paper takes all parameters",
    "forgetting ranks samples that were never learned hardest, as its paper does; released copies give them 0",
    "scores are averaged over score_runs trainings; CCS, DUAL and TDDS have one",
    "classes keep equal (fraction: proportional) shares where balance is not false; CCS, DUAL and TDDS rank the split",
    "TDDS: the first epoch has no movement, so that T epochs have T - J windows; its student's loss is not multiplied by "
    "the batch's mean score",
    "graph cut takes cosines of the features; DeepCore those of the last layer's gradients",
    "an epoch's short last batch opens the next epoch",
)


class PruneHyper(SubsetFields, RealStudentFields):
    """Hyper-parameters of `prune`."""

    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: PruneHyper) -> SynSet:
    """Keep the samples that the score ranks first, as indices."""
    places = subset(task, hyper)
    return indexed(task, task.space(hyper.space), places, student_recipe=hyper.student(task))


METHOD = Method(
    name="prune",
    hyper=PruneHyper,
    distill=distill,
    title="Data pruning by a score",
    paper="Paul et al. 2021, Zheng et al. 2023 and others",
    differences=DIFFERENCES,
    budgets=("ipc", "fraction"),
    toy={"score_epochs": 4, "student_epochs": 20, "student_batch": 10},
    deterministic=True,
)
