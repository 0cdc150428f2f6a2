"""AST: Shen, Yang and Lam, AST: Effective Dataset Distillation through Alignment with Smooth Expert Trajectories, 2310.10541.

1. Experts by SGD with momentum 0.9 and weight decay 1e-3, learning rate 0.003, times 0.6 from epoch 27 on; cross-entropy
   times 0.50, 0.55, ..., 0.95 in the first ten epochs (clipping loss), and a gradient penalty of weight 2
   (`engines.trajectory.experts`).
2. X: per class, k-means of the logits that an expert's final snapshot gives to the real images; the images nearest to
   each center (init "representative"; "real": random ones). alpha as in MTT.
3. For iteration = 0 .. iterations - 1, as in MTT (`methods/mtt.py`) but:
   a. weight_perturb: convolution kernels of theta_t become w + d * w elementwise, d Gaussian of the kernel's shape
      divided by its Frobenius norm; this is the start, and the theta_t of every denominator.
   b. The student's SGD has momentum 0.9.
   c. balance_loss: every inner loss times log_5(t - T // 2 + 8) where t >= T // 2, else divided by
      log_5(T // 2 - t + 8), T = max_start_epoch.
   d. match_middle: for k = 1 .. M - 1, at step k (N // M), the distance to theta_{t+k}, normalized likewise, is added
      to L with weight 1.
4. X and alpha after the last iteration are the result.

Differences from the paper: see `DIFFERENCES`. Figures: `benchmarks/trajectory_matching.md`, and the records of
`results/measured`.
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.distillation.method import Method
from ddbench.distillation.task import Task
from ddbench.synset.synset import SynSet

from .engines.shares import classes_of, equal_shares
from .engines.trajectory.experts import ExpertRecipe, Experts
from .engines.trajectory.gradient import Segment
from .engines.trajectory.outer_loop import (
    FAMILY_DIFFERENCES,
    Learned,
    TrajectoryHyper,
    draw_expert,
    draw_start,
    dsa_of,
    engine_of,
    inner_steps,
    logits_of,
    one_hot,
    open_experts,
    outer_iterations,
    real_images,
    student_of,
)

DIFFERENCES = (
    *FAMILY_DIFFERENCES[:-1],
    "only the released code could be read; the mapping of its options to the paper's names is ours",
    "with IPC below the number of clusters there are IPC clusters, where the released code selects nothing; with IPC not "
    "a multiple of it, larger clusters give one image more; no image is chosen twice",
    "middle terms have weight 1; no adaptive weights, alignment loss or graph of the last steps only, which the published "
    "commands leave off",
    "in the set's own student recipe momentum stays 0.9 and the last step is scored; the released code lowers it to 0.8 "
    "half-way and takes the best of many looks at the test set",
)
INNER_MOMENTUM = 0.9


class ASTHyper(TrajectoryHyper):
    """Hyper-parameters of `ast`."""

    weight_perturb: bool = Field(description="perturb the kernels of the start")
    balance_loss: bool = Field(description="scale the inner loss by the start epoch")
    match_middle: bool = Field(description="match the experts' epochs in between, too")
    init: Literal["representative", "real"] = Field(description="X: near k-means centers, or random real images")
    student_epochs: int = Field(ge=1, description="epochs of the set's own student recipe")
    final_epoch: int = Field(50, ge=1, description="epochs of the snapshot that chooses X")
    clusters: int = Field(10, ge=1, description="k-means clusters of a class")
    clipping_epochs: int = Field(10, ge=0, description="epochs with a scaled cross-entropy in the experts' training")
    gradient_penalty: float = Field(2.0, ge=0, description="weight of the gradient penalty in the experts' training")

    @model_validator(mode="after")
    def _steps_between(self) -> "ASTHyper":
        if self.match_middle and self.syn_steps < self.expert_epochs:
            raise ValueError("match_middle needs syn_steps of at least expert_epochs")
        return self


def distill(task: Task, hyper: ASTHyper) -> SynSet:
    """Learn images and a step size with which a student with momentum follows smooth experts."""
    representative = hyper.init == "representative"
    final = hyper.final_epoch if representative else None
    experts = open_experts(task, hyper, smooth(hyper), final, [clustering_expert(task, hyper)])
    engine = engine_of(task, hyper, experts)
    space = task.space(hyper.space)
    learned = Learned.resume(task)
    if learned is None:
        images = representative_images(task, hyper, experts) if representative else real_images(task, space)
        learned = Learned(images, one_hot(task), hyper.lr_teacher)

    def make_set() -> SynSet:
        student = student_of(
            task,
            learned.syn_lr,
            epochs=hyper.student_epochs,
            optimizer={"name": "sgd", "lr": learned.syn_lr, "momentum": 0.9, "weight_decay": 1e-3},
            schedule={"name": "step", "at": 0.5, "factor": 0.5},
        )
        return task.synset(space=space, images=learned.images, classes=classes_of(task), student_recipe=student)

    for iteration in outer_iterations(task, hyper, learned, make_set):
        rollout = engine.roll(segment_at(task, hyper, experts, iteration), learned.synthetic())
        learned.descend(rollout.gradient(), hyper)
        task.report(iteration, loss=rollout.loss, syn_lr=learned.syn_lr)
    return make_set()


def smooth(hyper: ASTHyper) -> ExpertRecipe:
    """Training of AST's experts."""
    return ExpertRecipe(
        lr=0.003,
        momentum=0.9,
        weight_decay=1e-3,
        decay_epoch=27,
        decay_factor=0.6,
        loss_ramp=hyper.clipping_epochs,
        gradient_penalty=hyper.gradient_penalty,
    )


def segment_at(task: Task, hyper: ASTHyper, experts: Experts, iteration: int) -> Segment:
    """Segment of one outer iteration."""
    expert = draw_expert(task, hyper.experts, iteration)
    t = draw_start(task, 0, hyper.max_start_epoch, iteration)
    start, steps, epochs = experts.at(expert, t), hyper.syn_steps, hyper.expert_epochs
    if hyper.weight_perturb:
        start = perturbed(start, experts.network.kernels(), task.rng("perturb", iteration))
    targets = {}
    if hyper.match_middle:
        targets = {k * (steps // epochs): experts.at(expert, t + k) for k in range(1, epochs)}
    targets[steps] = experts.at(expert, t + epochs)
    inner = inner_steps(task, sum(equal_shares(task)), hyper.batch_syn, steps, iteration, dsa_of(task))
    scale = balance(t, hyper.max_start_epoch) if hyper.balance_loss else 1.0
    return Segment(start, targets, inner, INNER_MOMENTUM, scale)


def perturbed(vector: Tensor, kernels: dict[str, slice], generator: torch.Generator) -> Tensor:
    """A copy of weights [P] with every convolution kernel w replaced by w + d * w."""
    moved = vector.clone()
    for part in kernels.values():
        noise = torch.randn(part.stop - part.start, generator=generator)
        moved[part] *= 1 + (noise / noise.norm()).to(vector.device)
    return moved


def balance(t: int, max_start_epoch: int) -> float:
    """Factor of the inner loss at start epoch t."""
    half = max_start_epoch // 2
    return math.log(t - half + 8, 5) if t >= half else 1 / math.log(half - t + 8, 5)


def representative_images(task: Task, hyper: ASTHyper, experts: Experts) -> Tensor:
    """Real images [classes * ipc, C, H, W] near the k-means centers of their class's logits, class by class."""
    space = task.space(hyper.space)
    vector = experts.at(clustering_expert(task, hyper), hyper.final_epoch)
    chosen = []
    for pool, count in zip(task.class_indices(), equal_shares(task), strict=True):
        logits = logits_of(experts, vector, task.read(space, pool)).cpu()
        chosen.append(pool[near_centers(logits, count, hyper.clusters)])
    return task.read(space, torch.cat(chosen)).clone()


def clustering_expert(task: Task, hyper: ASTHyper) -> int:
    """Expert whose final snapshot chooses X: drawn by the synthesis seed."""
    return int(torch.randint(hyper.experts, (), generator=task.rng("cluster-expert")))


def near_centers(points: Tensor, count: int, clusters: int) -> Tensor:
    """Positions of `count` distinct points [n, d], an equal share nearest to each center of min(clusters, count) k-means.

    What is left over goes to the larger clusters, one each.
    """
    from sklearn.cluster import KMeans

    groups = min(clusters, count)
    fitted = KMeans(groups, n_init=10, random_state=0).fit(points.double().numpy())
    centers = torch.from_numpy(fitted.cluster_centers_)
    sizes = torch.from_numpy(fitted.labels_).long().bincount(minlength=groups)
    share, rest = divmod(count, groups)
    larger = set(sizes.argsort(descending=True, stable=True)[:rest].tolist())
    chosen: list[int] = []
    for group, center in enumerate(centers):
        nearest = (points.double() - center).square().sum(1).argsort(stable=True).tolist()
        chosen += [p for p in nearest if p not in chosen][: share + (group in larger)]
    return torch.tensor(chosen)


METHOD = Method(
    name="ast",
    hyper=ASTHyper,
    distill=distill,
    title="Alignment with smooth expert trajectories",
    paper="Shen et al. 2023",
    arxiv="2310.10541",
    differences=DIFFERENCES,
    snapshots=True,
    toy={
        "iterations": 5,
        "syn_steps": 4,
        "expert_epochs": 2,
        "max_start_epoch": 1,
        "experts": 1,
        "final_epoch": 2,
        "gradient_penalty": 0.0,
    },
)
