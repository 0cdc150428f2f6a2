"""Outer loop of trajectory matching: draws, optimizers, checkpoints, and the family's own student.

Every draw is keyed by synthesis seed and outer iteration. The released codes seed torch from the clock in each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.augment import DSA, OPS
from ddbench.data.spaces import Space
from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed
from ddbench.synset.synset import SynSet, Targets
from ddbench.training.precision import Execution
from ddbench.training.recipe import StudentRecipe

from ..condensation import descend
from ..selection.coresets import random_choice
from ..shares import classes_of, equal_shares
from .experts import ExpertRecipe, Experts
from .experts import dsa_of as dsa_of
from .gradient import Gradient, InnerStep, Mode, Segment, Synthetic, TrajectoryEngine

SpaceName = Literal["normalised", "zca"]
_AT_ONCE = 500  # images in a forward without a graph

FAMILY_DIFFERENCES = (
    "the last iteration's set is the result; the papers report the best of many looks at the test set",
    "draws are keyed by seed and iteration; the released codes seed from the clock in every iteration",
    "experts take turns in one random order a cycle; the released codes shuffle files of experts, then those in a file",
    "experts are trained only as far as they are read",
    "the outer loop makes the paper's number of iterations; the released loops run one more",
    "in the set's own student recipe the learning rate falls at half of the steps and momentum is kept; the released "
    "codes fall after epoch 501 of 1,001 and lose it",
)


class TrajectoryHyper(Hyper):
    """Hyper-parameters that all methods of the family have; those without a default differ between data sets and budgets."""

    syn_steps: int = Field(ge=1, description="inner steps of the student, N")
    expert_epochs: int = Field(ge=1, description="expert epochs that the inner steps stand for, M")
    max_start_epoch: int = Field(ge=1, description="start epochs are 0 .. max_start_epoch - 1, T+")
    batch_syn: int | None = Field(None, ge=1, description="synthetic images in an inner step, b; none: all of them")
    lr_img: float = Field(gt=0, description="step size on the images")
    lr_lr: float = Field(ge=0, description="step size on the student's step size")
    lr_teacher: float = Field(gt=0, description="what the student's step size begins as, alpha")
    space: SpaceName = Field(description="space of images and experts; zca is the papers' --zca")
    experts: int = Field(100, ge=1, description="expert trajectories")
    momentum: float = Field(0.5, ge=0, lt=1, description="of the SGD on images and step size")
    iterations: int = Field(5_000, ge=1, description="outer iterations")
    gradient: Mode = Field("adjoint", description="how the gradient is computed; adjoint and unrolled are the same")
    match_compiled: bool = Field(
        False,
        exclude_if=lambda compiled: not compiled,
        description="whether the adjoint's steps are compiled (torch.compile): faster, but for runs of a few minutes",
    )

    @model_validator(mode="after")
    def _compiles_something(self) -> Self:
        if self.match_compiled and self.gradient == "unrolled":
            raise ValueError(
                "match_compiled compiles the steps of the adjoint: it does not go with gradient = unrolled"
            )
        return self

    def execution(self) -> Execution:
        """Precision of the student's steps, and whether they are compiled."""
        return Execution(compiled=self.match_compiled)

    def last_epoch(self) -> int:
        """Last epoch of an expert that is read while matching."""
        return self.max_start_epoch - 1 + self.expert_epochs


def open_experts(
    task: Task,
    hyper: TrajectoryHyper,
    recipe: ExpertRecipe,
    final: int | None = None,
    final_of: Iterable[int] | None = None,
) -> Experts:
    """Train the experts of a run as far as its outer loop reads them, and to epoch `final` if asked (or some of them).

    Raises:
        UsageError: the network is not a function of its parameters alone, the budget is not one of images per class, or
            compiling is asked for where there is no compiler.
    """
    equal_shares(task)
    hyper.execution().require(task.device.type)
    experts = Experts(task, task.space(hyper.space), recipe, hyper.experts)
    experts.train(hyper.last_epoch(), final, final_of)
    return experts


def engine_of(task: Task, hyper: TrajectoryHyper, experts: Experts) -> TrajectoryEngine:
    """Engine that computes the gradients of a run."""
    return TrajectoryEngine(experts.network, dsa_of(task), hyper.gradient, compiled=hyper.match_compiled)


def draw_expert(task: Task, count: int, iteration: int) -> int:
    """Each of `count` experts once per cycle of `count` iterations, in random order."""
    cycle, place = divmod(iteration, count)
    return int(torch.randperm(count, generator=task.rng("expert-order", cycle))[place])


def draw_start(task: Task, low: int, high: int, iteration: int) -> int:
    """A start epoch, uniform on {low, ..., high - 1}: the upper end is exclusive."""
    return int(torch.randint(low, high, (), generator=task.rng("start-epoch", iteration)))


def inner_steps(task: Task, images: int, batch: int | None, steps: int, iteration: int, dsa: DSA) -> list[InnerStep]:
    """Batches and augmentation of the student's steps in one outer iteration.

    A random permutation of the images is cut into chunks of `batch`, the last one smaller, and used from its end, so
    that a remainder comes first; then a new permutation follows. It begins anew in every outer iteration.
    """
    inner: list[InnerStep] = []
    chunks: list[Tensor] = []
    for i in range(steps):
        if not chunks:
            order = torch.randperm(images, generator=task.rng("inner-order", iteration, i))
            chunks = list(order.split(batch or images))
        index = chunks.pop()
        drawn = dsa.draw(len(index), task.dataset.side, task.rng("inner-dsa", iteration, i))
        inner.append(InnerStep(index.to(task.device), drawn))
    return inner


def real_images(task: Task, space: Space) -> Tensor:
    """Random real images [classes * ipc, C, H, W] in `space`, class by class: those of the baseline `random`."""
    return task.read(space, torch.cat(random_choice(task, equal_shares(task)))).clone()


def one_hot(task: Task) -> Tensor:
    """Label probabilities [classes * ipc, K] of the classes, on the device."""
    return F.one_hot(classes_of(task), len(task.dataset.class_names)).float().to(task.device)


@dataclass
class Learned:
    """State of the outer loop: what is learned, with its momentum, and the iterations done.

    Attributes:
        images: [n, C, H, W] on the device.
        labels: [n, K]: probabilities that stay, or logits that are learned.
        syn_lr: the student's step size, alpha.
        iteration: outer iterations done.
        logits: `labels` are learned logits.
        extra: further tensors of a method that a checkpoint must hold.
        velocity: momentum of images, labels, syn_lr.
    """

    images: Tensor
    labels: Tensor
    syn_lr: float
    iteration: int = 0
    logits: bool = False
    extra: dict[str, Tensor] = field(default_factory=dict)
    velocity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def resume(cls, task: Task) -> "Learned | None":
        """State of the last checkpoint, on the device, or None."""
        state = task.resume()
        return cls(**_to(state, task.device)) if state else None

    def state(self) -> dict[str, Any]:
        """Contents of a checkpoint."""
        return dict(vars(self))

    def synthetic(self) -> Synthetic:
        """As the engine takes it."""
        return Synthetic(self.images, self.labels, self.syn_lr, self.logits)

    def descend(self, gradient: Gradient, hyper: TrajectoryHyper, lr_y: float = 0.0, momentum_y: float = 0.0) -> None:
        """One outer step: SGD with momentum on images, step size and learned labels: v <- m v + g, p <- p - lr v.

        Raises:
            JobFailed: the step size is no longer positive, or something is not finite; the last checkpoint stays.
        """
        slope = hyper.momentum * self.velocity.get("syn_lr", 0.0) + gradient.syn_lr
        self.syn_lr, self.velocity["syn_lr"] = self.syn_lr - hyper.lr_lr * slope, slope
        descend(self.images, self._velocity("images"), gradient.images, hyper.lr_img, hyper.momentum)
        if gradient.labels is not None:
            descend(self.labels, self._velocity("labels"), gradient.labels, lr_y, momentum_y)
        where = f"at outer iteration {self.iteration}; the last good checkpoint is kept"
        learned = (self.images, self.labels, torch.tensor(self.syn_lr))
        if not all(bool(torch.isfinite(value).all()) for value in learned):
            raise JobFailed(f"diverged: images, labels or step size are not finite {where}")
        if self.syn_lr <= 0:
            raise JobFailed(f"the student's step size turned negative ({self.syn_lr:.2g}) {where}: lr_lr is too large")

    def _velocity(self, name: str) -> Tensor:
        return self.velocity.setdefault(name, torch.zeros_like(getattr(self, name)))


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {name: _to(item, device) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def outer_iterations(
    task: Task, hyper: TrajectoryHyper, learned: Learned, make_set: Callable[[], SynSet] | None = None
) -> Iterator[int]:
    """Yield the iterations that are left; each is counted and offered as a checkpoint once it is done.

    `make_set` gives the set of what is learned so far, for snapshots.
    """
    for iteration in task.loop(learned.iteration, hyper.iterations, "matching trajectories"):
        if make_set is not None:
            task.snapshot(iteration, hyper.iterations, make_set)
        yield iteration
        learned.iteration = iteration + 1
        task.checkpoint(learned.state)


def segment_of(
    task: Task, hyper: TrajectoryHyper, experts: Experts, iteration: int, start: int, **more: Any
) -> Segment:
    """Segment of one outer iteration: an expert from epoch `start` to `start` + M, and the draws of its N inner steps."""
    expert = draw_expert(task, hyper.experts, iteration)
    images = sum(equal_shares(task))
    steps = inner_steps(task, images, hyper.batch_syn, hyper.syn_steps, iteration, dsa_of(task))
    target = experts.at(expert, start + hyper.expert_epochs)
    return Segment(experts.at(expert, start), {hyper.syn_steps: target}, steps, **more)


@torch.no_grad()
def logits_of(experts: Experts, vector: Tensor, images: Tensor) -> Tensor:
    """Logits [n, K] that weights [P] give to images [n, C, H, W] as they are."""
    return torch.cat([experts.network(vector, part) for part in images.split(_AT_ONCE)])


def student_of(task: Task, syn_lr: float, **changes: Any) -> StudentRecipe:
    """Student of the family: SGD with the learned step size, momentum 0.9, weight decay 5e-4, DSA, lr / 10 at half.

    Args:
        task: its network is the student.
        syn_lr: the learned step size.
        changes: of the recipe's fields.
    """
    fields: dict[str, Any] = {
        "network": task.network,
        "optimizer": {"name": "sgd", "lr": syn_lr, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"name": "step", "at": 0.5, "factor": 0.1},
        "augmentations": [{"name": "dsa", "ops": list(OPS), "align_corners": True, "crop_rounding": "floor"}],
        "epochs": 1000,
        "batch": 256,
    }
    recipe = StudentRecipe(**{**fields, **changes})
    return recipe.flipped(task.dataset.flip)


def soft_student(student: StudentRecipe, **changes: Any) -> StudentRecipe:
    """Change a student to train on the set's own soft labels: cross-entropy with softmax(logits)."""
    return student.model_copy(update={"loss": {"name": "soft-ce"}, "labels": "targets", **changes})


def soft_targets(logits: Tensor) -> Targets:
    """Targets of a SynSet for logits [n, K]."""
    return Targets("soft", {"form": "logits"}, {"labels": logits.detach().float().cpu().contiguous()})
