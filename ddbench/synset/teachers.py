"""Teachers: trained networks, kept by content, so that a soft label can always name who gave it."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddbench import networks
from ddbench.data.dataset import Dataset
from ddbench.data.spaces import Space
from ddbench.errors import UsageError
from ddbench.hashing import tensors_digest
from ddbench.networks.registry import build
from ddbench.randomness import forked
from ddbench.settings import cache_dir
from ddbench.synset.synset import MAX_CLASSES, MAX_SIDE, ODD
from ddbench.training.cache import Cache
from ddbench.training.sealed import Artifact, look_sealed, read_sealed, write_sealed


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network with all that is needed to use it: name, shape, classes, the space that it reads, weights."""

    network: str
    dataset: str
    split_hash: str
    class_names: tuple[str, ...]
    channels: int
    side: int
    space: Space
    recipe_hash: str
    state: dict[str, torch.Tensor]

    @classmethod
    def of(
        cls, dataset: Dataset, *, network: str, space: Space, recipe_hash: str, state: Mapping[str, torch.Tensor]
    ) -> "Teacher":
        """A network trained on a data set, whose id, split, class names and shape are filled in; weights on the CPU."""
        return cls(
            network=network,
            dataset=dataset.id,
            split_hash=dataset.train.hash,
            class_names=dataset.class_names,
            channels=dataset.channels,
            side=dataset.side,
            space=space,
            recipe_hash=recipe_hash,
            state={name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
        )

    def facts(self) -> dict[str, Any]:
        """Everything but the weights, as plain data."""
        return {
            "network": self.network,
            "dataset": self.dataset,
            "split_hash": self.split_hash,
            "class_names": list(self.class_names),
            "channels": self.channels,
            "side": self.side,
            "space": self.space.to_json(),
            "recipe_hash": self.recipe_hash,
        }

    @cached_property
    def hash(self) -> str:
        """SHA-256 over facts and weights."""
        return tensors_digest(self.state, self.facts())

    def bytes(self) -> int:
        """Size of the weights as stored."""
        return sum(tensor.nbytes for tensor in self.state.values())

    def module(self, device: torch.device) -> nn.Module:
        """Network with its weights, in eval mode, without gradients."""
        module = networks.create(self.network, channels=self.channels, side=self.side, classes=len(self.class_names))
        module.load_state_dict(self.state)
        return module.to(device).eval().requires_grad_(False)


Recall = Callable[[str], Teacher | None]
"""Gives a teacher by its hash, or None."""


def keep(teacher: Teacher) -> str:
    """Put a teacher into the cache under its hash, and return the hash."""
    path = cache_dir() / "teachers" / f"{teacher.hash}.safetensors"
    if not path.exists():
        write_sealed(path, teacher.state, teacher.facts())
    return teacher.hash


def recall(wanted: str) -> Teacher | None:
    """Teacher with this hash, or None if the cache does not have it."""
    artifact = read_sealed(cache_dir() / "teachers" / f"{wanted}.safetensors")
    return None if artifact is None or artifact.hash != wanted else _of_artifact(artifact)


def read_teacher(path: Path) -> Teacher:
    """Teacher in a file that anyone may have written.

    Raises:
        UsageError: in one line: no sealed artifact, not a teacher's facts, a network that is unknown or that the weights
            do not fit.
    """
    artifact = look_sealed(path)
    try:
        teacher = _of_artifact(artifact)
        shapes = _shapes(teacher)
    except ODD as error:
        raise UsageError(f"{path}: not the facts of a teacher: {' '.join(str(error).split())}") from error
    stored = {name: tuple(tensor.shape) for name, tensor in teacher.state.items()}
    if stored != shapes:
        raise UsageError(f"{path}: the weights do not fit the network {teacher.network}")
    return teacher


def _of_artifact(artifact: Artifact) -> Teacher:
    facts = {**artifact.info, "class_names": tuple(artifact.info["class_names"])}
    return Teacher(**{**facts, "space": Space.from_json(facts["space"])}, state=artifact.tensors)


def _shapes(teacher: Teacher) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights that the teacher's network has, without making them."""
    facts = (teacher.network, teacher.dataset, teacher.split_hash, teacher.recipe_hash, *teacher.class_names)
    if not all(isinstance(text, str) for text in facts) or type(teacher.channels) is not int:
        raise TypeError("texts and whole numbers are needed")
    if type(teacher.side) is not int or not 1 <= teacher.side <= MAX_SIDE or teacher.channels not in (1, 3):
        raise ValueError(f"images of {teacher.channels} x {teacher.side!r} pixels")
    if not 1 <= len(teacher.class_names) <= MAX_CLASSES:
        raise ValueError(f"{len(teacher.class_names)} classes")
    # a library's network is tried on images, which needs weights
    no_weights = torch.device("meta") if networks.parse(teacher.network).library is None else contextlib.nullcontext()
    with forked(0, "shapes"), no_weights:
        network = build(teacher.network, channels=teacher.channels, side=teacher.side, classes=len(teacher.class_names))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def require(wanted: str) -> Teacher:
    """Teacher with this hash; UsageError if it is not in the cache."""
    teacher = recall(wanted)
    if teacher is None:
        raise UsageError(
            f"teacher {wanted[:12]} is not in the cache ({cache_dir() / 'teachers'}): "
            "distill the set again here, or put the teacher's file there"
        )
    return teacher


def cached(
    cache: Cache,
    entry: str,
    make: Callable[[], Teacher],
    *,
    keep: Callable[[Teacher], str] = keep,
    recall: Recall = recall,
) -> Teacher:
    """Return the teacher that an entry of a cache names, made where the entry or the teacher is missing.

    Of two processes one makes it, and the other then finds it.

    Args:
        cache: how the teacher is made.
        entry: that names it by its hash.
        make: makes it.
        keep: puts a teacher where `recall` finds it, and returns its hash.
        recall: the teacher with a hash, or None.
    """

    def known() -> Teacher | None:
        artifact = cache.load(entry)
        return recall(artifact.info["teacher"]) if artifact else None

    teacher = known()
    if teacher is None:
        with cache.locked():
            teacher = known()
            if teacher is None:
                teacher = make()
                cache.save(entry, {}, {"teacher": keep(teacher)})
    return teacher


def roles(teachers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Networks that `Task.log_teacher` named, those of one role, network and epoch together, from a set's provenance.

    Yields:
        Role in the plural and words: "experts", "5 convnet-d3, epoch 4, test accuracy 41.2 to 43.0 %".
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    for facts in teachers.values():
        if "role" in facts:
            kind = (facts["role"], facts.get("network"), facts.get("epoch"))
            groups.setdefault(kind, []).append(facts.get("accuracy", math.nan))
    for (role, network, epoch), accuracies in groups.items():
        low, high = (f"{100 * end(accuracies):.1f}" for end in (min, max))
        parts = [f"{len(accuracies)} {network or 'of unknown network'}", *([] if epoch is None else [f"epoch {epoch}"])]
        parts.append(f"test accuracy {low} %" if low == high else f"test accuracy {low} to {high} %")
        yield f"{role}s", ", ".join(parts)
