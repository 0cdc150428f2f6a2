"""MTT: Cazenavette et al., Dataset Distillation by Matching Training Trajectories, CVPR 2022, arXiv 2203.11932.

1. Experts: networks trained on the real images by plain SGD with DSA (`engines.trajectory.experts`); theta_k is an expert's weights
   after k epochs.
2. X: IPC random real images of every class; their classes are fixed. alpha: the student's step size, learned.
3. For iteration = 0 .. iterations - 1:
   a. An expert (each once per cycle) and a start epoch t, uniform on {0, ..., max_start_epoch - 1}.
   b. The student begins at theta_t and takes N steps of SGD with step size alpha on batches of b synthetic images, DSA
      drawn anew in each: it ends at theta'.
   c. L = || theta' - theta_{t+M} ||^2 / || theta_t - theta_{t+M} ||^2, differentiated through all N steps
      (`engines.trajectory.gradient`).
   d. SGD with momentum 0.5 on X (lr_img) and on alpha (lr_lr). Neither is clamped; a negative alpha ends the run.
4. X and alpha after the last iteration are the result.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/trajectory_matching.md`, and the records of
`results/measured`.
"""

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
    "no texture mode",
)


class MTTHyper(TrajectoryHyper):
    """Hyper-parameters of `mtt`."""


def distill(task: Task, hyper: MTTHyper) -> SynSet:
    """Learn images and a step size with which a student follows the experts."""
    experts = open_experts(task, hyper, ExpertRecipe())
    engine = engine_of(task, hyper, experts)
    space = task.space(hyper.space)
    learned = Learned.resume(task) or Learned(real_images(task, space), one_hot(task), hyper.lr_teacher)

    def make_set() -> SynSet:
        student = student_of(task, learned.syn_lr)
        return task.synset(space=space, images=learned.images, classes=classes_of(task), student_recipe=student)

    for iteration in outer_iterations(task, hyper, learned, make_set):
        start = draw_start(task, 0, hyper.max_start_epoch, iteration)
        rollout = engine.roll(segment_of(task, hyper, experts, iteration, start), learned.synthetic())
        learned.descend(rollout.gradient(), hyper)
        task.report(iteration, loss=rollout.loss, syn_lr=learned.syn_lr)
    return make_set()


METHOD = Method(
    name="mtt",
    hyper=MTTHyper,
    distill=distill,
    title="Matching training trajectories",
    paper="Cazenavette et al. 2022",
    arxiv="2203.11932",
    differences=DIFFERENCES,
    snapshots=True,
    toy={"iterations": 5, "syn_steps": 4, "expert_epochs": 1, "max_start_epoch": 1, "experts": 1},
)
