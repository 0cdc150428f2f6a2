"""Class activation maps: where in an image a frozen network sees its class.

With A [d, h, w] the last feature maps of an image and z_c the logit of its class c, HiResCAM (arXiv 2011.08891) is

    map = sum_k A_k * dz_c / dA_k          (elementwise; [h, w])

For global average pooling and a linear head W, dz_c / dA_k is W_ck / (h w) everywhere: the map is that of CAM (arXiv
1512.04150), sum_k W_ck A_k, over h w. A head that sees the flattened maps has a weight of its own at every place. What
counts here is C: the map's positive part, divided by its maximum, enlarged to the image's size; of an image without a
positive part, 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddbench.distillation.task import Task
from ddbench.errors import UsageError

AT_ONCE = 256  # images in a forward


def require_maps(task: Task, names: Sequence[str]) -> None:
    """Raise UsageError where a network has no feature maps that a class activation map could be of; called before it is trained."""
    data = task.dataset
    for name in names:
        network = task.create_network("maps", name=name).eval()
        mapped_part(network, torch.zeros(1, data.channels, data.side, data.side, device=task.device))


@torch.no_grad()
def mapped_part(network: nn.Module, image: Tensor) -> nn.Module:
    """Find the part of a network whose output is its last feature maps: the last [b, d, h, w] of more than one pixel.

    Args:
        network: in eval mode.
        image: [1, C, H, W], of any content.

    Raises:
        UsageError: no part gives such maps.
    """
    parts: list[nn.Module] = []

    def look(part: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output[0, 0].numel() > 1:
            parts.append(part)

    hooks = [part.register_forward_hook(look) for part in network.modules()]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not parts:
        raise UsageError(
            f"{type(network).__name__} has no feature maps for class activation maps: choose a convolutional network"
        )
    return parts[-1]


class ActivationMaps:
    """C of images and classes: (images [b, C, H, W], int64 [b]) -> [b, H, W] in [0, 1]. No gradient leaves it."""

    def __init__(self, network: nn.Module) -> None:
        """Take a network, which is put into eval mode and frozen."""
        self.network = network.eval().requires_grad_(False)
        self._part: nn.Module | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """C of each image by its own label; no image depends on another."""
        side = images.shape[-2:]
        parts = zip(images.detach().split(AT_ONCE), labels.split(AT_ONCE), strict=True)
        return torch.cat([enlarged(self.raw(some, own), (side[0], side[1])) for some, own in parts])

    def raw(self, images: Tensor, labels: Tensor) -> Tensor:
        """Maps [b, h, w] as they come out of the network."""
        self._part = self._part or mapped_part(self.network, images[:1])
        maps, gradient = maps_and_gradient(
            self.network, self._part, images, lambda logits: logits.gather(1, labels[:, None])
        )
        return (maps * gradient).sum(1)


def maps_and_gradient(
    network: nn.Module, part: nn.Module, images: Tensor, score: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """A part's maps A [b, d, h, w] of images [b, C, H, W], and d score(logits) / dA, the scores summed over images."""
    maps: list[Tensor] = []

    def cut(part: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Autograd begins here; what comes after may write into its copy."""
        maps[:] = [output.detach().requires_grad_()]
        return maps[0].clone()

    with part.register_forward_hook(cut), torch.enable_grad():
        (gradient,) = torch.autograd.grad(score(network(images.detach())).sum(), maps[0])
    return maps[0].detach(), gradient


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [b, h, w]: the positive part, over its maximum in each map (0 where that is 0), bilinear to `size`; in [0, 1]."""
    positive = maps.relu()
    highest = positive.amax((1, 2), keepdim=True)
    share = positive / torch.where(highest > 0, highest, 1)
    large = F.interpolate(share[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    return large.clamp(0, 1)  # the interpolation may round to a little above 1


def window_shares(maps: Tensor, boxes: Tensor, *, mean: bool = False) -> Tensor:
    """Share of each map that lies inside windows of it.

    Args:
        maps: [p, H, W], 0 or more.
        boxes: int64 [p, n, 4]: top, left, height, width.
        mean: the mean of the map inside instead, which does not grow with the window.

    Returns:
        float64 [p, n]: sum inside / sum of the map (0 where that is 0), or sum inside / pixels inside.
    """
    below = F.pad(maps.double().cumsum(1).cumsum(2), (1, 0, 1, 0))  # [p, y, x]: sum above y and left of x
    top, left, height, width = boxes.to(maps.device).unbind(2)
    rows = torch.arange(len(maps), device=maps.device)[:, None]
    ends = below[rows, top + height, left + width] - below[rows, top, left + width]
    inside = (ends - below[rows, top + height, left] + below[rows, top, left]).clamp_min(0)
    total = height * width if mean else below[:, -1:, -1]
    return torch.where(total > 0, inside / torch.where(total > 0, total, 1), 0)
