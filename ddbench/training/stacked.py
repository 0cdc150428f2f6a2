"""Several students of one cell at once: each with its own weights, draws and batches, one forward for all.

Small sets keep a GPU idle: one student's step is mostly launches of small kernels. Here the forward and backward of S
students are one (`torch.func.vmap` over their stacked weights and buffers). Batches, augmentation, labels, losses and
the optimizer's steps are those of `ddbench.training.loop.train`, for each student apart; sums of other shapes may differ in
the last digits, so being stacked is part of a run's identity. On a CPU one after another is as fast.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ddbench import networks
from ddbench.errors import JobFailed
from ddbench.networks.ghost_batch_norm import use_ghost_batch_norm
from ddbench.training.batch_schedule import BatchSchedule, Images, Labeller
from ddbench.training.batches import Batches
from ddbench.training.loop import CHECKED, Training, diverged
from ddbench.training.losses import LOSSES, Labels
from ddbench.training.optimizers import OPTIMIZERS, SCHEDULES
from ddbench.training.precision import Execution
from ddbench.training.recipe import StudentRecipe


def stackable(network: nn.Module, name: str, side: int) -> bool:
    """Tell whether a network trains in a stack: one of ours, without dropout, whose draws are keyed for each student alone."""
    dropout = any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 for part in network.modules())
    return networks.parse(name, side=side).library is None and not dropout


@dataclass(frozen=True, eq=False)
class StackedNetworks:
    """Forward of networks of one architecture, all at once; their buffers become views of stacked ones."""

    members: Sequence[nn.Module]
    base: nn.Module
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, members: Sequence[nn.Module]) -> "StackedNetworks":
        """Stack networks that differ in weights and buffers alone."""
        buffers = {
            name: torch.stack([dict(m.named_buffers())[name] for m in members])
            for name, _ in members[0].named_buffers()
        }
        for place, member in enumerate(members):
            for name, stacked in buffers.items():
                owner, _, leaf = name.rpartition(".")
                setattr(member.get_submodule(owner), leaf, stacked[place])
        return cls(members, copy.deepcopy(members[0]).to("meta"), buffers)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [S, b, K] of images [S, b, C, H, W], member s on images s."""
        weights = [dict(member.named_parameters()) for member in self.members]
        stacked = {name: torch.stack([own[name] for own in weights]) for name in weights[0]}
        return vmap(self._one)(stacked, self.buffers, images)

    def _one(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(self.base, (weights, buffers), (images,))


def train_together(
    members: Sequence[nn.Module],
    images: Images,
    classes: Tensor,
    recipe: StudentRecipe,
    *,
    schedules: Sequence[BatchSchedule],
    labeller: Labeller | None = None,
    execution: Execution | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Training | JobFailed]:
    """Train networks in place by a recipe, each on a schedule of its own; see `ddbench.training.loop.train`.

    Args:
        members: networks of one architecture, on the device of `images`, that are `stackable`.
        images: float32 [n, C, H, W], resident or read when they are shown; all see them.
        classes: int64 [n].
        recipe: what to do; its `network` is not read.
        schedules: of batches, augmentation and mix, one a member.
        labeller: soft labels of a member's batch.
        execution: how to compute; None: as written.
        progress: called with (steps done, steps) now and then.

    Returns:
        What each training leaves, its seconds being a share of those of all; or why it failed: the others go on.
    """
    started = time.perf_counter()
    batches = [Batches(images, recipe, schedule) for schedule in schedules]
    loss_of, factor = LOSSES.build(recipe.loss), SCHEDULES.build(recipe.schedule)
    optimizer = OPTIMIZERS.build(recipe.optimizer)([weights for member in members for weights in member.parameters()])
    base = [group["lr"] for group in optimizer.param_groups]
    steps = recipe.steps(len(images))
    steps_per_epoch = len(images) / min(recipe.batch, len(images))
    for member in members:
        if recipe.bn_batch is not None:
            use_ghost_batch_norm(member, recipe.bn_batch)
        member.train()
    forward = (execution or Execution()).forward(StackedNetworks.of(members))
    failed: dict[int, JobFailed] = {}
    losses = torch.zeros(len(members))
    for step in range(steps):
        batch = [own.at(step) for own in batches]
        soft = [labeller(each) if labeller else None for each in batch]
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor(step, steps, steps_per_epoch)
        logits = forward(torch.stack([each.images for each in batch]))
        labels = [
            Labels.of(classes[each.index], own, each.permutation, each.weight)
            for each, own in zip(batch, soft, strict=True)
        ]
        losses = torch.stack([loss_of(*each) for each in zip(logits, labels, strict=True)])
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        if step % CHECKED == 0 or step + 1 == steps:
            for place, loss in enumerate(losses.detach().tolist()):
                if not math.isfinite(loss):
                    failed.setdefault(place, diverged(loss, step))
            if progress:
                progress(step + 1, steps)
    seconds = (time.perf_counter() - started) / len(members)
    return [failed.get(place, Training(steps, float(loss), seconds)) for place, loss in enumerate(losses.detach())]
