"""Patch shuffling (RDED, arXiv 2312.03526): a training image is cut into tiles, which come back in a random order."""

import torch
from torch import Tensor

from ddbench.errors import UsageError


def shuffle_patches(images: Tensor, generator: torch.Generator, *, factor: int) -> Tensor:
    """Cut each image into factor x factor tiles and put them back in an order of its own.

    Args:
        images: [n, C, H, W].
        generator: what the n permutations are drawn from.
        factor: tiles along a side.

    Raises:
        UsageError: H or W is not a multiple of `factor`.
    """
    tiles = factor * factor
    order = torch.rand(len(images), tiles, generator=generator, dtype=torch.float64).argsort(1)
    return move_patches(images, order, factor)


def move_patches(images: Tensor, order: Tensor, factor: int) -> Tensor:
    """Put tile order[i, t] of image i at place t; tiles are counted row by row.

    Args:
        images: [n, C, H, W].
        order: int64 [n, factor^2], a permutation in every row.
        factor: tiles along a side.
    """
    count, channels, height, width = images.shape
    if height % factor or width % factor:
        raise UsageError(f"shuffle-patches: images of {height} x {width} px are not {factor} x {factor} whole tiles")
    tiles = images.unflatten(3, (factor, -1)).unflatten(2, (factor, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = tiles[torch.arange(count, device=images.device)[:, None], order.to(images.device)]
    grid = moved.unflatten(1, (factor, factor)).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(count, channels, height, width)
