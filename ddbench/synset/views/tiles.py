"""`tiles`: one tile of a canvas, enlarged (PCA, arXiv 2502.06434).

A stored image is a canvas of f x f tiles. Each time that a training shows it, one tile, drawn uniformly for each image
and step, is enlarged to the full side; so a canvas is one training image, and N = n.
"""

from functools import partial

import torch

from ddbench.augment import resized_crop
from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet
from ddbench.synset.views import ViewKind
from ddbench.training.batch_schedule import Transformation


class Tiles(ViewKind):
    """No tensors. Params: `factor`, tiles on a side, f; it divides the images' side. 1 shows the images whole."""

    def check(self, synset: SynSet) -> None:
        """See the base class; a whitened space is refused, whose pixels mix those of all tiles."""
        assert synset.views is not None
        params, factor = synset.views.params, synset.views.params.get("factor")
        if set(params) != {"factor"} or type(factor) is not int or factor < 1:
            raise UsageError(f"views (tiles): params are factor = a whole number of at least 1, not {params}")
        if synset.views.tensors:
            raise UsageError(f"views (tiles) hold no tensors, not {sorted(synset.views.tensors)}")
        if synset.side % factor:
            raise UsageError(f"views (tiles): factor {factor} does not divide images of {synset.side} px")
        if synset.space.kind == "zca":
            raise UsageError(
                "views (tiles) need a pixel or normalised space: a whitened pixel mixes those of all tiles"
            )

    def count(self, synset: SynSet) -> int:
        """See the base class: the stored images."""
        return len(synset)

    def expand(self, synset: SynSet, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
        """See the base class: the canvases."""
        return synset.pixels(dataset), synset.classes

    def draw(self, synset: SynSet) -> Transformation | None:
        """See the base class: `one_tile`."""
        assert synset.views is not None
        factor = synset.views.params["factor"]
        return partial(one_tile, factor=factor) if factor > 1 else None


def one_tile(images: torch.Tensor, generator: torch.Generator, *, factor: int) -> torch.Tensor:
    """One of factor x factor tiles of each image [n, C, H, H], uniform and independent, enlarged to H, bilinear."""
    size = images.shape[-1] // factor
    place = torch.randint(factor**2, (len(images),), generator=generator)
    corner = torch.stack([place // factor, place % factor], dim=1) * size
    return resized_crop(images, torch.cat([corner, torch.full_like(corner, size)], dim=1))


TILES = Tiles()
