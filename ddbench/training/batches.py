"""Batches of a training: the images of each step, in keyed order, augmented and mixed."""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch

from ddbench.augment import build_augmentation, build_mixing
from ddbench.randomness import rng
from ddbench.training.batch_schedule import Batch, BatchSchedule, Images
from ddbench.training.recipe import StudentRecipe


class Order:
    """Order of the images: every epoch a keyed permutation, constant batches, a remainder opening the next."""

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


class Batches:
    """Batches of a training, by step."""

    def __init__(self, images: Images, recipe: StudentRecipe, schedule: BatchSchedule) -> None:
        """Bind a recipe's batch size, augmentations and mix to images [n, C, H, W]; UsageError if a part is unknown."""
        self._images, self._schedule = images, schedule
        self._augmentations = [build_augmentation(spec) for spec in recipe.augmentations]
        self._mix = build_mixing(recipe.mix) if recipe.mix else None
        self._order = Order(len(images), recipe.batch, schedule.seed)

    def at(self, step: int) -> Batch:
        """Make the batch of a step, on the images' device."""
        view, seed = self._schedule.view(step), self._schedule.seed
        index = self._order.at(view).to(self._images.device)
        chosen, generator = self._images[index], rng(seed, "augment", view)
        if self._schedule.draw is not None:
            chosen = self._schedule.draw(chosen, rng(seed, "view", view))
        for augment in self._augmentations:
            chosen = augment(chosen, generator)
        if self._mix is None:
            return Batch(chosen, index, view, seed=seed)
        mixed, permutation, weight = self._mix(chosen, generator)
        return Batch(mixed, index, view, permutation, weight, seed)


def views_of(
    images: Images, recipe: StudentRecipe, schedule: BatchSchedule, steps: Iterable[int] | None = None
) -> Iterator[Batch]:
    """Batches that `train` sees, for those who label ahead: of all steps of the recipe, or of those given.

    Args:
        images: float32 [n, C, H, W], those of the training.
        recipe: its batch size, augmentations, mix and number of steps are read.
        schedule: that of the training.
        steps: numbers of the training's steps.
    """
    batches = Batches(images, recipe, schedule)
    for step in range(recipe.steps(len(images))) if steps is None else steps:
        yield batches.at(step)
