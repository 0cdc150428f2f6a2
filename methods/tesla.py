"""TESLA: Cui et al., Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory, ICML 2023, arXiv 2211.10586.

1. Experts, X and alpha as in MTT (`methods/mtt.py`).
2. For iteration = 0 .. iterations - 1:
   a. Expert, start epoch t, N student steps from theta_t as in MTT; G is the sum of their gradients g_i.
   b. With soft_labels: the labels of all of X are the probabilities that the expert at theta_{t+M} gives to the images as
      they are now, un-augmented; they are constants of the iteration. Without: the classes.
   c. L = || theta_t - alpha G - theta_{t+M} ||^2 / || theta_t - theta_{t+M} ||^2, and its derivatives with every theta_i
      taken as a constant: dL/dx_i = (2/D) d/dx_i [v . g_i] with D the denominator and
      v = alpha (theta_{t+M} - theta_t) + alpha^2 G; dL/dalpha = (2/D) (theta_t - alpha G - theta_{t+M}) . (-G).
      This is not MTT's gradient: g_j for j > i depends on x_i too. `gradient = "adjoint"` gives the exact one.
   d. SGD with momentum 0.5 on X (lr_img) and on alpha (lr_lr).
3. X, alpha and, with soft_labels, the labels that the last iteration's target gives to the last images, are the result.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/trajectory_matching.md`, and the records of
`results/measured`.
"""

from pydantic import Field
from torch import Tensor

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.shares import classes_of
from .engines.trajectory.experts import ExpertRecipe, Experts
from .engines.trajectory.gradient import Mode
from .engines.trajectory.outer_loop import (
    FAMILY_DIFFERENCES,
    Learned,
    TrajectoryHyper,
    draw_expert,
    draw_start,
    engine_of,
    logits_of,
    one_hot,
    open_experts,
    outer_iterations,
    real_images,
    segment_of,
    soft_student,
    soft_targets,
    student_of,
)

DIFFERENCES = (
    *FAMILY_DIFFERENCES,
    "the image gradient has the factor 2 of the squared distance; the released code loses it, so that its lr_img 1000 "
    "is 500 here, and its 10000 is 5000",
    "soft labels work on every data set; the released code has them for ImageNet-1K only",
    "the soft labels of the set are those of the last iteration's target for the last images",
)


class TESLAHyper(TrajectoryHyper):
    """Hyper-parameters of `tesla`."""

    soft_labels: bool = Field(description="label X by the target expert in every iteration; else by its classes")
    iterations: int = Field(10_000, ge=1, description="outer iterations")
    gradient: Mode = Field("truncated", description="truncated is the paper's; adjoint and unrolled are exact")


def distill(task: Task, hyper: TESLAHyper) -> SynSet:
    """Learn images and a step size by the truncated gradient."""
    experts = open_experts(task, hyper, ExpertRecipe())
    engine = engine_of(task, hyper, experts)
    space = task.space(hyper.space)
    learned = Learned.resume(task) or Learned(real_images(task, space), one_hot(task), hyper.lr_teacher)

    def make_set() -> SynSet:
        student, targets = student_of(task, learned.syn_lr), None
        if hyper.soft_labels:
            logits = target_logits(task, hyper, experts, max(0, learned.iteration - 1), learned.images)
            student, targets = soft_student(student), soft_targets(logits)
        classes = classes_of(task)
        return task.synset(space=space, images=learned.images, classes=classes, student_recipe=student, targets=targets)

    for iteration in outer_iterations(task, hyper, learned, make_set):
        start = draw_start(task, 0, hyper.max_start_epoch, iteration)
        if hyper.soft_labels:
            learned.labels = target_logits(task, hyper, experts, iteration, learned.images).softmax(1)
        rollout = engine.roll(segment_of(task, hyper, experts, iteration, start), learned.synthetic())
        learned.descend(rollout.gradient(), hyper)
        task.report(iteration, loss=rollout.loss, syn_lr=learned.syn_lr)
    return make_set()


def target_logits(task: Task, hyper: TESLAHyper, experts: Experts, iteration: int, images: Tensor) -> Tensor:
    """Logits [n, K] that the target of an iteration, its expert after t + M epochs, gives to images [n, C, H, W]."""
    start = draw_start(task, 0, hyper.max_start_epoch, iteration)
    target = experts.at(draw_expert(task, hyper.experts, iteration), start + hyper.expert_epochs)
    return logits_of(experts, target, images)


METHOD = Method(
    name="tesla",
    hyper=TESLAHyper,
    distill=distill,
    title="Trajectory matching with constant memory",
    paper="Cui et al. 2023",
    arxiv="2211.10586",
    differences=DIFFERENCES,
    snapshots=True,
    toy={"iterations": 5, "syn_steps": 4, "expert_epochs": 1, "max_start_epoch": 1, "experts": 1},
)
