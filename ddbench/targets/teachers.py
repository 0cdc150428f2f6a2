"""`teachers`: labels made online by named teachers, for the images as the student sees them."""

from typing import Any

import torch

from ddbench.errors import UsageError
from ddbench.space import transform_for
from ddbench.student import Batch, Labeller
from ddbench.synset import SynSet
from ddbench.targets import Binding, TargetKind
from ddbench.teachers import Teacher, require


class Teachers(TargetKind):
    """Weighted sum of the logits of teachers in eval mode.

    Params: `teachers`, a list of {"hash": ..., "weight": ...}; no tensors. The weights of the networks are not in the
    set: they count as external bytes and are found by hash.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        assert synset.targets is not None
        named = synset.targets.params.get("teachers")
        if set(synset.targets.params) != {"teachers"} or not isinstance(named, list) or not named:
            raise UsageError("teachers targets: params must be a list `teachers` that is not empty")
        if synset.targets.tensors:
            raise UsageError("teachers targets hold no tensors")
        for entry in named:
            if not _well_formed(entry):
                raise UsageError(f"teachers targets: {entry!r} is not a hash with a weight above 0")

    def bind(self, binding: Binding) -> Labeller:
        """Each teacher sees the batch mapped from the set's space into its own, without gradients."""
        own = transform_for(binding.synset.space, binding.dataset).to(binding.device)
        committee = []
        for teacher, weight in _committee(binding.synset):
            if teacher.class_names != binding.synset.class_names:
                raise UsageError(f"teacher {teacher.hash[:12]} knows other classes, or in another order, than the set")
            theirs = transform_for(teacher.space, binding.dataset).to(binding.device)
            same = teacher.space == binding.synset.space
            committee.append((teacher.module(binding.device), weight, None if same else theirs))

        @torch.no_grad()
        def label(batch: Batch) -> torch.Tensor:
            total = torch.zeros((), device=batch.images.device)
            for module, weight, theirs in committee:
                seen = batch.images if theirs is None else theirs.encode(own.decode(batch.images))
                total = total + weight * module(seen)
            return total

        return label

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """See the base class."""
        return {"external": sum(teacher.bytes() for teacher, _ in _committee(synset))}

    def teachers(self, synset: SynSet) -> list[Teacher]:
        """See the base class."""
        return [teacher for teacher, _ in _committee(synset)]


def _well_formed(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {"hash", "weight"}:
        return False
    weight = entry["weight"]
    return isinstance(entry["hash"], str) and len(entry["hash"]) == 64 and isinstance(weight, float) and weight > 0


def _committee(synset: SynSet) -> list[tuple[Teacher, float]]:
    assert synset.targets is not None
    return [(require(entry["hash"]), entry["weight"]) for entry in synset.targets.params["teachers"]]


TEACHERS = Teachers()
