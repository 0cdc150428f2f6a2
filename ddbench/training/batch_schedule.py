"""Batch schedule: which views a training sees at each step; and what a batch, its labels and its images are.

Everything about a step follows from its number and the schedule's seed. So a step can be looked at alone: labels can be
made ahead for exactly the images that a student will see, and a pruned training can show some steps again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ddbench.errors import UsageError
from ddbench.randomness import rng

Transformation = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
"""Changes images [b, C, H, W] by draws of a generator: an augmentation, or a view."""


@dataclass(frozen=True)
class Batch:
    """One step's images after augmentation and mix, for what labels them.

    Attributes:
        images: [b, C, H, W] as the student sees them, augmented and mixed.
        index: int64 [b], places in the training images.
        step: of the view, from 0; the training's step where a schedule does not say otherwise.
        permutation, weight: of the mix, see `Labels`.
        seed: of the draws that made it.
    """

    images: torch.Tensor
    index: torch.Tensor
    step: int
    permutation: torch.Tensor | None = None
    weight: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class SoftLabels:
    """Labels of a batch by teachers, online or stored, where these are not logits alone.

    Attributes:
        logits: [b, K], of the images as the student sees them; or none.
        distances: [b, 2], see `ddbench.training.losses.distances`; or none.
    """

    logits: torch.Tensor | None = None
    distances: torch.Tensor | None = None


Labeller = Callable[[Batch], torch.Tensor | SoftLabels]
"""Gives the logits [b, K] that the student should match on a batch, or what else its loss compares with."""


@dataclass(frozen=True)
class BatchSchedule:
    """Keyed draws of a training: permutations, views, augmentation, mix; the network's own draws are not among them.

    Attributes:
        seed: keys every draw.
        steps: step t sees the view `steps[t % len(steps)]`; None: view t.
        draw: what is shown of a batch's images, before the recipe's augmentations (`ddbench.synset.views.drawn`); None: all.
        uniform: step t sees one of `steps`, drawn by the seed and t, each as likely as another, instead.

    Raises:
        UsageError: an empty list of steps, or a negative one; uniform without a list.
    """

    seed: int
    steps: tuple[int, ...] | None = None
    draw: Transformation | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and (not self.steps or min(self.steps) < 0):
            raise UsageError("a batch schedule needs at least one step, and none below 0")
        if self.uniform and self.steps is None:
            raise UsageError("a batch schedule that draws its views uniformly needs the list of them")

    def view(self, step: int) -> int:
        """View that a step sees."""
        if self.steps is None:
            return step
        if not self.uniform:
            return self.steps[step % len(self.steps)]
        return self.steps[int(torch.randint(len(self.steps), (), generator=rng(self.seed, "kept view", step)))]


class Images(Protocol):
    """Images of a training: a tensor [n, C, H, W], or what reads some of them when they are asked for."""

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        ...

    def __len__(self) -> int:
        """Number of them."""
        ...

    def __getitem__(self, places: torch.Tensor, /) -> torch.Tensor:
        """Those at `places`, int64 [b] on the device: float32 [b, C, H, W]."""
        ...
