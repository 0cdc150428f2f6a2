"""A data set and a network of a package from outside; torch is imported when one of them is used."""

from typing import TYPE_CHECKING

from ddbench.data.dataset import Dataset, DatasetCard, channel_statistics, memory_split
from ddbench.networks import Architecture

if TYPE_CHECKING:
    from torch import nn


def describe(name: str) -> DatasetCard:
    """The card of `toy-bars`."""
    return DatasetCard(name, "Bars", 2, 1, 8, 20, 8, True, "it is drawn: nothing to download")


def load(name: str) -> Dataset:
    """`toy-bars`: upright and level bars, drawn; `toy-renamed`, the same, forgets its name."""
    import torch

    def split(count: int):
        pixels = torch.zeros(count, 1, 8, 8, dtype=torch.uint8)
        for index in range(count):
            bar = pixels[index, 0] if index % 2 else pixels[index, 0].T
            bar[index % 8] = 200 + index
        return memory_split(pixels, torch.arange(count) % 2)

    train, test = split(20), split(8)
    return Dataset("toy-bars", ("upright", "level"), 1, 8, False, *channel_statistics(train.read()), train, test)


def two_layers(*, channels: int, side: int, classes: int, norm: str, width: int) -> "nn.Module":
    """Two linear layers."""
    from torch import nn

    from ddbench.networks.parts import Network

    features = nn.Sequential(nn.Flatten(), nn.Linear(channels * side**2, width), nn.ReLU())
    return Network(features, nn.Linear(width, classes))


TWO_LAYERS = Architecture("two linear layers", "these tests", ("none",), two_layers, width=16)
