"""SRe2L: Yin et al., Squeeze, Recover and Relabel, NeurIPS 2023, arXiv 2306.13092.

1. Squeeze: train a network with batch normalization on the real images (`engines.decoupled.squeeze`): the teacher f.
2. Recover: for each IPC index and each block of classes, B images x ~ N(0, 1), one a class; T steps of Adam on

       CE(f(A(x)), y) + r_bn ( 10 r_1 + sum_{l >= 2} r_l ),   r_l = || v_l - var_l(A(x)) ||_2 + || m_l - mean_l(A(x)) ||_2

   with A a crop, a flip and a roll that the block shares, f in eval mode, clamped to the pixel range (`engines.decoupled.recover`).
3. Relabel: the student learns the teacher's logits for every augmented and mixed view, KL at temperature T
   (`engines.decoupled.relabel`).

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/decoupled.md`, and the records of `results/measured`.
"""

from torch import Tensor

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.decoupled.pipeline import DecoupledHyper, recovered, require_recoverable, space_of
from .engines.decoupled.relabel import FAMILY_DIFFERENCES, relabeled
from .engines.decoupled.squeeze import squeeze
from .engines.shares import equal_shares

DIFFERENCES = (
    *FAMILY_DIFFERENCES,
    "no image priors: the paper's commands give total variation and L2 the weight 0",
)


class SRe2LHyper(DecoupledHyper):
    """Hyper-parameters of `sre2l`."""


def distill(task: Task, hyper: DecoupledHyper) -> SynSet:
    """Recover images from one teacher, which then labels them for the student."""
    ipc = equal_shares(task)[0]
    require_recoverable(task, hyper, [task.network])
    teachers = squeeze(task, hyper, [task.network])
    own = [(teachers[task.network], 1.0)]

    def make_set(images: Tensor, classes: Tensor) -> SynSet:
        return relabeled(task, hyper, space_of(teachers), own, classes=classes, images=images)

    return make_set(*recovered(task, hyper, teachers, [{task.network: 1.0}] * ipc, make_set))


TOY = {
    "teacher_epochs": 8,
    "iterations": 30,
    "recover_lr": 0.25,
    "r_bn": 0.01,
    "roll": [0, 1],
    "student_batch": 10,
    "student_epochs": 20,
}

METHOD = Method(
    name="sre2l",
    hyper=SRe2LHyper,
    distill=distill,
    title="Squeeze, recover and relabel",
    paper="Yin et al. 2023",
    arxiv="2306.13092",
    differences=DIFFERENCES,
    snapshots=True,
    network="convnet-bn",
    toy=TOY,
)
