"""A method's own training recipe for students, as hyper-parameters."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from ddbench.distillation.method import Hyper
from ddbench.distillation.task import Task
from ddbench.training.recipe import Component, StudentRecipe


class StudentFields(Hyper):
    """Training of students on the set."""

    student_optimizer: Literal["adamw", "sgd"] = Field("adamw", description="sgd has momentum 0.9")
    student_lr: float = Field(1e-3, gt=0, description="step size")
    student_weight_decay: float = Field(0.01, ge=0, description="of the optimizer")
    decay_all: bool = Field(False, description="adamw decays biases and norms too")
    student_epochs: int = Field(300, ge=1, description="passes over the training images")
    student_batch: int = Field(ge=1, description="images in a step; at most all")
    eta: float = Field(1.0, gt=0, description="stretch of the cosine: 1 ends at 0, 2 at half of the step size")
    student_warmup: int = Field(0, ge=0, description="epochs of linear warm-up from 0.01 times the step size")
    mix: Literal["cutmix", "mixup", "none"] = Field("cutmix", description="of every batch")
    mix_alpha: float = Field(1.0, gt=0, description="of its Beta distribution")
    student_crop: Literal["resized", "pad", "none"] = Field("resized", description="random resized crop, or of padding")
    student_crop_low: float = Field(0.08, gt=0, le=1, description="smallest share of the area in a resized crop")
    student_pad: float = Field(0.125, ge=0, lt=1, description="padding, as a share of the side")

    @model_validator(mode="after")
    def _one_student_schedule(self) -> Self:
        if self.student_warmup and self.eta != 1:
            raise ValueError("student_warmup ends in a cosine to 0: eta must be 1 beside it")
        return self

    def student(self, task: Task, **more: Any) -> StudentRecipe:
        """Training of the student; its network is the task's, `more` are other fields of the recipe."""
        own: dict[str, Any] = {
            "network": task.network,
            "optimizer": self._optimizer(),
            "schedule": self._schedule(),
            "augmentations": self._augmentations(),
            "mix": None if self.mix == "none" else {"name": self.mix, "alpha": self.mix_alpha},
            "epochs": self.student_epochs,
            "batch": self.student_batch,
        }
        recipe = StudentRecipe(**{**own, **more})
        return recipe.flipped(task.dataset.flip)

    def _optimizer(self) -> Component:
        made = optimizer(self.student_optimizer, self.student_lr, self.student_weight_decay)
        return made if self.student_optimizer == "sgd" else {**made, "decay_all": self.decay_all}

    def _schedule(self) -> Component:
        return cosine(self.eta, self.student_warmup)

    def _augmentations(self) -> list[Component]:
        crop = random_crop(self.student_crop, self.student_pad, scale=[self.student_crop_low, 1.0])
        return [*crop, {"name": "flip", "p": 0.5}]


class ShuffleFields(StudentFields):
    """Training of students on images whose tiles are shuffled (RDED)."""

    shuffle: int = Field(1, ge=1, description="tiles on a side that are shuffled in every image; 1: none (RDED)")

    def _augmentations(self) -> list[Component]:
        shuffled: list[Component] = [{"name": "shuffle-patches", "factor": self.shuffle}] if self.shuffle > 1 else []
        return [*shuffled, *super()._augmentations()]


class RealStudentFields(StudentFields):
    """Training of students on real images; the defaults are the pruning papers'."""

    student_optimizer: Literal["adamw", "sgd"] = Field("sgd", description="sgd has momentum 0.9")
    student_lr: float = Field(0.1, gt=0, description="step size")
    student_weight_decay: float = Field(5e-4, ge=0, description="of the optimizer")
    student_epochs: int = Field(200, ge=1, description="passes over the training images")
    student_batch: int = Field(128, ge=1, description="images in a step; at most all")
    student_steps: int | None = Field(None, ge=1, description="steps instead of student_epochs, however small the set")
    student_end: float = Field(0.0, ge=0, le=1, description="share of the step size that the cosine ends at")
    nesterov: bool = Field(False, description="of sgd's momentum")
    mix: Literal["cutmix", "mixup", "none"] = Field("none", description="of every batch")
    student_crop: Literal["resized", "pad", "none"] = Field("pad", description="random resized crop, or of padding")

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.student_end and (self.student_warmup or self.eta != 1):
            raise ValueError("student_end is where a plain cosine ends: neither student_warmup nor eta beside it")
        return self

    def student(self, task: Task, **more: Any) -> StudentRecipe:
        """See the base class; a number of steps is so many, whatever the set's size."""
        if self.student_steps is not None:
            more = {"epochs": MANY_EPOCHS, "max_steps": self.student_steps, **more}
        return super().student(task, **more)

    def _optimizer(self) -> Component:
        return {**super()._optimizer(), **({"nesterov": True} if self.nesterov else {})}

    def _schedule(self) -> Component:
        if self.student_end:
            return {"name": "cosine", "stretch": 1.0, "end": self.student_end}
        return super()._schedule()


MANY_EPOCHS = 1_000_000  # the most that a recipe may say: the number of steps ends the training


def optimizer(name: str, lr: float, weight_decay: float) -> Component:
    """An optimizer; sgd has momentum 0.9."""
    return {"name": name, "lr": lr, "weight_decay": weight_decay, **({"momentum": 0.9} if name == "sgd" else {})}


def random_crop(kind: str, pad: float = 0.125, **resized: Any) -> list[Component]:
    """Crop that a hyper-parameter names: "resized" (options `resized`), "pad" by a share of the side, or "none"."""
    crops: dict[str, list[Component]] = {
        "resized": [{"name": "random-resized-crop", **resized}],
        "pad": [{"name": "pad-crop", "fraction": pad}],
        "none": [],
    }
    return crops[kind]


def cosine(stretch: float, warmup: int) -> Component:
    """A cosine over `stretch` times the steps, or one to 0 after `warmup` epochs from 0.01 times the step size."""
    if warmup:
        return {"name": "warmup-cosine", "epochs": float(warmup), "start": 0.01}
    return {"name": "cosine", "stretch": stretch}
