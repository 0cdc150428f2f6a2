"""FTD: Du et al., Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation, CVPR 2023, 2211.11004.

1. Experts as in MTT (`methods/mtt.py`), but each step is GSAM with the adaptive perturbation, radius rho and weight a
   (`engines.trajectory.expert_step.gsam`), so that they end in flat regions.
2. X, alpha and the iterations as in MTT; after each, E <- d E + (1 - d) X, with E = X at the start.
3. E and alpha after the last iteration are the result: alpha is not averaged.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/trajectory_matching.md`, and the records of
`results/measured`.
"""

from pydantic import Field

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.shares import classes_of
from .engines.trajectory.experts import ExpertRecipe
from .engines.trajectory.outer_loop import (
    FAMILY_DIFFERENCES,
    Learned,
    TrajectoryHyper,
    draw_start,
    engine_of,
    one_hot,
    open_experts,
    outer_iterations,
    real_images,
    segment_of,
    student_of,
)

DIFFERENCES = (
    *FAMILY_DIFFERENCES,
    "the averaged images are scored with fresh networks; the released code goes on with networks that it has trained on "
    "the images themselves",
    "rho 0.01, from the released script; the option's default of 2 is not used there",
)


class FTDHyper(TrajectoryHyper):
    """Hyper-parameters of `ftd`."""

    gsam_alpha: float = Field(ge=0, description="GSAM's weight of the perpendicular part in the experts' steps, a")
    ema_decay: float = Field(ge=0, lt=1, description="decay of the average of the images, d")
    rho: float = Field(0.01, ge=0, description="GSAM's adaptive radius")


def distill(task: Task, hyper: FTDHyper) -> SynSet:
    """Learn images and a step size with which a student follows flat experts; the images' average is the result."""
    experts = open_experts(task, hyper, ExpertRecipe(rho=hyper.rho, gsam_alpha=hyper.gsam_alpha))
    engine = engine_of(task, hyper, experts)
    space = task.space(hyper.space)
    learned = Learned.resume(task) or Learned(real_images(task, space), one_hot(task), hyper.lr_teacher)
    average = learned.extra.setdefault("average", learned.images.clone())

    def make_set() -> SynSet:
        student = student_of(task, learned.syn_lr)
        return task.synset(space=space, images=average, classes=classes_of(task), student_recipe=student)

    for iteration in outer_iterations(task, hyper, learned, make_set):
        start = draw_start(task, 0, hyper.max_start_epoch, iteration)
        rollout = engine.roll(segment_of(task, hyper, experts, iteration, start), learned.synthetic())
        learned.descend(rollout.gradient(), hyper)
        average.mul_(hyper.ema_decay).add_(learned.images, alpha=1 - hyper.ema_decay)
        task.report(iteration, loss=rollout.loss, syn_lr=learned.syn_lr)
    return make_set()


METHOD = Method(
    name="ftd",
    hyper=FTDHyper,
    distill=distill,
    title="Flat trajectory distillation",
    paper="Du et al. 2023",
    arxiv="2211.11004",
    differences=DIFFERENCES,
    snapshots=True,
    toy={"iterations": 5, "syn_steps": 4, "expert_epochs": 1, "max_start_epoch": 1, "experts": 1},
)
