"""Targets: what a SynSet offers a student besides classes. A kind is a plugin of the group `ddbench.targets`.

A kind checks its own content, says what it weighs, and binds to a training as a function from a batch to logits, or to
what else a loss compares with.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from ddbench import plugins
from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.training.batch_schedule import BatchSchedule, Labeller

if TYPE_CHECKING:
    from ddbench.synset.teachers import Recall, Teacher

GROUP = "ddbench.targets"

__all__ = ["Binding", "TargetKind", "Targets", "committee", "find_target_kind", "online_teacher", "targets_of"]


@dataclass(frozen=True)
class Binding:
    """Use of targets in a training.

    Attributes:
        synset: the set.
        dataset: its data set.
        device: of the training.
        recall: gives a teacher by its hash; None: those in the cache.
    """

    synset: SynSet
    dataset: Dataset
    device: torch.device
    recall: "Recall | None" = None


class TargetKind(ABC):
    """One kind of targets."""

    @abstractmethod
    def check(self, synset: SynSet) -> None:
        """Raise UsageError unless the set's targets are well formed: parameters, shapes, ranges."""

    @abstractmethod
    def bind(self, binding: Binding) -> Labeller:
        """Make the function that gives a batch's logits [b, K], or `SoftLabels` with what else a loss reads."""

    @abstractmethod
    def bytes(self, synset: SynSet) -> dict[str, int]:
        """Count what a student needs for these targets, in bytes: "targets" (stored) and "external" (models)."""

    def teachers(self, synset: SynSet) -> list["Teacher"]:
        """Teachers that these targets ask; none for stored labels."""
        return []

    def schedule(self, synset: SynSet) -> BatchSchedule | None:
        """Batches that a student must see, where the labels are of no others; None: any."""
        return None


def find_target_kind(name: str) -> TargetKind:
    """Target kind registered under a name; UsageError if there is none."""
    return plugins.find_a(TargetKind, GROUP, name)


def targets_of(synset: SynSet) -> tuple[TargetKind, Targets]:
    """Kind of a set's targets and the targets, checked; UsageError if the set has none."""
    if synset.targets is None:
        raise UsageError("the set has no targets besides its classes")
    kind = find_target_kind(synset.targets.kind)
    kind.check(synset)
    return kind, synset.targets


def online_teacher(teacher: "Teacher") -> Targets:
    """Targets that ask one teacher, with weight 1. The teacher must be in the cache (`ddbench.synset.teachers.keep`)."""
    return committee([(teacher, 1.0)])


def committee(
    teachers: Sequence[tuple["Teacher", float]], bn: Literal["eval", "batch"] = "eval", sub_batch: int | None = None
) -> Targets:
    """Targets that ask teachers online and add their logits up.

    Args:
        teachers: each with its weight; they must be in the cache (`ddbench.synset.teachers.keep`).
        bn: what batch norms of a teacher normalize by: their running statistics, or those of the batch at hand.
        sub_batch: for "batch": those of so many images at a time; None: of the whole batch.
    """
    params: dict[str, Any] = {
        "teachers": [{"hash": teacher.hash, "weight": float(weight)} for teacher, weight in teachers]
    }
    if bn != "eval":  # what is left out says eval, so that sets which came before keep their hash
        params["bn"] = bn
    if sub_batch is not None:
        params["sub_batch"] = sub_batch
    return Targets("teachers", params)


def own_targets(synset: SynSet) -> Targets:
    """Set's targets, which its kind has been asked about."""
    assert synset.targets is not None
    return synset.targets
