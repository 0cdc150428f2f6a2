"""Parts that the networks share: the split into embedding and head, norm layers, and strides that small images can bear."""

from typing import Any

import torch
from torch import nn

from ddbench.errors import UsageError

HALVINGS = 5  # of an ImageNet network: stem, first pool or stage, and three more stages


class Network(nn.Module):
    """A network in two parts: `embed`, up to the flattened input of the last linear layer, and `head`, that layer."""

    def __init__(self, features: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Features [b, d] of images [b, C, H, W]."""
        return self.features(images).flatten(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [b, classes] of images [b, C, H, W]."""
        return self.head(self.embed(images))


def norm_layer(norm: str, channels: int) -> nn.Module:
    """A norm by name; "in" is one group per channel with affine weights, eps 1e-5 (the DD papers' instance norm)."""
    if norm == "in":
        return nn.GroupNorm(channels, channels, eps=1e-5)
    return nn.BatchNorm2d(channels) if norm == "bn" else nn.Identity()


def conv(inputs: int, outputs: int, norm: str, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A padded convolution, norm and ReLU, as the layers of a sequence."""
    layers = [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), norm_layer(norm, outputs), nn.ReLU()]
    return [layer for layer in layers if not isinstance(layer, nn.Identity)]


def replace_norms(module: nn.Module, norm: str) -> None:
    """Put `norm` in the place of every batch norm, in place; "bn" leaves a network as it is."""
    if norm == "bn":
        return
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, norm_layer(norm, child.num_features))
        else:
            replace_norms(child, norm)


def plain_activations(module: nn.Module) -> None:
    """Make activations write new tensors, so that what a hook kept of a layer stays as it was."""
    for part in module.modules():
        if hasattr(part, "inplace"):
            setattr(part, "inplace", False)  # noqa: B010 - mypy sees a module's attributes as tensors


def halvings(side: int) -> list[bool]:
    """Halvings of an ImageNet network, of five, that are kept at `side` pixels.

    Up to 64 px not the first two, as in the CIFAR forms; and none that would leave less than 2 x 2 pixels, where
    an instance norm would return its bias whatever the image.
    """
    kept, small, map_side = [], side <= 64, side
    for position in range(HALVINGS):
        kept.append(map_side // 2 >= 2 and not (small and position < 2))
        map_side //= 2 if kept[-1] else 1
    return kept


def new_conv(conv: nn.Conv2d, *, channels: int | None = None, kernel: int | None = None) -> nn.Conv2d:
    """A convolution like `conv` for other input channels or another odd kernel size ("same" padding), He-initialized."""
    how: dict[str, Any] = {"kernel_size": conv.kernel_size, "padding": conv.padding, "stride": conv.stride}
    if kernel is not None:
        how |= {"kernel_size": kernel, "padding": kernel // 2}
    made = nn.Conv2d(channels or conv.in_channels, conv.out_channels, bias=conv.bias is not None, **how)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def drop_strides(module: nn.Module) -> None:
    """Set the stride of every convolution in `module` to 1."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.stride = (1, 1)


def too_small(name: str, side: int, least: int) -> UsageError:
    """Error for a network that pools more often than the images allow."""
    return UsageError(f"network {name!r} needs images of at least {least} px, not {side} px")
