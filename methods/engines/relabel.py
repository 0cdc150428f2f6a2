"""The relabel stage of the decoupled family, and the student that a set ships: the paper's post-evaluation as data."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from ddbench.errors import UsageError
from ddbench.space import Space
from ddbench.student_recipe import Component, StudentRecipe
from ddbench.synset import SynSet
from ddbench.targets import committee
from ddbench.targets.replay import require_room
from ddbench.task import Task
from ddbench.teachers import Teacher

from .codecs import Codec
from .students import StudentFields

FAMILY_DIFFERENCES = (
    "the student's last step is scored; the papers' codes test every few epochs and report or keep the best",
    "teachers, images and students all use the data set's own normalisation constants (pretrained teachers: theirs)",
    "learning rates follow their schedule by the step, not by the epoch; an epoch's short last batch opens the next epoch",
    "labels are made online by the teachers; labels = replay stores them as the papers' FKD files do",
    "random crops are bilinear without antialiasing, in the image's space",
)


class RelabelFields(StudentFields):
    """How students learn from the set, and who labels for them."""

    codec: Codec = Field(
        "jpeg75", description="how images are stored: float, uint8 or jpeg75 (as the papers' codes do)"
    )
    labels: Literal["online", "replay"] = Field("online", description="teachers asked online, or their logits stored")
    replay_encoding: Literal["fp16", "int8", "topk"] = Field("fp16", description="of stored logits")
    replay_topk: int | None = Field(None, ge=1, description="logits kept of a row, for topk")
    label_bn: Literal["eval", "batch"] = Field("eval", description="statistics that the teachers' batch norms use")
    label_sub_batch: int | None = Field(None, ge=1, description="for batch: of so many images at a time; none: all")
    bn_batch: int | None = Field(
        None, ge=1, description="images that the student's batch norms see at a time; none: all"
    )
    temperature: float = Field(20.0, gt=0, description="of the KL divergence, T")
    squared: bool = Field(False, description="times T^2")
    shuffle: int = Field(1, ge=1, description="tiles on a side that are shuffled in every image; 1: none (RDED)")

    @model_validator(mode="after")
    def _kept_logits(self) -> Self:
        if (self.replay_encoding == "topk") != (self.replay_topk is not None):
            raise ValueError("replay_topk, how many logits to keep, goes with replay_encoding = topk")
        return self

    def require_room(self, task: Task, images: int) -> None:
        """UsageError where the labels of so many training images could not be stored; asked before they are made."""
        if self.labels == "replay":
            classes = len(task.dataset.class_names)
            require_room(self.student_of(task), images, classes, self.replay_encoding, self.replay_topk)

    def stored(self, task: Task, synset: SynSet) -> SynSet:
        """A set whose teachers label online, with their labels stored as `labels` says."""
        return task.replayed(synset, encoding=self.replay_encoding, topk=self.replay_topk)

    def student_of(self, task: Task) -> StudentRecipe:
        """The student's training; its network is the task's."""
        loss: Component = {"name": "kl", "temperature": self.temperature, "squared": self.squared}
        return self.student(task, loss=loss, labels="targets", bn_batch=self.bn_batch)

    def _augmentations(self) -> list[Component]:
        shuffled: list[Component] = [{"name": "shuffle-patches", "factor": self.shuffle}] if self.shuffle > 1 else []
        return [*shuffled, *super()._augmentations()]


def relabelled(
    task: Task,
    fields: RelabelFields,
    space: Space,
    teachers: Sequence[tuple[Teacher, float]],
    *,
    classes: Tensor,
    images: Tensor | None = None,
    **more: Any,
) -> SynSet:
    """The set with the student that the paper trains on it, and the teachers (with weights) that label for it.

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
