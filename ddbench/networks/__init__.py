"""Networks by name: `create("convnet-d3-bn", channels=3, side=32, classes=10, seed=0, key=("student", 0))`.

The grammar is `BASE[-wWIDTH][-in|-bn|-none]`, `timm:NAME` or `torchvision:NAME`; every network of ours has
`.embed(images)`, the flattened input of its last linear layer, and `.head`, that layer. Packages add networks as entry
points of the group `ddbench.networks`. Names and descriptions need no torch; building imports it.
"""

from typing import TYPE_CHECKING

from ddbench.networks.registry import Architecture as Architecture
from ddbench.networks.registry import NetworkCard as NetworkCard
from ddbench.networks.registry import NetworkName as NetworkName
from ddbench.networks.registry import build as build
from ddbench.networks.registry import canonical as canonical
from ddbench.networks.registry import describe as describe
from ddbench.networks.registry import network_names as network_names
from ddbench.networks.registry import parse as parse

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Architecture",
    "NetworkCard",
    "NetworkName",
    "canonical",
    "create",
    "describe",
    "network_names",
    "parameter_count",
    "parse",
    "pretrained",
]


def create(
    name: str, *, channels: int, side: int, classes: int, seed: int = 0, key: tuple[str | int, ...] = ()
) -> "nn.Module":
    """Build a network on the CPU in train mode: equal arguments give equal weights, torch's generators stay as they are.

    Args:
        name: see the module docstring; `convnet` takes its depth from `side`.
        channels: of the images.
        side: of the images, in pixels; they are square. 8 to 128 works for every network of ours.
        classes: outputs.
        seed: with `key`, what the initial weights are drawn from.
        key: what the network is for, ("student", 3) say.

    Raises:
        UsageError: an unknown name, or a network that pools more often than `side` allows.
    """
    from ddbench.randomness import forked

    with forked(seed, "network", *key):
        return build(name, channels=channels, side=side, classes=classes)


def pretrained(
    name: str, *, channels: int, side: int, classes: int
) -> tuple["nn.Module", tuple[float, ...], tuple[float, ...]]:
    """A network of torchvision or timm on the CPU with the library's own weights, in train mode.

    torchvision's weights are IMAGENET1K_V1 where there are several, timm's those of the default tag. They are
    downloaded where they are not there yet. Their classes are in ImageNet's order, which nothing here can check.

    Args:
        name: `torchvision:NAME` or `timm:NAME`.
        channels: of the images; 3, for nearly all weights.
        side: of the images, in pixels.
        classes: 1000, for nearly all weights.

    Returns:
        The network that `create` builds, with these weights; mean and std per channel, on [0, 1], of the normalised
        space that it reads.

    Raises:
        UsageError: the network has no weights, they are for other channels or classes, they cannot be loaded (what to
            download and where to put it), or the network does not take images of this size.
    """
    from ddbench.errors import UsageError
    from ddbench.networks.weights import load_pretrained

    parsed = parse(name, side=side)
    if parsed.library is None:
        raise UsageError(f"network {name!r} has no pretrained weights: only torchvision:NAME and timm:NAME have")
    return load_pretrained(parsed.library, parsed.base, channels=channels, side=side, classes=classes)


def parameter_count(name: str, channels: int, side: int, classes: int) -> int:
    """Number of trainable values; ours are counted without memory for their weights."""
    import contextlib

    import torch

    from ddbench.randomness import forked

    ours = parse(name, side=side).library is None
    with forked(0, "count"), torch.device("meta") if ours else contextlib.nullcontext():
        network = build(name, channels=channels, side=side, classes=classes)
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
