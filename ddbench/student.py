"""Students: one training loop and one test for every protocol, every teacher and every expert-free method.

The set is resident on the device; nothing draws from a shared stream (step t of seed s always sees the same batch,
augmentation and mix); the last step's network is what is scored.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ddbench.augment import build_augmentation, build_mixing
from ddbench.data import Split
from ddbench.errors import JobFailed
from ddbench.losses import LOSSES, Labels
from ddbench.randomness import forked, rng
from ddbench.schedules import OPTIMIZERS, SCHEDULES
from ddbench.space import Transform
from ddbench.student_recipe import StudentRecipe

CODE_VERSION = 1  # raise when a change here or in what it calls changes what a training gives; a test pins the source


@dataclass(frozen=True)
class Batch:
    """One step's images before and after augmentation, for what labels them.

    Attributes:
        images: [b, C, H, W] as the student sees them, augmented and mixed.
        index: int64 [b], places in the training images.
        step: optimiser step, from 0.
        permutation, weight: of the mix, see `Labels`.
    """

    images: torch.Tensor
    index: torch.Tensor
    step: int
    permutation: torch.Tensor | None = None
    weight: float = 1.0


Labeller = Callable[[Batch], torch.Tensor]
"""Gives the logits [b, K] that the student should match on a batch."""


@dataclass(frozen=True)
class Training:
    """What a training leaves: steps taken, the last step's loss, seconds."""

    steps: int
    final_loss: float
    seconds: float


@dataclass(frozen=True)
class Score:
    """Accuracies on a test set, as fractions; top5 only where there are more than 10 classes."""

    top1: float
    top5: float | None
    per_class: list[float]


def batch_indices(count: int, batch: int, steps: int, seed: int) -> Iterator[torch.Tensor]:
    """Indices of each step's images: every epoch a keyed permutation, constant batches, a remainder opening the next.

    Args:
        count: training images; if fewer than `batch`, each step takes them all.
        batch: images in a step.
        steps: how many batches to give.
        seed: of the training.
    """
    size, epoch, pool = min(batch, count), 0, torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(pool) < size:
            pool = torch.cat([pool, torch.randperm(count, generator=rng(seed, "epoch", epoch))])
            epoch += 1
        yield pool[:size]
        pool = pool[size:]


def train(
    network: nn.Module,
    images: torch.Tensor,
    classes: torch.Tensor,
    recipe: StudentRecipe,
    *,
    seed: int,
    labeller: Labeller | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Training:
    """Train a network in place by a recipe and leave it in train mode.

    Args:
        network: on the device of `images`.
        images: float32 [n, C, H, W] in the space that the student trains in.
        classes: int64 [n].
        recipe: what to do; its `network` is not read.
        seed: evaluation seed; keys every draw.
        labeller: soft labels of a batch, if the recipe reads targets or a teacher.
        progress: called with (steps done, steps) now and then.

    Raises:
        JobFailed: the loss is not finite.
        UsageError: the recipe names unknown parts or wrong parameters.
    """
    started = time.perf_counter()
    augmentations = [build_augmentation(spec) for spec in recipe.augmentations]
    mix = build_mixing(recipe.mix) if recipe.mix else None
    loss_of = LOSSES.build(recipe.loss)
    factor = SCHEDULES.build(recipe.schedule)
    optimizer: torch.optim.Optimizer = OPTIMIZERS.build(recipe.optimizer)(network.parameters())
    base = [group["lr"] for group in optimizer.param_groups]
    steps = recipe.steps(len(images))
    steps_per_epoch = len(images) / min(recipe.batch, len(images))
    network.train()
    loss = torch.zeros(())
    with forked(seed, "dropout"):
        for step, index in enumerate(batch_indices(len(images), recipe.batch, steps, seed)):
            index = index.to(images.device)
            batch = _prepare(images, index, step, augmentations, mix, rng(seed, "augment", step))
            logits = labeller(batch) if labeller else None
            labels = Labels(classes[index], logits, batch.permutation, batch.weight)
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor(step, steps, steps_per_epoch)
            loss = loss_of(network(batch.images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 50 == 0 or step == steps - 1:
                _refuse_divergence(loss, step)
                if progress:
                    progress(step + 1, steps)
    return Training(steps, float(loss.detach()), time.perf_counter() - started)


def _prepare(
    images: torch.Tensor,
    index: torch.Tensor,
    step: int,
    augmentations: list,
    mix: Callable | None,
    generator: torch.Generator,
) -> Batch:
    chosen = images[index]
    for augment in augmentations:
        chosen = augment(chosen, generator)
    if mix is None:
        return Batch(chosen, index, step)
    mixed, permutation, weight = mix(chosen, generator)
    return Batch(mixed, index, step, permutation, weight)


def _refuse_divergence(loss: torch.Tensor, step: int) -> None:
    if not bool(torch.isfinite(loss)):
        raise JobFailed(f"the student's loss is not finite ({float(loss.detach())}) at step {step}")


@torch.inference_mode()
def predict(network: nn.Module, images: torch.Tensor, batch: int = 1000) -> torch.Tensor:
    """Logits [n, K] of a network in eval mode, batch by batch; leaves the network in eval mode."""
    network.eval()
    return torch.cat([network(part) for part in images.split(batch)])


def score(logits: torch.Tensor, labels: torch.Tensor) -> Score:
    """Top-1, top-5 (more than 10 classes) and per-class accuracy, fractions, from logits [n, K] and int64 labels [n]."""
    known = logits.shape[1]
    right = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=known).clamp_min(1)
    per_class = (torch.bincount(labels, right, minlength=known) / counts).tolist()
    top5 = None
    if known > 10:
        top5 = float((logits.topk(5, dim=1).indices == labels[:, None]).any(1).double().mean())
    return Score(float(right.mean()), top5, per_class)


def accuracy(network: nn.Module, split: Split, transform: Transform, device: torch.device) -> Score:
    """Score a network on a split, read and mapped into the network's space batch by batch; JobFailed if it diverged."""
    transform, parts = transform.to(device), []
    for index in torch.arange(len(split)).split(1000):
        images = transform.encode(split.read(index).to(device).float() / 255)
        parts.append(predict(network, images).cpu())
    logits = torch.cat(parts)
    if not bool(torch.isfinite(logits).all()):
        raise JobFailed("the network's outputs on the test images are not finite: its training diverged")
    return score(logits, split.labels)
