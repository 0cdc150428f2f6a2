"""CutMix (arXiv 1905.04899) and MixUp (1710.09412): one lambda, one box and one permutation for the batch.

Both return (mixed images, permutation int64 [n] on the images' device, lam): image i is mixed with image
permutation[i], and lam is the share that stays its own, for those who mix labels.
"""

import math

import torch
from torch import Tensor


def cutmix(images: Tensor, generator: torch.Generator, *, alpha: float = 1.0) -> tuple[Tensor, Tensor, float]:
    """Paste one box from the permuted images into all.

    lambda ~ Beta(alpha, alpha); the box has sides sqrt(1 - lambda) of the image's (whole, even pixels), its center is
    uniform over the pixels, and it is clipped at the border. The lam returned is the area that was kept in fact.
    """
    cut, order = _draw(len(images), generator, alpha)
    height, width = images.shape[-2:]
    top, bottom = _span(height, math.sqrt(1 - cut), generator)
    left, right = _span(width, math.sqrt(1 - cut), generator)
    order = order.to(images.device)
    box = torch.zeros(height, width, dtype=torch.bool, device=images.device)
    box[top:bottom, left:right] = True
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return torch.where(box, images[order], images), order, kept


def mixup(images: Tensor, generator: torch.Generator, *, alpha: float = 0.8) -> tuple[Tensor, Tensor, float]:
    """Blend with the permuted images: lam x + (1 - lam) x[permutation], lam ~ Beta(alpha, alpha)."""
    lam, order = _draw(len(images), generator, alpha)
    order = order.to(images.device)
    return torch.lerp(images[order], images, lam), order, lam


def _draw(count: int, generator: torch.Generator, alpha: float) -> tuple[float, Tensor]:
    """Lambda and the permutation. The Beta draw inverts its distribution function: one uniform, whatever alpha."""
    lam = float(torch.rand((), generator=generator, dtype=torch.float64))
    if alpha != 1:
        from scipy.special import betaincinv

        lam = float(betaincinv(alpha, alpha, lam))
    return lam, torch.randperm(count, generator=generator)


def _span(size: int, share: float, generator: torch.Generator) -> tuple[int, int]:
    half = int(size * share) // 2
    center = int(torch.randint(size, (), generator=generator))
    return max(center - half, 0), min(center + half, size)
