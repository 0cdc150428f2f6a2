"""Batch norm over groups: what a network gives when a batch goes through in parts, in one forward.

CV-DD trains and labels batches of 16 as 2 x 8, so that a batch norm sees 8 images. Only the batch norms need to know:
they take the groups one after another, so that values, gradients and running statistics (with m the momentum and s_g the
statistics of group g: r <- (1 - m) r + m s_g, for g = 1, 2, ...) are those of the parts; all other layers see the whole.
Groups as channels of their own would be one call a layer but two copies: measured on a CPU (ResNet-18, 16 and 128 images
of 32 px, groups of 8), that was slower.
"""

from typing import cast

import torch
from torch import Tensor, nn


def group_batch_norms(network: nn.Module, size: int) -> None:
    """Make every `nn.BatchNorm2d` of a network normalise groups of images by themselves, from now on.

    In train mode, images [n, C, H, W] are taken `size` at a time, in order; a last group is smaller if need be. Eval mode
    and the names in the state do not change.

    Args:
        network: changed in place; a second call changes the size.
        size: images of a group, at least 1. A group of one value per channel is an error (ValueError) at the forward, as
            it is for batch norm itself.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            if not isinstance(module, _InGroups):
                module.__class__ = _grouped(type(module))
            cast(_InGroups, module).group_size = size


class _InGroups(nn.BatchNorm2d):
    """What is put before a class of batch norms: groups through its forward in train mode, whatever else that does."""

    group_size: int

    def forward(self, images: Tensor) -> Tensor:
        """Normalise [n, C, H, W]."""
        whole = super().forward
        if not self.training or len(images) <= self.group_size:
            return whole(images)
        return torch.cat([whole(part) for part in images.split(self.group_size)])


_GROUPED: dict[type[nn.BatchNorm2d], type[nn.BatchNorm2d]] = {}


def _grouped(base: type[nn.BatchNorm2d]) -> type[nn.BatchNorm2d]:
    """The grouped form of a class of batch norms, one for each; timm has some with an activation of their own, say."""
    if base not in _GROUPED:
        _GROUPED[base] = type(f"Grouped{base.__name__}", (_InGroups, base), {})
    return _GROUPED[base]
