"""A data set: two splits of square uint8 images with classes, and a card that says so without reading pixels.

Nothing here imports torch before pixels are touched, so that the command line can list data sets at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddbench.hashing import tensors_digest

if TYPE_CHECKING:
    import torch

RESIDENT_SIDE = 128  # pixels; up to this side a split is kept decoded in memory, above it is read from files


@dataclass(frozen=True)
class DatasetCard:
    """Facts about a data set that are known before it is read.

    `train` and `test` are numbers of images, None where only reading tells. `available`: it loads without a network.
    `how_to_get` is one line: what to download and where to put it, or that nothing is needed.
    """

    name: str
    title: str
    classes: int
    channels: int
    side: int
    train: int | None
    test: int | None
    available: bool
    how_to_get: str


Reader = Callable[["torch.Tensor | None"], "torch.Tensor"]


@dataclass(frozen=True, eq=False)
class Split:
    """Labeled images, in memory or read from files on demand, behind one interface.

    Attributes:
        labels: int64 [n], each in 0..classes-1.
        hash: 64 hex digits over pixels and labels; of an on-demand split over file names, sizes and labels.
        resident: the pixels fit in memory, so `read()` of everything is reasonable.
        reader: indices (int64 [b], or None for all) to uint8 [b, C, H, W].
    """

    labels: "torch.Tensor"
    hash: str
    resident: bool
    reader: Reader

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: "torch.Tensor | None" = None) -> "torch.Tensor":
        """Pixels of the images at `indices` (int64 [b]), in that order, or of all: uint8 [b, C, H, W].

        A resident split gives all its pixels without a copy: do not write to them.
        """
        return self.reader(indices)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: who it is, how its pixels are normalized, and its two splits.

    Attributes:
        id: its name; for a folder "<name>@<8 hex of the content hash>", never a path.
        class_names: in label order.
        channels: 1 (grey) or 3 (RGB).
        side: pixels; images are square.
        flip: a horizontal flip keeps the class.
        mean: per channel, of pixels in [0, 1]: the `normalised` space.
        std: likewise, above 0.
        train: what methods learn from.
        test: what students are scored on.
    """

    id: str
    class_names: tuple[str, ...]
    channels: int
    side: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split


@dataclass(frozen=True, eq=False)
class InMemory:
    """Reader of pixels that are already decoded: uint8 [n, C, H, W]."""

    pixels: "torch.Tensor"

    def __call__(self, indices: "torch.Tensor | None") -> "torch.Tensor":
        """Pixels of the images at `indices` (int64 [b]), or of all."""
        return self.pixels if indices is None else self.pixels[indices]


def pixels_hash(pixels: "torch.Tensor", labels: "torch.Tensor") -> str:
    """Hash of a resident split: SHA-256 over uint8 [n, C, H, W] and int64 [n]."""
    return tensors_digest({"labels": labels, "pixels": pixels})


def memory_split(pixels: "torch.Tensor", labels: "torch.Tensor") -> Split:
    """A resident split of uint8 [n, C, H, W] with int64 [n]."""
    pixels, labels = pixels.contiguous(), labels.long().contiguous()
    return Split(labels, pixels_hash(pixels, labels), True, InMemory(pixels))


def channel_statistics(pixels: "torch.Tensor") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (of the population) per channel of uint8 [n, C, H, W], on [0, 1], exact in float64.

    They come from counts of the 256 values, so neither memory nor rounding grows with n. A constant channel has
    std 1: dividing by it must change nothing.
    """
    import torch

    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(pixels.shape[1]):
        counts = torch.zeros(256, dtype=torch.float64)
        for chunk in pixels[:, channel].split(4096):
            counts += torch.bincount(chunk.flatten(), minlength=256)
        mean = float(counts @ values / counts.sum())
        std = float((counts @ (values - mean) ** 2 / counts.sum()).sqrt())
        means.append(mean)
        stds.append(std or 1.0)
    return tuple(means), tuple(stds)
