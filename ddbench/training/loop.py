"""Students: one training loop and one test for every protocol, every teacher and every expert-free method.

The set is resident on the device, or read as it is shown above 128 px; nothing draws from a shared generator (step t of
seed s always sees the same batch, augmentation and mix); the last step's network is what is scored.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ddbench.data.dataset import Split
from ddbench.data.spaces import Transform
from ddbench.data.streamed import ReadImages
from ddbench.errors import JobFailed
from ddbench.hashing import digest
from ddbench.networks.ghost_batch_norm import use_ghost_batch_norm
from ddbench.randomness import forked
from ddbench.training.batch_schedule import Batch, BatchSchedule, Images, Labeller
from ddbench.training.batches import Batches
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.losses import LOSSES, Labels
from ddbench.training.optimizers import OPTIMIZERS, SCHEDULES
from ddbench.training.precision import Execution
from ddbench.training.ranks import current
from ddbench.training.recipe import StudentRecipe

TESTED, TESTED_LARGE = 1000, 200  # images in a forward of the test, of splits in memory and of others (above 128 px)
CHECKED = 50  # steps between two looks at the loss: on a GPU each look waits for it

Loop = Callable[[int, int], Iterable[int]]
"""Gives the steps from the first number to before the second; may stop early, or report as it goes."""


@dataclass(frozen=True)
class Training:
    """Result of a training: steps taken, the last step's loss, seconds (those before a resumption included)."""

    steps: int
    final_loss: float
    seconds: float


@dataclass(frozen=True)
class Accuracy:
    """Accuracies on a test set, as fractions; top5 only where there are more than 10 classes."""

    top1: float
    top5: float | None
    per_class: list[float]


def train(
    network: nn.Module,
    images: Images,
    classes: torch.Tensor,
    recipe: StudentRecipe,
    *,
    seed: int,
    labeller: Labeller | None = None,
    progress: Callable[[int, int], None] | None = None,
    schedule: BatchSchedule | None = None,
    loop: Loop | None = None,
    checkpoint: Checkpoint | None = None,
    observe: Callable[[Batch, torch.Tensor], None] | None = None,
    execution: Execution | None = None,
) -> Training:
    """Train a network in place by a recipe and leave it in train mode.

    Args:
        network: on the device of `images`.
        images: float32 [n, C, H, W] in the space that the student trains in, resident or read when they are shown.
        classes: int64 [n].
        recipe: what to do; its `network` is not read.
        seed: evaluation seed; keys every draw that is not the schedule's (dropout).
        labeller: soft labels of a batch, if the recipe reads targets or a teacher.
        progress: called with (steps done, steps) now and then.
        schedule: whose batches, augmentation and mix to show; None: those of `seed`.
        loop: called with (first step, steps) for the numbers of the steps, in order; None: `range`. Where it ends early,
            so does the training.
        checkpoint: where to save and resume; left as it is at the end. The state of another training is not taken.
        observe: shown every batch with the logits [b, K] that the network gave in training, before the step.
        execution: in which precision the steps are computed, and whether compiled; None: float32, as written.

    Raises:
        JobFailed: the loss is not finite.
        UsageError: the recipe names unknown parts or wrong parameters.
    """
    started, ranks = time.perf_counter(), current()
    schedule = schedule or BatchSchedule(seed)
    batches = Batches(ranks.read_in_shards(images) if ranks else images, recipe, schedule)
    loss_of = LOSSES.build(recipe.loss)
    factor = SCHEDULES.build(recipe.schedule)
    optimizer: torch.optim.Optimizer = OPTIMIZERS.build(recipe.optimizer)(network.parameters())
    base = [group["lr"] for group in optimizer.param_groups]
    steps = recipe.steps(len(images))
    steps_per_epoch = len(images) / min(recipe.batch, len(images))
    if recipe.bn_batch is not None:
        use_ghost_batch_norm(network, recipe.bn_batch)
    network.train()
    forward = (execution or Execution()).forward(ranks.forward(network) if ranks else network)
    uniform = ["uniform"] if schedule.uniform else []
    identity = digest([recipe.model_dump(mode="json"), seed, schedule.seed, schedule.steps, len(images), *uniform])
    state = _State(checkpoint, network, optimizer, identity)
    with forked(seed, "dropout"):
        done, loss, before = state.resume()
        for step in (loop or range)(done, steps):
            batch = batches.at(step)
            soft = labeller(batch) if labeller else None
            labels = Labels.of(classes[batch.index], soft, batch.permutation, batch.weight)
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor(step, steps, steps_per_epoch)
            logits = forward(batch.images)
            if observe:
                observe(batch, logits.detach())
            loss = loss_of(logits, labels)
            optimizer.zero_grad()
            ranks.backward(loss, network) if ranks else loss.backward()
            optimizer.step()
            done = step + 1
            if step % CHECKED == 0 or done == steps:
                if not bool(torch.isfinite(loss)):
                    raise diverged(float(loss.detach()), step)
                if progress:
                    progress(done, steps)
            state.offer(done, loss, before + time.perf_counter() - started)
    return Training(done, float(loss.detach()), before + time.perf_counter() - started)


@dataclass(frozen=True, eq=False)
class _State:
    """State that a training goes on from, in a checkpoint; without one, it begins at step 0."""

    checkpoint: Checkpoint | None
    network: nn.Module
    optimizer: torch.optim.Optimizer
    identity: str
    """Of the training that the state is of."""

    def resume(self) -> tuple[int, torch.Tensor, float]:
        """Take the saved state over, torch's generators too; gives steps done, the last loss, seconds so far."""
        saved = self.checkpoint.load() if self.checkpoint else None
        if not isinstance(saved, dict) or saved.get("training") != self.identity:
            return 0, torch.zeros(()), 0.0
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        device = self._device()
        if device.type == "cuda" and saved["cuda"] is not None:
            torch.cuda.set_rng_state(saved["cuda"], device)
        return saved["step"], torch.tensor(saved["loss"]), saved["seconds"]

    def _device(self) -> torch.device:
        """Device whose generator the network draws from, besides the CPU's."""
        return next(self.network.parameters()).device

    def offer(self, done: int, loss: torch.Tensor, seconds: float) -> None:
        """Save if that is due."""
        device = self._device()

        def state() -> dict[str, Any]:
            return {
                "training": self.identity,
                "step": done,
                "loss": float(loss.detach()),
                "seconds": seconds,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "rng": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            }

        if self.checkpoint:
            self.checkpoint.save_when_due(state)


def diverged(loss: float, step: int) -> JobFailed:
    """Failure of a training whose loss is not finite."""
    return JobFailed(f"the student's loss is not finite ({loss}) at step {step}")


@torch.inference_mode()
def predict(network: nn.Module, images: Images, batch: int | None = None) -> torch.Tensor:
    """Logits [n, K] of a network in eval mode, batch by batch; leaves the network in eval mode.

    Args:
        network: on the device of the images.
        images: [n, C, H, W], in memory or read as they are shown.
        batch: images at a time; None: fewer of large ones, which are those that are read.
    """
    network.eval()
    large = isinstance(images, ReadImages) and not images.split.resident
    batch = batch or (TESTED_LARGE if large else TESTED)
    places = torch.arange(len(images), device=images.device)
    return torch.cat([network(images[part]) for part in places.split(batch)])


def score(logits: torch.Tensor, labels: torch.Tensor) -> Accuracy:
    """Top-1, top-5 (more than 10 classes) and per-class accuracy, fractions, from logits [n, K] and int64 labels [n]."""
    known = logits.shape[1]
    right = (logits.argmax(1) == labels).double()
    counts = torch.bincount(labels, minlength=known).clamp_min(1)
    per_class = (torch.bincount(labels, right, minlength=known) / counts).tolist()
    top5 = None
    if known > 10:
        top5 = float((logits.topk(5, dim=1).indices == labels[:, None]).any(1).double().mean())
    return Accuracy(float(right.mean()), top5, per_class)


def accuracy(network: nn.Module, split: Split, transform: Transform, device: torch.device) -> Accuracy:
    """Score a network on a split, read and mapped into the network's space batch by batch; JobFailed if it diverged."""
    logits = predict(network, ReadImages.of(split, transform, device)).cpu()
    if not bool(torch.isfinite(logits).all()):
        raise JobFailed("the network's outputs on the test images are not finite: its training diverged")
    return score(logits, split.labels)
