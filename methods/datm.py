"""DATM: Guo et al., Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching, ICLR 2024, 2310.05773.

1. Experts as in FTD (GSAM, a = 0.3), trained to `final_epoch`; their final snapshots choose and label X.
2. X: IPC real images of every class, in random order the first that a reference expert classifies rightly; where it does
   not find enough, the next expert continues. Labels: free logits, for each image the mean of the final logits of those
   experts that classify it rightly. (init "real": random images, and the logits of one random expert.)
3. For iteration = 0 .. iterations - 1:
   a. t uniform on {T-, ..., U - 1}. Sequential growth: U = min(T+, T + floor((T+ - T) iteration / E)); else U = T+.
   b. The student's N steps from theta_t as in MTT, on softmax(labels); L as in MTT.
   c. Where L is above the threshold the iteration ends here; the backward pass is not made.
   d. SGD with momentum on X (lr_img, 0.5), alpha (lr_lr, 0.5) and the labels (lr_y, 0.9).
4. X, labels and alpha after the last iteration are the result. There is no average of the images.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/trajectory_matching.md`, and the records of
`results/measured`.
"""

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed
from ddbench.synset.synset import SynSet

from .engines.selection.coresets import random_choice
from .engines.shares import classes_of, equal_shares
from .engines.trajectory.experts import ExpertRecipe, Experts
from .engines.trajectory.gradient import Mode
from .engines.trajectory.outer_loop import (
    FAMILY_DIFFERENCES,
    Learned,
    TrajectoryHyper,
    draw_start,
    engine_of,
    logits_of,
    open_experts,
    outer_iterations,
    segment_of,
    soft_student,
    soft_targets,
    student_of,
)

DIFFERENCES = (
    *FAMILY_DIFFERENCES,
    "the loss gate comes before the backward pass, which the released code computes and discards; nothing else changes",
    "an image is chosen once, where the released code's next expert may choose it again",
    "a loss that is not finite ends the run, where the released code's gate would discard the iteration and go on",
    "no labels from another architecture's experts",
)


class DATMHyper(TrajectoryHyper):
    """Hyper-parameters of `datm`; `max_start_epoch` is T+."""

    lr_y: float = Field(ge=0, description="step size on the label logits")
    min_start_epoch: int = Field(0, ge=0, description="first start epoch, T-")
    current_max_start_epoch: int | None = Field(None, ge=1, description="end of the window at the start, T; none: T+")
    expansion_end_epoch: int | None = Field(None, ge=1, description="iteration at which the window has grown to T+, E")
    threshold: float = Field(1.0, gt=0, description="no step where the matching loss is above")
    init: Literal["correct", "real"] = Field("correct", description="X: rightly classified images, or random ones")
    final_epoch: int = Field(100, ge=1, description="epochs of the snapshots that choose and label X")
    momentum_y: float = Field(0.9, ge=0, lt=1, description="of the SGD on the label logits")
    rho: float = Field(0.01, ge=0, description="GSAM's adaptive radius in the experts' steps")
    gsam_alpha: float = Field(0.3, ge=0, description="GSAM's weight of the perpendicular part, a")
    iterations: int = Field(10_000, ge=1, description="outer iterations")
    gradient: Mode = Field(
        "adjoint", description="adjoint: the paper's; truncated: the released variant on TESLA's loop"
    )

    @model_validator(mode="after")
    def _open_window(self) -> "DATMHyper":
        if (self.current_max_start_epoch is None) != (self.expansion_end_epoch is None):
            raise ValueError("give both current_max_start_epoch and expansion_end_epoch, or neither")
        if self.min_start_epoch >= window_end(self, 0):
            raise ValueError("min_start_epoch must be below current_max_start_epoch and max_start_epoch")
        return self


def distill(task: Task, hyper: DATMHyper) -> SynSet:
    """Learn images, label logits and a step size on segments of a growing difficulty window."""
    recipe = ExpertRecipe(rho=hyper.rho, gsam_alpha=hyper.gsam_alpha)
    labeling = [labeling_expert(task, hyper)] if hyper.init == "real" else None
    experts = open_experts(task, hyper, recipe, hyper.final_epoch, labeling)
    engine = engine_of(task, hyper, experts)
    learned = Learned.resume(task) or begin(task, hyper, experts)

    def make_set() -> SynSet:
        return task.synset(
            space=task.space(hyper.space),
            images=learned.images,
            classes=classes_of(task),
            student_recipe=soft_student(student_of(task, learned.syn_lr, batch=128)),
            targets=soft_targets(learned.labels),
        )

    for iteration in outer_iterations(task, hyper, learned, make_set):
        start = draw_start(task, hyper.min_start_epoch, window_end(hyper, iteration), iteration)
        rollout = engine.roll(segment_of(task, hyper, experts, iteration, start), learned.synthetic())
        if rollout.loss <= hyper.threshold:
            learned.descend(rollout.gradient(), hyper, hyper.lr_y, hyper.momentum_y)
        task.report(iteration, loss=rollout.loss, syn_lr=learned.syn_lr)
    return make_set()


def window_end(hyper: DATMHyper, iteration: int) -> int:
    """U, the exclusive end of the window of start epochs at an iteration."""
    first, last, end = hyper.current_max_start_epoch, hyper.max_start_epoch, hyper.expansion_end_epoch
    if first is None or end is None:
        return last
    return min(last, first + (last - first) * iteration // end)


def begin(task: Task, hyper: DATMHyper, experts: Experts) -> Learned:
    """X and its label logits before the first iteration."""
    space, counts = task.space(hyper.space), equal_shares(task)
    if hyper.init == "real":
        images = task.read(space, torch.cat(random_choice(task, counts)))
        vector = experts.at(labeling_expert(task, hyper), hyper.final_epoch)
        return Learned(images.clone(), logits_of(experts, vector, images), hyper.lr_teacher, logits=True)
    finals = [experts.at(expert, hyper.final_epoch) for expert in range(hyper.experts)]
    images = task.read(space, rightly_classified(task, hyper, experts, finals))
    labels = mean_right_logits(experts, finals, images, classes_of(task).to(task.device))
    return Learned(images.clone(), labels, hyper.lr_teacher, logits=True)


def labeling_expert(task: Task, hyper: DATMHyper) -> int:
    """Expert that labels random real images: drawn by the synthesis seed."""
    return int(torch.randint(hyper.experts, (), generator=task.rng("label-expert")))


def rightly_classified(task: Task, hyper: DATMHyper, experts: Experts, finals: list[Tensor]) -> Tensor:
    """Places [classes * ipc] of real images that an expert classifies rightly, class by class.

    The reference expert is the first; a class that it cannot fill moves it on to the next, for later classes too.

    Raises:
        JobFailed: all experts together find too few.
    """
    space, counts, reference = task.space(hyper.space), equal_shares(task), 0
    chosen = []
    for label, pool in enumerate(task.class_indices()):
        order = pool[torch.randperm(len(pool), generator=task.rng("right", label))]
        images, picked = task.read(space, order), torch.empty(0, dtype=torch.int64)
        for tried in range(hyper.experts):
            if tried:
                reference = (reference + 1) % hyper.experts
            right = logits_of(experts, finals[reference], images).argmax(1).cpu() == label
            new = order[right]
            picked = torch.cat([picked, new[~torch.isin(new, picked)]])[: counts[label]]
            if len(picked) == counts[label]:
                break
        else:
            raise JobFailed(
                f"the experts classify only {len(picked)} images of class {label} rightly, {counts[label]} are needed: "
                "train them longer (final_epoch), or begin with init=real"
            )
        chosen.append(picked)
    return torch.cat(chosen)


def mean_right_logits(experts: Experts, finals: list[Tensor], images: Tensor, classes: Tensor) -> Tensor:
    """For each image the mean logits [n, K] of the experts that classify it rightly; each image has one at least."""
    total, count = torch.zeros((), device=images.device), torch.zeros(len(images), device=images.device)
    for vector in finals:
        logits = logits_of(experts, vector, images)
        right = (logits.argmax(1) == classes).float()
        total, count = total + right[:, None] * logits, count + right
    return total / count[:, None]


METHOD = Method(
    name="datm",
    hyper=DATMHyper,
    distill=distill,
    title="Difficulty-aligned trajectory matching",
    paper="Guo et al. 2024",
    arxiv="2310.05773",
    differences=DIFFERENCES,
    snapshots=True,
    toy={
        "iterations": 5,
        "syn_steps": 4,
        "expert_epochs": 1,
        "max_start_epoch": 1,
        "experts": 1,
        "init": "real",
        "final_epoch": 1,
    },
)
