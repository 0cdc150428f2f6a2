"""From teachers to recovered images: hyper-parameters of the family, initial images, and the blocks that are recovered."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ddbench.data.spaces import Space
from ddbench.distillation.task import Task
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet
from ddbench.synset.teachers import Teacher

from ..selection.coresets import random_choice
from ..shares import equal_shares
from .codecs import pixel_bounds, stored
from .measured_norm import Voter
from .patches import PatchFields, patch_images, require_patches
from .recover import ImageBlock, RecoverFields, Recovery, Refinement
from .relabel import RelabelFields
from .squeeze import SqueezeFields

Votes = Mapping[str, float]


class DecoupledHyper(SqueezeFields, PatchFields, RecoverFields, RelabelFields):
    """Hyper-parameters of a method that recovers images from teachers."""

    init: Literal["noise", "real", "patches"] = Field(
        "noise", description="images begin as N(0, 1), random real images, or patches of real images"
    )


def recovered(
    task: Task,
    hyper: DecoupledHyper,
    teachers: Mapping[str, Teacher],
    votes: Sequence[Votes],
    make_set: Callable[[Tensor, Tensor], SynSet] | None = None,
    *,
    start: "Start | None" = None,
    refine: Refinement | None = None,
) -> tuple[Tensor, Tensor]:
    """Images [IPC * K, C, H, W] as the codec stores them, and their classes: IPC index by IPC index, in class order.

    Args:
        task: its IPC, synthesis seed, device and checkpoint are used.
        hyper: how.
        teachers: by name.
        votes: for each IPC index, the voters with their weights.
        make_set: gives the set of such images and classes, for snapshots.
        start: where images begin; None: as `hyper.init` says.
        refine: see `Recovery`.
    """
    space, ipc = space_of(teachers), equal_shares(task)[0]
    begin = start or starts(task, hyper, teachers)
    blocks = [
        ImageBlock((j, k), classes, partial(begin, j, k, classes), votes[j])
        for j in range(ipc)
        for k, classes in enumerate(torch.arange(len(task.dataset.class_names)).split(hyper.block))
    ]
    labels, keep = torch.cat([block.labels for block in blocks]), partial(stored, space=space, codec=hyper.codec)
    if not hyper.iterations:  # images stay as they begin
        return torch.cat([keep(block.begin(task.device)) for block in blocks]), labels
    used = {name for ballot in votes for name in ballot}
    how = hyper.execution()
    voters = {name: Voter(teachers[name].module(task.device), execution=how) for name in sorted(used)}
    black, white = (bound.to(task.device) for bound in pixel_bounds(space, task.dataset.channels))
    recovery = Recovery(task, hyper, voters, (black, white), refine=refine)
    snapshot = None if make_set is None else lambda parts: make_set(torch.cat(parts), labels)
    return torch.cat(recovery.run(blocks, keep, snapshot)), labels


def require_recoverable(task: Task, hyper: DecoupledHyper, names: Sequence[str]) -> None:
    """Raise UsageError for what would fail after hours of squeezing or recovering, called before: norms, patches, labels."""
    hyper.require_voters(task, names)
    if hyper.init == "patches":
        require_patches(task, hyper)
    hyper.require_room(task, sum(equal_shares(task)))


def space_of(teachers: Mapping[str, Teacher]) -> Space:
    """Space that all the teachers read; `squeeze` sees to it that there is one."""
    return next(iter(teachers.values())).space


Start = Callable[[int, int, Tensor], Tensor]
"""(IPC index, number of the block, its classes) -> images [B, C, H, W]."""


def starts(task: Task, hyper: DecoupledHyper, teachers: Mapping[str, Teacher]) -> Start:
    """Initial images of each block, as `hyper.init` says."""
    data, space = task.dataset, space_of(teachers)
    if hyper.init == "noise":
        return lambda j, k, classes: torch.randn(
            len(classes), data.channels, data.side, data.side, generator=task.rng("recover-start", "noise", j, k)
        )
    if hyper.init == "real":
        places = torch.stack(random_choice(task, equal_shares(task)))
        return lambda j, k, classes: task.read(space, places[classes, j])
    judge = teachers.get(task.network) or next(iter(teachers.values()))
    patches = patch_images(task, space, judge.module(task.device), hyper).unflatten(0, (len(data.class_names), -1))
    return lambda j, k, classes: patches[classes, j]


def require_members(names: Sequence[str], field: str) -> None:
    """Raise UsageError where a committee names a network twice."""
    if len(set(names)) < len(names):
        raise UsageError(f"{field} names a network twice: {', '.join(names)}")
