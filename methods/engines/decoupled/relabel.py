"""Relabel stage of the decoupled family: the teachers that label, stored or online, and the paper's own student."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator
from torch import Tensor

from ddbench.data.spaces import Space
from ddbench.distillation.labels import store_soft_labels
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.synset.label_compression import Packing
from ddbench.synset.synset import SynSet
from ddbench.synset.targets import committee
from ddbench.synset.teachers import Teacher
from ddbench.training.recipe import Component, StudentRecipe

from ..students import ShuffleFields
from .codecs import Codec

FAMILY_DIFFERENCES = (
    "the student's last step is scored; the papers' codes test every few epochs and report or keep the best",
    "teachers, images and students all use the data set's own normalization constants (pretrained teachers: theirs)",
    "learning rates follow their schedule by the step, not by the epoch; an epoch's short last batch opens the next epoch",
    "labels are made online by the teachers; labels = replay stores them as the papers' FKD files do, label_ratio and "
    "label_bytes keep some of them as LPLD does (ddbench.synset.label_compression)",
    "random crops are bilinear without antialiasing, in the image's space",
)


LATER = ("label_ratio", "label_bytes", "label_keep", "label_draw")
"""Fields that came later: not written where they have their default, so that older recipes keep their hash."""


class RelabelFields(ShuffleFields):
    """Training of students on the set, and the labels that they learn."""

    codec: Codec = Field(
        "jpeg75", description="how images are stored: float, uint8 or jpeg75 (as the papers' codes do)"
    )
    labels: Literal["online", "replay"] = Field("online", description="teachers asked online, or their logits stored")
    replay_encoding: Literal["fp16", "int8", "topk"] = Field("fp16", description="of stored logits")
    replay_topk: int | None = Field(None, ge=1, description="logits kept of a row, for topk")
    label_ratio: float | None = Field(
        None, ge=1, description="for replay: so many times fewer bytes than all labels in fp16, 1 / (1 - rho)"
    )
    label_bytes: int | None = Field(None, ge=1, description="for replay: bytes that labels may take, instead")
    label_keep: Literal["first", "random"] = Field("first", description="label batches kept where some are dropped")
    label_draw: Literal["uniform", "cycle"] = Field(
        "uniform", description="how a training takes them: one drawn for every step, or in turn"
    )
    label_bn: Literal["eval", "batch"] = Field("eval", description="statistics that the teachers' batch norms use")
    label_sub_batch: int | None = Field(None, ge=1, description="for batch: of so many images at a time; none: all")
    bn_batch: int | None = Field(
        None, ge=1, description="images that the student's batch norms see at a time; none: all"
    )
    temperature: float = Field(20.0, gt=0, description="of the KL divergence, T")
    squared: bool = Field(False, description="times T^2")

    @model_validator(mode="after")
    def _can_be_packed(self) -> Self:
        try:
            limited = self.packing().limited
        except UsageError as error:
            raise ValueError(f"stored labels: {error}") from error
        if limited and self.labels != "replay":
            raise ValueError("label_ratio and label_bytes go with labels = replay")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {name: type(self).model_fields[name].default for name in LATER}
        return {name: value for name, value in handler(self).items() if name not in LATER or value != defaults[name]}

    def packing(self) -> Packing:
        """Encoding and selection of stored labels."""
        return Packing(
            encoding=self.replay_encoding,
            topk=self.replay_topk,
            ratio=self.label_ratio,
            bytes=self.label_bytes,
            keep=self.label_keep,
            draw=self.label_draw,
        )

    def require_room(self, task: Task, images: int) -> None:
        """Raise UsageError where the labels of so many training images could not be stored; called before they are made."""
        if self.labels == "replay":
            self.packing().require_room(self.student_of(task), images, len(task.dataset.class_names))

    def stored(self, task: Task, synset: SynSet) -> SynSet:
        """A set whose teachers label online, with their labels stored as `labels` says."""
        return store_soft_labels(task, synset, self.packing())

    def student_of(self, task: Task) -> StudentRecipe:
        """Training of the student; its network is the task's."""
        loss: Component = {"name": "kl", "temperature": self.temperature, "squared": self.squared}
        return self.student(task, loss=loss, labels="targets", bn_batch=self.bn_batch)


def relabeled(
    task: Task,
    fields: RelabelFields,
    space: Space,
    teachers: Sequence[tuple[Teacher, float]],
    *,
    classes: Tensor,
    images: Tensor | None = None,
    **more: Any,
) -> SynSet:
    """Make the set with the student that the paper trains on it, and the teachers (with weights) that label for it.

    Args:
        task: that the set is made for.
        fields: how students learn.
        space: of the images.
        teachers: each with its weight; kept in the cache before.
        classes: int64 [n].
        images: [n, C, H, W] as the codec stores them (`codecs.stored`); or none, if `more` has indices.
        more: other fields of the set; `student_recipe` and `targets` replace the usual ones.
    """
    for teacher, weight in teachers:
        task.teachers.setdefault(teacher.hash, {})["label_weight"] = weight
    if images is not None:
        more |= {"images": images, "codec": fields.codec}
    own: dict[str, Any] = {
        "student_recipe": fields.student_of(task),
        "targets": committee(teachers, fields.label_bn, fields.label_sub_batch),
    }
    synset = task.synset(space=space, classes=classes, **{**own, **more})
    if fields.labels == "online":
        return synset
    if synset.targets is None or synset.targets.kind != "teachers":
        raise UsageError(
            f"labels = {fields.labels} stores what teachers say online: this set's labels are stored already"
        )
    return fields.stored(task, synset)
