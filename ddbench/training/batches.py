"""Streams: which images a training sees at a step, augmented and mixed how.

Everything about a step follows from its number and the stream's seed, so a step can be looked at alone: labels can be
made ahead for exactly the images that a student will see, and a pruned training can show some steps again.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch

from ddbench.augment import Augmentation, build_augmentation, build_mixing
from ddbench.errors import UsageError
from ddbench.randomness import rng
from ddbench.training.losses import Answer
from ddbench.training.recipe import StudentRecipe


@dataclass(frozen=True)
class Batch:
    """One step's images after augmentation and mix, for what labels them.

    Attributes:
        images: [b, C, H, W] as the student sees them, augmented and mixed.
        index: int64 [b], places in the training images.
        step: of the view, from 0; the training's step where a stream does not say otherwise.
        permutation, weight: of the mix, see `Labels`.
        seed: of the draws that made it.
    """

    images: torch.Tensor
    index: torch.Tensor
    step: int
    permutation: torch.Tensor | None = None
    weight: float = 1.0
    seed: int = 0


Labeller = Callable[[Batch], torch.Tensor | Answer]
"""Gives the logits [b, K] that the student should match on a batch, or what else its loss compares with."""


@dataclass(frozen=True)
class BatchSchedule:
    """Whose draws a training sees: permutations, views, augmentation, mix. The network's own draws are not of it.

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
    draw: Augmentation | None = None
    uniform: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and (not self.steps or min(self.steps) < 0):
            raise UsageError("a stream needs at least one step, and none below 0")
        if self.uniform and self.steps is None:
            raise UsageError("a stream that draws its views uniformly needs the list of them")

    def view(self, step: int) -> int:
        """The view that a step sees."""
        if self.steps is None:
            return step
        if not self.uniform:
            return self.steps[step % len(self.steps)]
        return self.steps[int(torch.randint(len(self.steps), (), generator=rng(self.seed, "kept view", step)))]


class Order:
    """Which images a step takes: every epoch a keyed permutation, constant batches, a remainder opening the next."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        """Order `count` images in batches of `batch`; fewer images are one batch."""
        self.count, self.size = count, min(batch, count)
        # two: a batch may reach into the next epoch, and steps come mostly in order
        self._permutation = lru_cache(maxsize=2)(
            lambda epoch: torch.randperm(count, generator=rng(seed, "epoch", epoch))
        )

    def at(self, step: int) -> torch.Tensor:
        """Places of the step's images, int64 [b]."""
        epoch, start = divmod(step * self.size, self.count)
        first = self._permutation(epoch)[start : start + self.size]
        missing = self.size - len(first)
        return torch.cat([first, self._permutation(epoch + 1)[:missing]]) if missing else first


class Images(Protocol):
    """The images of a training: a tensor [n, C, H, W], or what reads some of them when they are asked for."""

    @property
    def device(self) -> torch.device:
        """Where the images are given."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, places: torch.Tensor, /) -> torch.Tensor:
        """Those at `places`, int64 [b] on the device: float32 [b, C, H, W]."""
        ...


class Batches:
    """The batches of a training, by step."""

    def __init__(self, images: Images, recipe: StudentRecipe, stream: BatchSchedule) -> None:
        """Bind a recipe's batch size, augmentations and mix to images [n, C, H, W]; UsageError if a part is unknown."""
        self._images, self._stream = images, stream
        self._augmentations = [build_augmentation(spec) for spec in recipe.augmentations]
        self._mix = build_mixing(recipe.mix) if recipe.mix else None
        self._order = Order(len(images), recipe.batch, stream.seed)

    def at(self, step: int) -> Batch:
        """What step `step` of the training sees, on the images' device."""
        view, seed = self._stream.view(step), self._stream.seed
        index = self._order.at(view).to(self._images.device)
        chosen, generator = self._images[index], rng(seed, "augment", view)
        if self._stream.draw is not None:
            chosen = self._stream.draw(chosen, rng(seed, "view", view))
        for augment in self._augmentations:
            chosen = augment(chosen, generator)
        if self._mix is None:
            return Batch(chosen, index, view, seed=seed)
        mixed, permutation, weight = self._mix(chosen, generator)
        return Batch(mixed, index, view, permutation, weight, seed)


def views_of(
    images: Images, recipe: StudentRecipe, stream: BatchSchedule, steps: Iterable[int] | None = None
) -> Iterator[Batch]:
    """The batches that `train` sees, for those who label ahead: of all steps of the recipe, or of those given.

    Args:
        images: float32 [n, C, H, W], those of the training.
        recipe: its batch size, augmentations, mix and number of steps are read.
        stream: that of the training.
        steps: numbers of the training's steps.
    """
    batches = Batches(images, recipe, stream)
    for step in range(recipe.steps(len(images))) if steps is None else steps:
        yield batches.at(step)
