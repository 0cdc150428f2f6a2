"""Weak teachers: snapshots along one training on the whole split, whose logits a projector is fitted to (HeLlO).

Each snapshot is an entry of the stage "weak-teachers", by its epoch; the key says how the training goes, not which of
its epochs are read, so that recipes that read other epochs share those that are there.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ddbench.distillation.task import Task
from ddbench.errors import JobFailed
from ddbench.hashing import digest
from ddbench.networks import canonical
from ddbench.randomness import rng, seed_of
from ddbench.synset.teachers import Teacher
from ddbench.system.code import SYNTHESIS
from ddbench.training.batch_schedule import Batch, Labeller
from ddbench.training.cache import Cache
from ddbench.training.loop import train

from ..decoupled.squeeze import SqueezeFields

CODE_VERSION = 1  # raise when a change here changes what a snapshot is; a test pins the source
Combination = Literal["mean", "random"]


class WeakFields(SqueezeFields):
    """Trajectory and its snapshots; the training is that of `teacher_...`."""

    weights: Literal["trained"] = Field("trained", description="of networks that are trained here")
    weak_network: str | None = Field(None, description="network of the trajectory; none: the distillation network")
    snapshots: int = Field(9, ge=1, description="weak teachers, evenly spaced over the epochs below")
    snapshot_first: int = Field(1, ge=1, description="epoch after which the first is taken, counted from 1")
    snapshot_last: int | None = Field(None, ge=1, description="and the last; none: the last of the training")
    combine: Combination = Field("mean", description="Y' of a batch: the mean of their logits, or one's at random")

    @model_validator(mode="after")
    def _enough_epochs(self) -> Self:
        last = self.snapshot_last or self.teacher_epochs
        if last > self.teacher_epochs or last - self.snapshot_first + 1 < self.snapshots:
            raise ValueError(
                f"{self.snapshots} snapshots do not fit epochs {self.snapshot_first} to {last} of {self.teacher_epochs}"
            )
        return self

    def snapshot_epochs(self) -> list[int]:
        """Epochs after which snapshots are taken, rising; one alone is the last."""
        first, last = self.snapshot_first, self.snapshot_last or self.teacher_epochs
        if self.snapshots == 1:
            return [last]
        return [first + round(i * (last - first) / (self.snapshots - 1)) for i in range(self.snapshots)]


def weak_teachers(task: Task, fields: WeakFields) -> list[Teacher]:
    """Make or find the snapshots, oldest first; an interrupted training is resumed.

    Raises:
        UsageError: an unknown network.
        JobFailed: the training diverged.
    """
    name = canonical(fields.weak_network or task.network, side=task.dataset.side)
    recipe, space, epochs = fields.teacher_recipe(name), task.space("normalised"), fields.snapshot_epochs()
    recipe = recipe.flipped(task.dataset.flip)
    key = {
        "recipe": recipe.model_dump(mode="json"),
        "space": space.to_json(),
        "code": [CODE_VERSION, SYNTHESIS],
    }
    stage = task.open_cache("weak-teachers", key)
    have = {epoch: _snapshot(task, stage, epoch) for epoch in epochs}
    if lacking := [epoch for epoch in epochs if have[epoch] is None]:
        with stage.locked():
            missing = [epoch for epoch in lacking if _snapshot(task, stage, epoch) is None]
            if missing:
                _Trajectory(task, stage, recipe.network, missing).train(recipe, space)
        have |= {epoch: _snapshot(task, stage, epoch) for epoch in lacking}
    snapshots = []
    for epoch, teacher in have.items():
        assert teacher is not None
        snapshots.append(teacher)
        credited: Callable[[], Teacher] = partial(_known, task, teacher.hash)
        task.log_teacher(f"weak teacher {epoch}", credited, role="weak teacher", epoch=epoch)
    return snapshots


def _entry(epoch: int) -> str:
    return f"epoch-{epoch:05d}"


def _snapshot(task: Task, stage: Cache, epoch: int) -> Teacher | None:
    product = stage.load(_entry(epoch))
    return task.recall_teacher(product.info["teacher"]) if product else None


def _known(task: Task, wanted: str) -> Teacher:
    teacher = task.recall_teacher(wanted)
    assert teacher is not None
    return teacher


class _Trajectory:
    """A training that leaves snapshots after the epochs that are missing, and ends with the last of them."""

    def __init__(self, task: Task, stage: Cache, name: str, missing: Sequence[int]) -> None:
        self.task, self.stage, self.name, self.missing = task, stage, name, list(missing)
        self.network = task.create_stage_network("weak-teachers", name=name).to(task.device)

    def train(self, recipe: Any, space: Any) -> None:
        """Train and take them."""
        images, labels = self.task.images(space), self.task.dataset.labels.to(self.task.device)
        size = min(recipe.batch, len(images))
        total = recipe.steps(len(images))
        due = {epoch: min(math.ceil(epoch * len(images) / size), total) for epoch in self.missing}
        checkpoint = self.stage.checkpoint("training")
        state = checkpoint.load()
        if isinstance(state, dict) and state["step"] > min(due.values()):
            checkpoint.clear()  # of a training that is past what is missing
        left = sorted(due, key=lambda epoch: due[epoch])

        def take(step: int) -> None:
            while left and due[left[0]] <= step:
                self._keep(left.pop(0), space)

        def loop(start: int, steps: int) -> Iterator[int]:
            for step in self.task.loop(start, steps, f"training weak teachers, {self.name}"):
                take(step)  # before the step: a checkpoint is made at the end of one
                if not left:
                    return
                yield step
            take(steps)

        seed = seed_of(self.task.stage_seed, "weak-teachers")
        train(self.network, images, labels, recipe, seed=seed, loop=loop, checkpoint=checkpoint)
        checkpoint.clear()

    def _keep(self, epoch: int, space: Any) -> None:
        key, state = digest([self.stage.key, epoch]), self.network.state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise JobFailed(f"diverged: a weak teacher's weights are not finite after epoch {epoch}; lower teacher_lr")
        teacher = self.task.teacher(self.name, space, key, state)
        self.stage.save(_entry(epoch), {}, {"teacher": self.task.keep_teacher(teacher)})


def weak_labels(task: Task, teachers: Sequence[Teacher], combine: Combination) -> Labeller:
    """Y' [b, K] of a batch in the teachers' space: the mean of all logits, or those of one, drawn for each step."""
    modules = [teacher.module(task.device) for teacher in teachers]

    @torch.no_grad()
    def label(batch: Batch) -> Tensor:
        if combine == "random":
            number = int(torch.randint(len(modules), (), generator=rng(task.stage_seed, "weak", batch.step)))
            logits: Tensor = modules[number](batch.images)
            return logits
        return torch.stack([module(batch.images) for module in modules]).mean(0)

    return label
