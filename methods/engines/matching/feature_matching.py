"""Matching of class means between real and synthetic images, as in DM and DataDAM: one step, and what it draws.

Both minimize, for a fresh random network at every step,

    L = sum_l w_l sum_c || mean_{x in B_c} f_l(A_c(x)) - mean_{s in S_c} f_l(A_c(s)) ||_2^2

where f_l are per-image features (DM: the embedding; DataDAM: attention maps and the embedding), B_c a batch of real
images of class c, S_c all its synthetic images, and A_c one augmentation draw that both sides share (siamese).

How it is computed, with the same result as a loop over classes that keeps one graph:
- L is a sum over classes, so synthetic images go through the network a group of classes at a time, and each group's
  graph is freed by its backward pass before the next is built;
- the real side has no graph, goes through in chunks, and only the per-class sums of its features are kept;
- attention maps are reduced inside the hook (`engines.matching.attention`), so no real feature map outlives its layer.
With batch normalization in train mode the statistics mix all images of a forward, and chunks would change them: there
all real images of the step share one forward and all synthetic images another, as in the released codes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from ddbench.augment import DSA
from ddbench.data.spaces import Space
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed

from ..condensation import chunk_images, dsa_ops, reader
from ..selection.coresets import embedder, k_center, pixels_of, random_choice, select
from ..shares import equal_shares

Features = Callable[[Tensor], tuple[Tensor, ...]]
Rng = Callable[..., torch.Generator]
Init = Literal["real", "kcenter", "noise"]


class Augmentation(Protocol):
    """A siamese augmentation (`ddbench.augment.DSA`): drawn once, applied to any number of images."""

    def draw(self, count: int, side: int, generator: torch.Generator) -> Any:
        """Draw one operation and one set of parameters for all `count` images."""

    def apply(self, images: Tensor, drawn: Any) -> Tensor:
        """Apply a draw to images [n, C, H, W], differentiably."""


def mixes_images(network: nn.Module) -> bool:
    """Tell if an image's features depend on the others in its forward: batch normalization in train mode."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in network.modules())


def draw_without_replacement(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` distinct entries of `pool` [n]; all of them, in random order, where it has fewer."""
    return pool[torch.randperm(len(pool), generator=generator)[:count]]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Draws of each step: per class a real batch, and an augmentation that the synthetic images share.

    Attributes:
        read: places [b] in the training split -> real images [b, C, H, W] in the space of the distillation.
        pools: per class the places of its images, int64.
        batch: real images a class and step, B_c; all of a class that has fewer.
        augmentation: a siamese one, or None.
        rng: `task.rng`; draws are keyed ("real", step, class) and ("dsa", step, class).
    """

    read: Callable[[Tensor], Tensor]
    pools: Sequence[Tensor]
    batch: int
    augmentation: Augmentation | None
    rng: Rng

    def count(self, label: int) -> int:
        """Number of real images of the class in a step."""
        return min(self.batch, len(self.pools[label]))

    def real(self, step: int, label: int) -> Tensor:
        """Augmented real batch [B_c, C, H, W] of a class at a step."""
        chosen = draw_without_replacement(self.pools[label], self.batch, self.rng("real", step, label))
        return self.augment(step, label, self.read(chosen))

    def augment(self, step: int, label: int, images: Tensor) -> Tensor:
        """Apply the class's draw of this step to images [n, C, H, W]; differentiable."""
        if self.augmentation is None:
            return images
        generator = self.rng("dsa", step, label)
        return self.augmentation.apply(images, self.augmentation.draw(len(images), images.shape[-1], generator))


def make_pairs(task: Task, space: Space, batch: int) -> Pairs:
    """Pairs of a task under the DC family's DSA, without flips where a flip changes the class.

    The real images are held on the device; a split too large for that is read as needed.
    """
    dsa = DSA(dsa_ops(task), align_corners=False, siamese=True, crop_rounding="round")
    return Pairs(reader(task, space), task.class_indices(), batch, dsa, task.rng)


def start(task: Task, space: Space, pairs: Pairs, init: Init) -> dict[str, Any]:
    """State before step 0: step, synthetic images [classes * ipc, C, H, W] class by class, momentum buffer.

    Args:
        task: the task; its IPC images a class.
        space: that the images live in.
        pairs: real images to begin with.
        init: random real images ("real", the same that the baseline `random` takes), the greedy k-centres of each
            class's pixels ("kcenter"), or N(0, 1) values ("noise").
    """
    data, counts = task.dataset, equal_shares(task)
    if init == "noise":
        shape = (sum(counts), data.channels, data.side, data.side)
        images = torch.randn(shape, generator=task.rng("init")).to(task.device)
    else:
        chosen = random_choice(task, counts) if init == "real" else select(task, pixels_of(task, space), k_center)
        images = pairs.read(torch.cat(chosen)).clone()
    return {"step": 0, "images": images, "velocity": torch.zeros_like(images)}


def state_at(step: int, images: Tensor, velocity: Tensor) -> dict[str, Any]:
    """Contents of a checkpoint: the steps done, the images, their momentum."""
    return {"step": step, "images": images, "velocity": velocity}


def require_finite(loss: float, step: int) -> None:
    """Raise JobFailed where the matching loss is not finite."""
    if not math.isfinite(loss):
        raise JobFailed(f"diverged: the matching loss is {loss} at step {step}; a smaller lr_img may help")


def class_groups(counts: Sequence[int], limit: int | None) -> Iterator[range]:
    """Split classes into consecutive groups of at most `limit` images, but at least one class; None: one group."""
    start, filled = 0, 0
    for label, count in enumerate(counts):
        if limit is not None and label > start and filled + count > limit:
            yield range(start, label)
            start, filled = label, 0
        filled += count
    yield range(start, len(counts))


@torch.no_grad()
def real_means(features: Features, pairs: Pairs, step: int, limit: int | None) -> tuple[Tensor, ...]:
    """Per class the mean of every feature over its augmented real batch, each [classes, d_l], without a graph.

    Args:
        features: images [b, C, H, W] -> per-image features, each [b, d_l].
        pairs: the draws.
        step: which step's draws.
        limit: images in one forward; None: all at once.
    """
    counts = [pairs.count(label) for label in range(len(pairs.pools))]
    sums: tuple[Tensor, ...] = ()
    for group in class_groups(counts, limit):
        images = torch.cat([pairs.real(step, label) for label in group])
        labels = torch.repeat_interleave(torch.tensor(group), torch.tensor(counts)[group.start : group.stop])
        size = limit or len(images)
        for chunk, chunk_labels in zip(images.split(size), labels.to(images.device).split(size), strict=True):
            values = features(chunk)
            sums = sums or tuple(value.new_zeros(len(counts), value.shape[1]) for value in values)
            for total, value in zip(sums, values, strict=True):
                total.index_add_(0, chunk_labels, value)
    divisor = torch.tensor(counts, device=sums[0].device)[:, None]
    return tuple(total / divisor for total in sums)


def matching_gradient(
    network: nn.Module, features: Features, weights: Sequence[float], images: Tensor, pairs: Pairs, step: int
) -> tuple[float, Tensor]:
    """Compute the loss of the module's docstring and its exact gradient with respect to the synthetic images.

    Args:
        network: what `features` runs; decides whether images may be split over several forwards.
        features: images [b, C, H, W] -> per-image features, each [b, d_l].
        weights: (w, w_e): w of every feature but the last, w_e of the last; (w_e,) for a single feature.
        images: synthetic images [classes * ipc, C, H, W], class by class.
        pairs: the draws.
        step: which step's draws.

    Returns:
        The loss, and the gradient in the shape of `images`.
    """
    limit = None if mixes_images(network) else chunk_images(images.device, images.shape[-1])
    targets = real_means(features, pairs, step, limit)
    ipc = len(images) // len(pairs.pools)
    gradient = torch.empty_like(images)
    losses = []
    for group in class_groups([ipc] * len(pairs.pools), limit):
        rows = slice(group.start * ipc, group.stop * ipc)
        leaf = images[rows].detach().requires_grad_()
        parts = zip(group, leaf.split(ipc), strict=True)
        values = features(torch.cat([pairs.augment(step, label, part) for label, part in parts]))
        loss = _distance(values, [target[group.start : group.stop] for target in targets], weights)
        (gradient[rows],) = torch.autograd.grad(loss, leaf)
        losses.append(loss.detach())
    return float(torch.stack(losses).sum()), gradient


def embeddings(network: nn.Module) -> Features:
    """DM's only feature: images [b, C, H, W] -> (embedding [b, d],)."""
    embed = embedder(network)
    return lambda images: (embed(images),)


def _distance(values: Sequence[Tensor], targets: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_l w_l sum_c || target_lc - mean of class c's equal share of value_l ||^2."""
    total = values[0].new_zeros(())
    each = [weights[0]] * (len(values) - 1) + [weights[-1]]
    for value, target, weight in zip(values, targets, each, strict=True):
        total = total + weight * (value.unflatten(0, (len(target), -1)).mean(1) - target).square().sum()
    return total
