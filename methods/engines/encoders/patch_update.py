"""HeLlO's image update: tiles of a canvas that keep the features of the patches that they were shrunk from.

With p a patch at full size and t the tile that it was shrunk to, p_hat is t enlarged again:

    t <- argmin MSE(E(p), E(p_hat(t))),   Adam from the shrunk patch, values in the range of pixels
"""

from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ddbench.data.spaces import Space
from ddbench.distillation.task import Task

from ..decoupled.codecs import pixel_bounds
from ..decoupled.patches import PatchFields, join_tiles
from .image_encoders import AT_ONCE


class UpdateFields(PatchFields):
    """Patches, and their update."""

    update_steps: int = Field(0, ge=0, description="steps on every tile; 0: tiles stay as they were shrunk")
    update_lr: float = Field(0.01, gt=0, description="step size of Adam, in units of the normalized space")

    @model_validator(mode="after")
    def _shrunk_tiles(self) -> Self:
        if self.update_steps and self.factor == 1:
            raise ValueError("update_steps is for tiles that were shrunk: factor must be 2 or more")
        return self


def cut_tiles(images: Tensor, factor: int) -> Tensor:
    """Tiles [n * factor^2, C, h, w] of images [n, C, H, W], image by image, row by row: what `join_tiles` puts together."""
    rows = images.unflatten(3, (factor, -1)).unflatten(2, (factor, -1))  # [n, C, row, h, column, w]
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)


def enlarged(tiles: Tensor, side: int) -> Tensor:
    """p_hat: tiles [n, C, h, w] enlarged to `side` pixels, bilinear."""
    return F.interpolate(tiles, (side, side), mode="bilinear", align_corners=False)


def updated(
    tiles: Tensor, patches: Tensor, embed: nn.Module, bounds: tuple[Tensor, Tensor], *, steps: int, lr: float
) -> Tensor:
    """Tiles [n, C, h, w] after `steps` steps towards the features of patches [n, C, H, W]; on their device.

    Args:
        tiles: where to begin.
        patches: at full size, in the same space.
        embed: images to features; frozen.
        bounds: lowest and highest value of a channel, [C, 1, 1] each.
        steps: of Adam.
        lr: its step size.
    """
    with torch.no_grad():
        wanted = embed(patches)
    learned = tiles.clone().requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=lr)
    for _ in range(steps):
        # each tile's own mean over features, summed: how many are updated together must not matter
        loss = (embed(enlarged(learned, patches.shape[-1])) - wanted).square().mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            learned.copy_(learned.clamp(*bounds))
    return learned.detach()


class Updater:
    """Updates the tiles of one class after another for a task; resumes at a checkpoint."""

    def __init__(self, task: Task, fields: UpdateFields, embed: nn.Module, space: Space, values: int) -> None:
        """`embed` maps images of `space` to features, on the task's device; it sees each as so many `values`."""
        self.task, self.fields, self.embed, self.values = task, fields, embed, values
        black, white = pixel_bounds(space, task.dataset.channels)
        self.bounds = black.to(task.device), white.to(task.device)
        state: Any = task.resume()
        self.done: list[Tensor] = list(state["updated"]) if state else []

    def __call__(self, label: int, patches: Tensor, images: Tensor) -> Tensor:
        """Images of a class with their tiles updated; see `patches.Refine`."""
        if label < len(self.done):
            return self.done[label]
        factor = self.fields.factor
        tiles, at_once = cut_tiles(images, factor), max(1, AT_ONCE // max(self.values, patches[0].numel()))
        parts, wholes = tiles.split(at_once), patches.split(at_once)
        steps, lr = self.fields.update_steps, self.fields.update_lr
        new = [
            updated(parts[number], wholes[number], self.embed, self.bounds, steps=steps, lr=lr)
            for number in self.task.loop(0, len(parts), "updating tiles")
        ]
        new += parts[len(new) :]  # a dry run does not come to all
        self.done.append(join_tiles(torch.cat(new), factor).cpu())
        self.task.checkpoint(lambda: {"updated": self.done})
        return self.done[-1]
