"""`teachers`: labels made online by named teachers, for the images as the student sees them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ddbench.data.spaces import transform_for
from ddbench.errors import UsageError
from ddbench.hashing import is_digest
from ddbench.networks.ghost_batch_norm import use_ghost_batch_norm
from ddbench.randomness import forked
from ddbench.synset.synset import SynSet
from ddbench.synset.targets import Binding, TargetKind
from ddbench.synset.teachers import Recall, Teacher, require
from ddbench.training.batch_schedule import Batch

BN_MODES = ("eval", "batch")


class Teachers(TargetKind):
    """Weighted sum of the logits of teachers.

    Params: `teachers`, a list of {"hash": ..., "weight": ...}; no tensors. The weights of the networks are not in the
    set: they count as external bytes and are found by hash. `bn` may be left out: "eval", teachers in eval mode; or
    "batch", teachers in train mode, whose batch norms normalize by the batch that they are asked about (SRe2L on CIFAR,
    CV-DD), or with `sub_batch` by so many images of it at a time; dropout then acts too, keyed by the batch.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        assert synset.targets is not None
        if synset.targets.tensors:
            raise UsageError("teachers targets hold no tensors")
        check_params(synset.targets.params)

    def bind(self, binding: Binding) -> Callable[[Batch], Tensor]:
        """Each teacher sees the batch mapped from the set's space into its own, without gradients."""
        assert binding.synset.targets is not None
        by_batch = binding.synset.targets.params.get("bn") == "batch"
        own = transform_for(binding.synset.space, binding.dataset).to(binding.device)
        committee: list[tuple[Callable[[Tensor], Tensor], float, Any]] = []
        for teacher, weight in _committee(binding.synset, binding.recall):
            if teacher.class_names != binding.synset.class_names:
                raise UsageError(f"teacher {teacher.hash[:12]} knows other classes, or in another order, than the set")
            theirs = transform_for(teacher.space, binding.dataset).to(binding.device)
            same = teacher.space == binding.synset.space
            committee.append((_asked(teacher, binding), weight, None if same else theirs))

        @torch.no_grad()
        def label(batch: Batch) -> Tensor:
            total = torch.zeros((), device=batch.images.device)
            for ask, weight, theirs in committee:
                seen = batch.images if theirs is None else theirs.encode(own.decode(batch.images))
                total = total + weight * ask(seen)
            return total

        def label_by_batch(batch: Batch) -> Tensor:
            with forked(batch.seed, "labels", batch.step):
                return label(batch)

        return label_by_batch if by_batch else label

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """See the base class."""
        return {"external": sum(teacher.bytes() for teacher, _ in _committee(synset))}

    def teachers(self, synset: SynSet) -> list[Teacher]:
        """See the base class."""
        return [teacher for teacher, _ in _committee(synset)]


def check_params(params: Any) -> None:
    """Raise UsageError unless `params` are those of targets of this kind."""
    named = params.get("teachers") if isinstance(params, dict) else None
    if not isinstance(named, list) or not named or set(params) - {"bn", "sub_batch"} != {"teachers"}:
        raise UsageError(
            "teachers targets: params must be a list `teachers` that is not empty, and bn, sub_batch or neither"
        )
    for entry in named:
        match entry:
            case {"hash": key, "weight": float(weight), **more} if is_digest(key) and weight > 0 and not more:
                continue
        raise UsageError(f"teachers targets: {entry!r} is not a hash with a weight above 0")
    if params.get("bn", "eval") not in BN_MODES:
        raise UsageError(f"teachers targets: bn must be eval or batch, not {params['bn']!r}")
    sub_batch = params.get("sub_batch", 1)
    if type(sub_batch) is not int or sub_batch < 1 or ("sub_batch" in params and params.get("bn") != "batch"):
        raise UsageError("teachers targets: sub_batch must be a whole number above 0, and goes with bn = batch")


def _committee(synset: SynSet, recall: Recall | None = None) -> list[tuple[Teacher, float]]:
    assert synset.targets is not None
    named = [(entry["hash"], entry["weight"]) for entry in synset.targets.params["teachers"]]
    return [((recall(key) if recall else None) or require(key), weight) for key, weight in named]


def _asked(teacher: Teacher, binding: Binding) -> Callable[[Tensor], Tensor]:
    """Teacher as a function of images, in the mode that the targets say; the network is its own, not shared."""
    assert binding.synset.targets is not None
    params, module = binding.synset.targets.params, teacher.module(binding.device)
    if params.get("bn", "eval") == "eval":
        return module
    module.train()
    sub_batch = params.get("sub_batch")
    if sub_batch is None:
        return module
    if _only_norms_care(module, (2, teacher.channels, teacher.side, teacher.side), binding.device):
        use_ghost_batch_norm(module, sub_batch)
        return module
    return lambda images: torch.cat([module(part) for part in images.split(sub_batch)])


@torch.no_grad()
def _only_norms_care(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> bool:
    """Tell whether a network in train mode draws nothing and has no batch norms but 2-D ones: then grouping those is exact."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not all(isinstance(norm, nn.BatchNorm2d) for norm in norms):
        return False
    with forked(0, "draws"):
        before = _generators(device)
        module(torch.zeros(shape, device=device))
        return all(torch.equal(one, two) for one, two in zip(before, _generators(device), strict=True))


def _generators(device: torch.device) -> list[Tensor]:
    """States of torch's global generators that a forward on a device may draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


TEACHERS = Teachers()
