"""Networks by name: `create("convnet-d3-bn", channels=3, side=32, classes=10, seed=0, key=("student", 0))`.

The grammar is `BASE[-wWIDTH][-in|-bn|-none]`, `timm:NAME` or `torchvision:NAME`; every network of ours has
`.embed(images)`, the flattened input of its last linear layer, and `.head`, that layer. Names and descriptions
need no torch; building imports it.
"""

from typing import TYPE_CHECKING

from ddbench.networks.names import NetworkCard as NetworkCard
from ddbench.networks.names import NetworkName as NetworkName
from ddbench.networks.names import canonical as canonical
from ddbench.networks.names import describe as describe
from ddbench.networks.names import network_names as network_names
from ddbench.networks.names import parse as parse

if TYPE_CHECKING:
    from torch import nn

__all__ = ["NetworkCard", "NetworkName", "canonical", "create", "describe", "network_names", "parameter_count", "parse"]


def create(
    name: str, *, channels: int, side: int, classes: int, seed: int = 0, key: tuple[str | int, ...] = ()
) -> "nn.Module":
    """Build a network on the CPU in train mode; equal arguments give equal weights, torch's generators are untouched.

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
    from ddbench.networks.build import build
    from ddbench.randomness import forked

    with forked(seed, "network", *key):
        return build(name, channels=channels, side=side, classes=classes)


def parameter_count(name: str, channels: int, side: int, classes: int) -> int:
    """Number of trainable values; ours are counted without memory for their weights."""
    import contextlib

    import torch

    from ddbench.networks.build import build
    from ddbench.randomness import forked

    ours = parse(name, side=side).library is None
    with forked(0, "count"), torch.device("meta") if ours else contextlib.nullcontext():
        network = build(name, channels=channels, side=side, classes=classes)
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)
