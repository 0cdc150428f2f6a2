"""Squeeze stage of the decoupled family: teachers, trained on the whole training split or taken with their weights.

Each teacher is an entry of the stage "squeeze": an interrupted committee is resumed member by member, and an interrupted
teacher at its last checkpoint. The space that it reads is stored with it. Everything is keyed by the stage
seed: all synthesis seeds share their teachers.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from ddbench.data.spaces import Space
from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.hashing import digest
from ddbench.randomness import forked, rng
from ddbench.synset.teachers import Teacher
from ddbench.system.code import SYNTHESIS
from ddbench.training.loop import train
from ddbench.training.recipe import StudentRecipe

from ..pretrained import pretrained
from ..students import cosine, optimizer, random_crop

ENTRY = "teacher"
Weights = Literal["trained", "pretrained", "random"]


class SqueezeFields(Hyper):
    """Training of teachers."""

    weights: Weights = Field(
        "trained", description="trained here, pretrained (the library's, by torchvision: or timm: name), or random"
    )
    teacher_optimizer: Literal["sgd", "adam"] = Field("sgd", description="sgd has momentum 0.9")
    teacher_lr: float = Field(0.1, gt=0, description="step size")
    teacher_weight_decay: float = Field(5e-4, ge=0, description="L2, on every parameter")
    teacher_epochs: int = Field(200, ge=1, description="passes over the training split")
    teacher_batch: int = Field(128, ge=1, description="images in a step")
    teacher_stretch: float = Field(1.0, gt=0, description="of the cosine: 1 ends at 0; 1/3 goes down, up and down")
    teacher_warmup: int = Field(0, ge=0, description="epochs of linear warm-up from 0.01 times the step size")
    teacher_crop: Literal["pad", "resized"] = Field("pad", description="crop after padding, or random resized crop")
    teacher_pad: float = Field(0.125, ge=0, lt=1, description="padding, as a share of the side")

    @model_validator(mode="after")
    def _one_teacher_schedule(self) -> Self:
        if self.teacher_warmup and self.teacher_stretch != 1:
            raise ValueError("teacher_warmup ends in a cosine to 0: teacher_stretch must be 1 beside it")
        return self

    def teacher_recipe(self, network: str) -> StudentRecipe:
        """Training of one teacher."""
        return StudentRecipe(
            network=network,
            optimizer=optimizer(self.teacher_optimizer, self.teacher_lr, self.teacher_weight_decay),
            schedule=cosine(self.teacher_stretch, self.teacher_warmup),
            augmentations=[*random_crop(self.teacher_crop, self.teacher_pad), {"name": "flip", "p": 0.5}],
            epochs=self.teacher_epochs,
            batch=self.teacher_batch,
        )


def squeeze(task: Task, fields: SqueezeFields, names: Sequence[str]) -> dict[str, Teacher]:
    """Train or find the teachers with these canonical network names; a holdout comes before.

    Their accuracies on the test split are measured by the runner when the method is done, and shown.

    Raises:
        UsageError: weights that cannot be had.
        JobFailed: a teacher diverged.
    """
    teachers = {name: _teacher(task, fields, name) for name in dict.fromkeys(names)}
    if len({teacher.space for teacher in teachers.values()}) > 1:
        raise UsageError(
            f"the teachers {', '.join(teachers)} read different spaces: choose weights of one normalization"
        )
    for name in teachers:
        task.log_teacher(f"teacher {name}", partial(teachers.__getitem__, name), role="teacher", weights=fields.weights)
    return teachers


def _teacher(task: Task, fields: SqueezeFields, name: str) -> Teacher:
    recipe = fields.teacher_recipe(name)
    recipe = recipe.flipped(task.dataset.flip)
    key: dict[str, Any] = {"network": name, "weights": fields.weights, "code": SYNTHESIS}
    if fields.weights != "pretrained":
        key["space"] = task.space("normalised").to_json()
    if fields.weights == "trained":
        key["recipe"] = recipe.model_dump(mode="json")
    stage = task.open_cache("squeeze", key)

    def loop(start: int, total: int) -> Iterator[int]:
        return task.loop(start, total, f"squeezing {name}")

    def make() -> Teacher:
        if fields.weights == "pretrained":
            data = task.dataset
            shape = {"channels": data.channels, "side": data.side, "classes": len(data.class_names)}
            network, space = pretrained(name, **shape)
        else:
            network, space = task.create_stage_network("squeeze", name, name=name), task.space("normalised")
            network.to(task.device)
            if fields.weights == "trained":
                images, labels = task.images(space), task.dataset.labels.to(task.device)
                checkpoint = stage.checkpoint(ENTRY)
                train(network, images, labels, recipe, seed=task.stage_seed, loop=loop, checkpoint=checkpoint)
            else:
                _measure_statistics(task, network, space)
        return task.teacher(name, space, digest(stage.key), network.state_dict())

    return task.cached_teacher(stage, ENTRY, make)


def _measure_statistics(task: Task, network: nn.Module, space: Space) -> None:
    """Give an untrained network the batch statistics of some training images: for trying the pipeline only."""
    count = len(task.dataset.labels)
    places = torch.randperm(count, generator=rng(task.stage_seed, "random-weights"))[:64]
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0  # the statistics of these images alone
    with torch.no_grad(), forked(task.stage_seed, "random-weights"):  # dropout draws
        network.train()(task.read(space, places))
