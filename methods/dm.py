"""DM: Zhao and Bilen, Dataset Condensation with Distribution Matching, WACV 2023, arXiv 2110.04181.

1. S: IPC real images of every class, drawn at random (or noise); their classes are fixed.
2. For step = 0 .. iterations - 1:
   a. psi: a fresh random network without its classifier, in train mode, weights frozen.
   b. For every class c: B_c, 256 real images without replacement; S_c, all its synthetic images; A_c, one DSA
      operation with one set of parameters for both.
   c. L = sum_c || mean_{x in B_c} psi(A_c(x)) - mean_{s in S_c} psi(A_c(s)) ||_2^2, summed over the features.
      With batch normalization all real images share one forward, and all synthetic ones another.
   d. v <- 0.5 v + dL/dS; S <- S - lr_img v. Images are never clamped.
3. S after the last step is the result; it is float32 in the space of the distillation.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/`, and the records of `results/measured`.
"""

from functools import partial
from typing import Literal

from pydantic import Field

from ddbench.distillation.method import Hyper, Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.condensation import descend, dsa_student
from .engines.matching.feature_matching import (
    embeddings,
    make_pairs,
    matching_gradient,
    require_finite,
    start,
    state_at,
)
from .engines.shares import classes_of

DIFFERENCES = (
    "20,000 steps; the released loop runs one more",
    "draws are keyed by seed, step and class; the released code seeds from the clock, and classes that fall into one "
    "millisecond share their augmentation",
    "one-channel images are not padded to 32 px",
    "in the set's own student recipe the learning rate falls at half of the steps and momentum is kept; the released "
    "code falls at epoch 501 of 1,001 and loses it",
)


class DMHyper(Hyper):
    """Hyper-parameters of `dm`."""

    iterations: int = Field(20_000, ge=1, description="steps on the images, K")
    lr_img: float = Field(1.0, gt=0, description="step size on the images")
    momentum: float = Field(0.5, ge=0, lt=1, description="of the SGD on the images")
    batch_real: int = Field(256, ge=1, description="real images of a class in a step, |B_c|")
    init: Literal["real", "noise"] = Field("real", description="what S begins as: random real images, or N(0, 1)")
    space: Literal["pixel", "normalised", "zca"] = Field("normalised", description="space that the images live in")


def distill(task: Task, hyper: DMHyper) -> SynSet:
    """Learn images whose mean embeddings match those of the real classes in random networks."""
    space = task.space(hyper.space)
    pairs = make_pairs(task, space, hyper.batch_real)
    state = task.resume() or start(task, space, pairs, hyper.init)
    images, velocity = (state[name].to(task.device) for name in ("images", "velocity"))

    def make_set() -> SynSet:
        student = dsa_student(task, epochs=1000, batch=256, schedule={"name": "step", "at": 0.5, "factor": 0.1})
        return task.synset(space=space, images=images, classes=classes_of(task), student_recipe=student)

    for step in task.loop(state["step"], hyper.iterations, "matching distributions"):
        task.snapshot(step, hyper.iterations, make_set)
        network = task.create_network("network", step).requires_grad_(False)
        with task.forked("dropout", step):
            loss, gradient = matching_gradient(network, embeddings(network), (1.0,), images, pairs, step)
        require_finite(loss, step)
        descend(images, velocity, gradient, hyper.lr_img, hyper.momentum)
        task.report(step, loss=loss)
        task.checkpoint(partial(state_at, step + 1, images, velocity))
    return make_set()


METHOD = Method(
    name="dm",
    hyper=DMHyper,
    distill=distill,
    title="Distribution matching",
    paper="Zhao and Bilen 2023",
    arxiv="2110.04181",
    differences=DIFFERENCES,
    snapshots=True,
    toy={"iterations": 40, "batch_real": 32},
)
