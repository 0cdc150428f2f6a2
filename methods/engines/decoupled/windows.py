"""Views of a recover step: a crop, a flip and a roll for a whole block, as one gather.

torchvision's RandomResizedCrop and flip, applied to a batched tensor, draw one window and one decision for all of its
images; SRe2L's roll then shifts by (dy, dx), around the border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddbench.augment.crops import crop_grid, draw_crops


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of one block for several steps.

    Attributes:
        boxes: int64 [T, 4]: top, left, height, width; or None: no crop and no flip.
        flips: bool [T].
        rolls: int64 [T, 2]: down, right.
    """

    boxes: Tensor | None
    flips: Tensor
    rolls: Tensor

    def at(self, step: int) -> "Draws":
        """Draws of one step."""
        one = slice(step, step + 1)
        return Draws(None if self.boxes is None else self.boxes[one], self.flips[one], self.rolls[one])


def draw_windows(
    count: int,
    side: int,
    generator: torch.Generator,
    *,
    lows: Sequence[float] | None,
    flip: bool,
    roll: tuple[int, int],
) -> Draws:
    """Draw for `count` steps.

    Args:
        count: steps.
        side: of the images, pixels.
        generator: what is drawn from.
        lows: smallest share of the area by step; None: neither crop nor flip.
        flip: whether a flip keeps the class.
        roll: smallest and largest roll, pixels.
    """
    boxes, flips = None, torch.zeros(count, dtype=torch.bool)
    if lows is not None:
        low = torch.tensor(lows, dtype=torch.float64)[:, None]
        boxes = draw_crops(count, side, generator, scale=(low, 1.0))
        flips = (torch.rand(count, generator=generator) < 0.5) & flip
    rolls = torch.randint(roll[0], roll[1] + 1, (count, 2), generator=generator)
    return Draws(boxes, flips, rolls)


def view(images: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Crop, flip and roll images [G B, C, H, W] of G blocks, each by its own draw; differentiable.

    out[y, x] = cropped[(y - down) mod H, x'], x' = (x - right) mod W, counted from the other side if flipped.
    """
    stacked = images.unflatten(0, (len(draws), -1)).flatten(1, 2)  # the grid is one for all images of a block
    if draws[0].boxes is None:
        rolled = [part.roll(tuple(own.rolls[0].tolist()), (-2, -1)) for part, own in zip(stacked, draws, strict=True)]
        return torch.stack(rolled).view_as(images)
    height, width = images.shape[-2:]
    boxes = torch.cat([own.boxes for own in draws if own.boxes is not None])
    flips, rolls = torch.cat([own.flips for own in draws]), torch.cat([own.rolls for own in draws])
    y = (torch.arange(height) - rolls[:, :1]) % height
    x = (torch.arange(width) - rolls[:, 1:]) % width
    x = torch.where(flips[:, None], width - 1 - x, x)
    grid = crop_grid(boxes.to(images.device), height, width, images.dtype)
    rows = torch.arange(len(draws), device=images.device)[:, None, None]
    grid = grid[rows, y.to(images.device)[:, :, None], x.to(images.device)[:, None, :]]
    return F.grid_sample(stacked, grid, mode="bilinear", padding_mode="border", align_corners=False).view_as(images)
