"""Post-training recipe: the training of a student as data, which every protocol resolves to and a SynSet may ship."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from ddbench.hashing import digest

Component = dict[str, Any]
DSA_OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")  # what "dsa" without ops means
UNWRITTEN = ("bn_batch",)  # fields that came later: not written where they are None, so that older hashes stay valid


class StudentRecipe(BaseModel):
    """Training of one student, last step scored.

    Losses, schedules, optimizers and augmentations are registered names with parameters, written as
    `{"name": "sgd", "lr": 0.01}`; what a name allows is checked when the recipe is bound to a training.

    Attributes:
        network: name of the student network.
        optimizer: "sgd", "adam" or "adamw" with lr and so on.
        schedule: of the learning rate, over the steps.
        loss: see `ddbench.training.losses`.
        labels: what the loss compares with: the set's "classes", its "targets", or the reference "teacher".
        augmentations: in the order of their application.
        mix: CutMix or MixUp of every batch, or none.
        epochs: passes over the training images.
        max_steps: upper limit on the number of optimizer steps.
        batch: images in a step; a smaller set is one batch.
        bn_batch: batch norms normalize groups of so many images; None: the whole batch.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    network: str
    optimizer: Component
    schedule: Component = {"name": "constant"}
    loss: Component = {"name": "ce"}
    labels: Literal["classes", "targets", "teacher"] = "classes"
    augmentations: list[Component] = []
    mix: Component | None = None
    epochs: int = Field(ge=1, le=1_000_000)
    max_steps: int | None = Field(None, ge=1)
    batch: int = Field(ge=1)
    bn_batch: int | None = Field(None, ge=1)

    @field_validator("optimizer", "schedule", "loss", "mix")
    @classmethod
    def _named(cls, value: Component | None) -> Component | None:
        if value is not None and not isinstance(value.get("name"), str):
            raise ValueError('must be a component such as {"name": "sgd", ...}')
        return value

    @field_validator("augmentations")
    @classmethod
    def _all_named(cls, value: list[Component]) -> list[Component]:
        for component in value:
            cls._named(component)
        return value

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain = handler(self)
        return {name: value for name, value in plain.items() if value is not None or name not in UNWRITTEN}

    def steps(self, images: int) -> int:
        """Optimiser steps on a set of that many training images: epochs x images / batch, at least 1, at most max_steps."""
        batch = min(self.batch, images)
        total = max(1, self.epochs * images // batch)
        return min(total, self.max_steps or total)

    def hash(self) -> str:
        """SHA-256 of the recipe as canonical JSON."""
        return digest(self.model_dump(mode="json"))

    def flipped(self, flip: bool) -> "StudentRecipe":
        """This recipe, or the one without flips, as a data set bears them or not."""
        return self if flip else self.without_flip()

    def without_flip(self) -> "StudentRecipe":
        """Same recipe without horizontal flips: for data sets where a flip changes the class."""
        kept = []
        for a in self.augmentations:
            if a["name"] == "dsa":
                kept.append({**a, "ops": [op for op in a.get("ops") or DSA_OPS if op != "flip"]})
            elif a["name"] != "flip":
                kept.append(a)
        return self.model_copy(update={"augmentations": kept})
