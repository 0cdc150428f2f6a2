"""Images at the side that a network reads."""

import torch.nn.functional as F
from torch import Tensor


def resized(images: Tensor, side: int) -> Tensor:
    """Images [b, C, H, W] bilinearly at another side, smoothed where they shrink; those that have it as they are."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)
