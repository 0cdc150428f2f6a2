"""Ghost batch norm (arXiv 1705.08741): batch norms that normalize a batch in groups, in one forward pass of the network.

CV-DD trains and labels batches of 16 as 2 x 8, so that a batch norm sees 8 images. Only the batch norms need to change:
they take the groups one after another, so that values, gradients and running statistics (with m the momentum and s_g the
statistics of group g: r <- (1 - m) r + m s_g, for g = 1, 2, ...) are those of the parts; all other layers see the whole.
Groups as channels of their own would be one call a layer but two copies: measured on a CPU (ResNet-18, 16 and 128 images
of 32 px, groups of 8), that was slower.
"""

from typing import Any

import torch
from torch import Tensor, nn

INNER = "norm."


class GhostBatchNorm2d(nn.Module):
    """A batch norm behind a split into groups; its state has the names of the plain batch norm."""

    def __init__(self, norm: nn.BatchNorm2d, size: int) -> None:
        """Normalize groups of `size` images by `norm`, of this class or of one that does more (timm's activations)."""
        super().__init__()
        self.norm, self.size = norm, size
        self.register_state_dict_post_hook(_drop_inner)
        self.register_load_state_dict_pre_hook(_add_inner)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize [n, C, H, W]: in train mode by groups in order, a last one smaller if need be."""
        if not self.norm.training or len(images) <= self.size:
            result: Tensor = self.norm(images)
            return result
        return torch.cat([self.norm(group) for group in images.split(self.size)])


def use_ghost_batch_norm(network: nn.Module, size: int) -> nn.Module:
    """Make every `nn.BatchNorm2d` of a network normalize groups of images by themselves, from now on.

    Eval mode and the names in the state do not change.

    Args:
        network: changed in place; a second call changes the size.
        size: images of a group, at least 1. A group of one value per channel is an error (ValueError) at the forward, as
            it is for batch norm itself.

    Returns:
        The network; of a single batch norm, what takes its place.
    """
    if isinstance(network, nn.BatchNorm2d):
        return GhostBatchNorm2d(network, size)
    for module in list(network.modules()):
        if isinstance(module, GhostBatchNorm2d):
            module.size = size
            continue
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, GhostBatchNorm2d(child, size))
    return network


def _drop_inner(module: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """Name the entries of a state as the plain batch norm does, in the same order."""
    for name in [name for name in state if name.startswith(prefix + INNER)]:
        state[prefix + name.removeprefix(prefix + INNER)] = state.pop(name)


def _add_inner(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Undo `_drop_inner` before a state is loaded."""
    for name in module.get_submodule("norm").state_dict():
        if prefix + name in state:
            state[prefix + INNER + name] = state.pop(prefix + name)
