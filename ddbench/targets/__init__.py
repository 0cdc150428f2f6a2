"""Targets: what a SynSet offers a student besides classes. A kind is a plugin of the group `ddbench.targets`.

A kind checks its own content, says what it weighs, and binds to a training as a function from a batch to logits.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ddbench import plugins
from ddbench.data import Dataset
from ddbench.errors import UsageError
from ddbench.student import Labeller
from ddbench.synset import SynSet, Targets

if TYPE_CHECKING:
    from ddbench.teachers import Teacher

GROUP = "ddbench.targets"

__all__ = ["Binding", "TargetKind", "Targets", "find_target_kind", "online_teacher", "targets_of"]


@dataclass(frozen=True)
class Binding:
    """Where targets are used: the set, its data set, and the device of the training."""

    synset: SynSet
    dataset: Dataset
    device: torch.device


class TargetKind(ABC):
    """One kind of targets."""

    @abstractmethod
    def check(self, synset: SynSet) -> None:
        """Raise UsageError unless the set's targets are well formed: parameters, shapes, ranges."""

    @abstractmethod
    def bind(self, binding: Binding) -> Labeller:
        """The function that gives a batch's logits [b, K]."""

    @abstractmethod
    def bytes(self, synset: SynSet) -> dict[str, int]:
        """What a student needs for these targets, in bytes: "targets" (stored) and "external" (models)."""

    def teachers(self, synset: SynSet) -> list["Teacher"]:
        """The teachers that these targets ask; none for stored labels."""
        return []


def find_target_kind(name: str) -> TargetKind:
    """The target kind registered under a name; UsageError if there is none."""
    kind = plugins.find(GROUP, name)
    if not isinstance(kind, TargetKind):
        raise UsageError(f"target kind {name!r}: its entry point gives {type(kind).__name__}, not a TargetKind")
    return kind


def targets_of(synset: SynSet) -> tuple[TargetKind, Targets]:
    """The kind of a set's targets and the targets, checked; UsageError if the set has none."""
    if synset.targets is None:
        raise UsageError("the set has no targets besides its classes")
    kind = find_target_kind(synset.targets.kind)
    kind.check(synset)
    return kind, synset.targets


def online_teacher(teacher: "Teacher") -> Targets:
    """Targets that ask one teacher, with weight 1. The teacher must be in the cache (`ddbench.teachers.keep`)."""
    return Targets("teachers", {"teachers": [{"hash": teacher.hash, "weight": 1.0}]})
