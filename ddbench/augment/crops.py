"""Shifts, flips and crops of a fixed output size, parameters per sample.

What is drawn comes from a CPU generator in float32, in amounts that do not depend on what was drawn, so equal
generators give equal draws on every device. A parameter tensor of length 1 serves a batch of any size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_TRIES = 10  # torchvision's: windows drawn before RandomResizedCrop falls back to the center


def shift(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move the window by whole pixels: out[y, x] = in[y + down, x + right], 0 where that is outside.

    Args:
        images: [n, C, H, W].
        down: int64 [n], or [1] for one shift of all.
        right: likewise.
    """
    height, width = images.shape[-2:]
    if len(down) == 1 and max(abs(rows := int(down)), abs(columns := int(right))) < min(height, width):
        return F.pad(images, (-columns, columns, -rows, rows))
    device = images.device
    y = torch.arange(height, device=device) + down.to(device)[:, None]
    x = torch.arange(width, device=device) + right.to(device)[:, None]
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
    source = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None, :]
    source = source.flatten(1)[:, None].expand(*images.shape[:2], -1)
    return images.flatten(2).gather(2, source).view_as(images) * inside[:, None]


def pad_crop(images: Tensor, generator: torch.Generator, *, pad: int) -> Tensor:
    """Pad by `pad` pixels of 0 on each side and crop back at a random place, per sample (torchvision's RandomCrop)."""
    down, right = torch.randint(-pad, pad + 1, (2, len(images)), generator=generator)
    return shift(images, down, right) if len(images) else images


def flip(images: Tensor, generator: torch.Generator, p: float = 0.5) -> Tensor:
    """Mirror left and right with probability `p`, per sample."""
    return flipped(images, torch.rand(len(images), generator=generator) < p)


def flipped(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the samples where `chosen` (bool [n] or [1]) is true."""
    if len(chosen) == 1:
        return images.flip(-1) if bool(chosen) else images
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def random_resized_crop(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Crop a window per sample and enlarge it to the input's size (torchvision's RandomResizedCrop, bilinear).

    Args:
        images: [n, C, H, H].
        generator: what the windows are drawn from.
        scale: range of the window's share of the area.
        ratio: range of width / height; its logarithm is uniform.
    """
    boxes = draw_crops(len(images), images.shape[-1], generator, scale=scale, ratio=ratio)
    return resized_crop(images, boxes)


def draw_crops(
    count: int,
    side: int,
    generator: torch.Generator,
    *,
    scale: tuple[float | Tensor, float | Tensor] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Draw `count` windows for images of `side` pixels: int64 [count, 4] of top, left, height, width.

    The first of ten tries that fits is taken, else the largest centerd window with a ratio in range. An end of `scale`
    may be a float64 [count, 1]: one for each window.
    """
    u = torch.rand(4, count, _TRIES, generator=generator, dtype=torch.float64)
    area = side * side * (scale[0] + u[0] * (scale[1] - scale[0]))
    shape = torch.exp(math.log(ratio[0]) + u[1] * math.log(ratio[1] / ratio[0]))
    sizes = torch.stack([(area / shape).sqrt(), (area * shape).sqrt()]).round().long()
    fits = ((sizes > 0) & (sizes <= side)).all(0)
    sizes = torch.cat([sizes, _fallback(side, ratio).view(2, 1, 1).expand(2, count, 1)], 2)
    first = torch.cat([fits, torch.ones(count, 1, dtype=torch.bool)], 1).int().argmax(1)
    size = sizes[:, torch.arange(count), first]
    place = u[2:, torch.arange(count), first.clamp(max=_TRIES - 1)]
    corner = torch.where(first < _TRIES, (place * (side - size + 1)).long(), (side - size) // 2)
    return torch.cat([corner, size]).T.contiguous()


def _fallback(side: int, ratio: tuple[float, float]) -> Tensor:
    """Height and width of the largest window of a square with a ratio in range: all of it where 1 is in range."""
    height = round(side / ratio[0]) if ratio[0] > 1 else side
    width = round(side * ratio[1]) if ratio[1] < 1 else side
    return torch.tensor([height, width])


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Cut `boxes` (int64 [n, 4] or [1, 4]: top, left, height, width) and enlarge each to the images' size, bilinear.

    Sampling coordinates are clamped to the pixel centers inside the window, so that nothing from outside enters:
    equal to cropping, then resizing with align_corners False. No shape depends on the boxes.
    """
    height, width = images.shape[-2:]
    grid = crop_grid(boxes.to(images.device), height, width, images.dtype).expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop_grid(boxes: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Sampling grid of `resized_crop`: [n, H, W, 2] of x and y in grid_sample's coordinates, on the boxes' device.

    Args:
        boxes: int64 [n, 4]: top, left, height, width.
        height: H of the images, pixels.
        width: W likewise.
        dtype: of the images.
    """
    top, left, tall, wide = boxes.T[:, :, None].to(torch.promote_types(dtype, torch.float32))
    y = _centers(height, top, tall)
    x = _centers(width, left, wide)
    return torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1).to(dtype)


def _centers(size: int, start: Tensor, length: Tensor) -> Tensor:
    """Sampling places of `size` output pixels, in grid_sample's [-1, 1] coordinates: [n, size]."""
    steps = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    inside = (steps * length / size - 0.5).clamp(min=0).minimum(length - 1)
    return (2 * (start + inside) + 1) / size - 1
