"""Data pruning with distillation: Ben-Baruch et al., Distilling the Knowledge in Data Pruning, arXiv 2403.07854.

1. Train a teacher on the whole split (by default the student's own architecture: self-distillation).
2. Prune the split to a fraction f by any rule, random included (`engines.selection.subsets`).
3. Train students on what is kept by (1 - alpha) CE(student, y) + alpha T^2 KL(teacher || student) at temperature T, the
   teacher asked online for each batch as augmented; the smaller f, the larger alpha.

With a teacher the choice of the pruning rule hardly matters, the paper says: compare with `prune` by the same rule, and
with score = random. Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/pruning.md`.
"""

from typing import Literal

from pydantic import Field

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.networks import canonical
from ddbench.synset.synset import SynSet
from ddbench.synset.targets import committee

from .engines.decoupled.squeeze import SqueezeFields, squeeze
from .engines.selection.coresets import indexed
from .engines.selection.subsets import Ranking, SubsetFields, subset
from .engines.students import RealStudentFields

DIFFERENCES = (
    "alpha is 1 - f where no recipe gives it: the paper's alpha for each fraction is not established",
    "the distillation term is Hinton's, with T^2; the paper's form and its temperature are not established",
    "architectures, epochs and augmentations are not established: those of the other pruning papers",
    "students learn from the teacher's outputs for the images as augmented, online",
)


class PruneKDHyper(SubsetFields, SqueezeFields, RealStudentFields):
    """Hyper-parameters of `prune-kd`."""

    score: Ranking = Field("random", description="as of `prune`")
    teacher: str | None = Field(None, description="the teacher's network; none: the distillation network")
    alpha: float | None = Field(None, ge=0, le=1, description="weight of the distillation term; none: 1 - f")
    temperature: float = Field(4.0, gt=0, description="T, of the distillation term")
    space: Literal["normalised", "pixel"] = Field("normalised", description="space that a student trains in")


def distill(task: Task, hyper: PruneKDHyper) -> SynSet:
    """Keep samples, as indices, and the teacher that students learn from beside their classes."""
    places = subset(task, hyper)
    name = canonical(hyper.teacher or task.network, side=task.dataset.side)
    teacher = squeeze(task, hyper, [name])[name]
    task.teachers.setdefault(teacher.hash, {})["label_weight"] = 1.0
    alpha = 1 - len(places) / len(task.dataset.labels) if hyper.alpha is None else hyper.alpha
    loss = {"name": "ce-kd", "alpha": alpha, "temperature": hyper.temperature, "squared": True}
    student = hyper.student(task, loss=loss, labels="targets")
    targets = committee([(teacher, 1.0)])
    return indexed(task, task.space(hyper.space), places, student_recipe=student, targets=targets)


METHOD = Method(
    name="prune-kd",
    hyper=PruneKDHyper,
    distill=distill,
    title="Data pruning with distillation",
    paper="Ben-Baruch et al. 2024",
    arxiv="2403.07854",
    differences=DIFFERENCES,
    budgets=("ipc", "fraction"),
    toy={"score_epochs": 4, "teacher_epochs": 4, "student_epochs": 20, "student_batch": 10},
)
