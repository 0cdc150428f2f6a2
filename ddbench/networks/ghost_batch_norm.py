"""Ghost batch norm: a network gives for a whole batch, in one forward, what it gives for the parts of the batch in turn.

CV-DD trains and labels batches of 16 as 2 x 8, so that a batch norm sees 8 images. Only the batch norms need to change:
they take the groups one after another, so that values, gradients and running statistics (with m the momentum and s_g the
statistics of group g: r <- (1 - m) r + m s_g, for g = 1, 2, ...) are those of the parts; all other layers see the whole.
Groups as channels of their own would be one call a layer but two copies: measured on a CPU (ResNet-18, 16 and 128 images
of 32 px, groups of 8), that was slower.
"""

from functools import partial

import torch
from torch import Tensor, nn


def group_batch_norms(network: nn.Module, size: int) -> None:
    """Make every `nn.BatchNorm2d` of a network normalize groups of images by themselves, from now on.

    In train mode, images [n, C, H, W] are taken `size` at a time, in order; a last group is smaller if need be. Eval mode
    and the names in the state do not change.

    Args:
        network: changed in place; a second call changes the size.
        size: images of a group, at least 1. A group of one value per channel is an error (ValueError) at the forward, as
            it is for batch norm itself.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.forward = partial(_forward, module, size)  # type: ignore[method-assign]


def _forward(norm: nn.BatchNorm2d, size: int, images: Tensor) -> Tensor:
    """Normalize [n, C, H, W]: groups through the forward of the layer's class in train mode, whatever else that does."""
    forward = type(norm).forward
    if not norm.training or len(images) <= size:
        return forward(norm, images)
    return torch.cat([forward(norm, part) for part in images.split(size)])
