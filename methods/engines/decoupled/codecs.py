"""Codecs of synthetic images: as they are, as 8-bit pixels, or as the JPEG files that the papers' codes write."""

import io
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from ddbench.data.spaces import Space
from ddbench.synset.synset import CODECS as CODECS

Codec = Literal["float", "uint8", "jpeg75"]
AT_ONCE = 256  # images that are float copies at a time


def pixel_bounds(space: Space, channels: int) -> tuple[Tensor, Tensor]:
    """Values of black and of white in a pixel or normalized space, [C, 1, 1] each: (0 - m) / s and (1 - m) / s."""
    mean = torch.tensor(space.mean or [0.0] * channels)[:, None, None]
    std = torch.tensor(space.std or [1.0] * channels)[:, None, None]
    return -mean / std, (1 - mean) / std


def stored(images: Tensor, space: Space, codec: Codec) -> Tensor:
    """Images [n, C, H, W] of a space as a codec stores them.

    Returns:
        float32 in the space (float); or uint8 pixels: clamped to [0, 1], times 255, truncated as the papers' codes do;
        jpeg75: what is left of those after JPEG at PIL's default settings (quality 75, 4:2:0 chroma).
    """
    if codec == "float":
        return images.detach().float().cpu()
    parts = [_eight_bit(part, space) for part in images.detach().split(AT_ONCE)]
    pixels = torch.cat(parts)
    return pixels if codec == "uint8" else torch.stack([through_jpeg(image) for image in pixels])


def _eight_bit(images: Tensor, space: Space) -> Tensor:
    black, white = (bound.to(images) for bound in pixel_bounds(space, images.shape[1]))
    pixels = ((images - black) / (white - black)).clamp(0, 1)
    # half a thousandth of a step: a pixel that was an 8-bit value before must not be truncated to the one below
    return (pixels * 255 + 5e-4).clamp(max=255).to(torch.uint8).cpu()


def through_jpeg(pixels: Tensor, quality: int = 75) -> Tensor:
    """uint8 [C, H, W] after one JPEG encoding and decoding."""
    import numpy as np

    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(buffer, "JPEG", quality=quality)
    decoded = np.array(Image.open(buffer))
    return torch.from_numpy(decoded).reshape(*pixels.shape[1:], len(pixels)).permute(2, 0, 1).contiguous()
