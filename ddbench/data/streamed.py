"""Images of a split that does not fit in memory, for a training: read when they are shown."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ddbench.data.dataset import Split
from ddbench.data.spaces import Transform


@dataclass(frozen=True, eq=False)
class ReadImages:
    """Some images of a split, or all, in a space; a batch takes memory, the split does not. See `ddbench.training.batch_schedule.Images`.

    Attributes:
        split: what is read.
        encode: pixels in [0, 1] on the device to the space.
        device: where images are given.
        places: int64 [n], the images of the split that these are, in order; None: all of them.
    """

    split: Split
    encode: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device
    places: torch.Tensor | None = None

    @classmethod
    def of(
        cls, split: Split, transform: Transform, device: torch.device, places: torch.Tensor | None = None
    ) -> "ReadImages":
        """Images of a split in the space of a transform."""
        return cls(split, transform.to(device).encode, device, places)

    def __len__(self) -> int:
        return len(self.split if self.places is None else self.places)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        index = index.cpu()
        pixels = self.split.read(index if self.places is None else self.places[index])
        return self.encode(pixels.to(self.device).float() / 255)
