"""A library's networks with the library's weights, and the space of the images that they were trained on."""

from torch import nn

from ddbench import networks
from ddbench.data.spaces import Space

LIBRARY_CLASSES = 1000  # ImageNet's, which the libraries' weights are for


def pretrained(name: str, *, channels: int, side: int, classes: int = LIBRARY_CLASSES) -> tuple[nn.Module, Space]:
    """A `torchvision:` or `timm:` network and its normalized space.

    Raises:
        UsageError: it has no weights for so many channels or classes, or they cannot be had.
    """
    network, mean, std = networks.pretrained(name, channels=channels, side=side, classes=classes)
    return network, Space("normalised", mean=mean, std=std)
