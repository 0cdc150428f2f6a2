"""Views: how stored tensors become training images, before the protocol's own augmentation.

A kind is a plugin of the group `ddbench.views`. It checks its own content, and expands the set into training images, or
draws one view of a stored image each time that a training shows it. Whoever asks for training images, how many there
are, or what is shown of them, asks here.
"""

from abc import ABC, abstractmethod

import torch

from ddbench import plugins
from ddbench.data.dataset import Dataset
from ddbench.data.spaces import Space, transform_for
from ddbench.data.streamed import ReadImages
from ddbench.errors import UsageError
from ddbench.synset.synset import MAX_IMAGES, SynSet, Views, check_dataset
from ddbench.training.batch_schedule import Images, Transformation

GROUP = "ddbench.views"

MAX_BYTES = 2**35
"""Of expanded images: a small file of a stranger must not ask for all memory."""

CPU = torch.device("cpu")

__all__ = ["ViewKind", "Views", "drawn", "expand", "find_view_kind", "training_count", "training_images"]


class ViewKind(ABC):
    """One kind of views."""

    @abstractmethod
    def check(self, synset: SynSet) -> None:
        """Raise UsageError unless the set's views are well formed: parameters, shapes, ranges."""

    @abstractmethod
    def count(self, synset: SynSet) -> int:
        """Count the training images of a set; reads header and shapes only."""

    @abstractmethod
    def expand(self, synset: SynSet, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
        """Training images, float32 [N, C, H, W] in the set's space, and their classes, int64 [N].

        Of a kind that draws, the stored images: `count` is their number.
        """

    def draw(self, synset: SynSet) -> Transformation | None:
        """Give what turns a batch of training images into full-size views, by a generator; None: they are shown whole.

        The batch may be in another pixel or normalised space than the set's.
        """
        return None


def find_view_kind(name: str) -> ViewKind:
    """View kind registered under a name; UsageError if there is none."""
    return plugins.find_a(ViewKind, GROUP, name)


def training_count(synset: SynSet) -> int:
    """Count the images that a student trains on, N: the stored ones, or those that the views make of them.

    Raises:
        UsageError: the views are unknown or malformed, or make more images than a set may have.
    """
    if synset.views is None:
        return len(synset)
    kind = find_view_kind(synset.views.kind)
    kind.check(synset)
    count = kind.count(synset)
    if count > MAX_IMAGES:
        raise UsageError(f"views: {count:,} training images are more than {MAX_IMAGES:,}")
    return count


def drawn(synset: SynSet) -> Transformation | None:
    """Give what draws views of the images in a training, for `BatchSchedule.draw`; None: nothing is drawn. UsageError as `expand`."""
    if synset.views is None:
        return None
    kind = find_view_kind(synset.views.kind)
    kind.check(synset)
    return kind.draw(synset)


def expand(synset: SynSet, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Expand a set into what a student trains on: float32 [N, C, H, W] in the set's space, and int64 classes [N].

    Raises:
        UsageError: the views are unknown or malformed, or too large, or the set is of another data set.
    """
    if synset.views is None:
        return synset.pixels(dataset), synset.classes
    size = 4 * training_count(synset) * synset.channels * synset.side**2
    if size > MAX_BYTES:
        raise UsageError(
            f"views: the training images would take {size / 2**30:.1f} GiB, allowed are {MAX_BYTES / 2**30:.0f}"
        )
    return find_view_kind(synset.views.kind).expand(synset, dataset)


def training_images(
    synset: SynSet, dataset: Dataset, device: torch.device = CPU, space: Space | None = None
) -> tuple[Images, torch.Tensor]:
    """Give what a student trains on, on a device: float32 [N, C, H, W], and int64 classes [N].

    They are what `expand` gives, at once. But images that a set names in a split that does not fit in memory are read
    when they are shown: as many as there may be, only a batch of them takes memory.

    Args:
        synset: the set.
        dataset: that it is of.
        device: of the training.
        space: that the images are mapped into; None: the set's.

    Raises:
        UsageError: as `expand`.
    """
    if _named_in_files(synset, dataset):
        check_dataset(synset, dataset)
        transform = transform_for(space or synset.space, dataset)
        return ReadImages.of(dataset.train, transform, device, synset.indices), synset.classes.to(device)
    images, classes = expand(synset, dataset)
    if space is not None and space != synset.space:
        images = transform_for(space, dataset).encode(transform_for(synset.space, dataset).decode(images))
    return images.to(device), classes.to(device)


def _named_in_files(synset: SynSet, dataset: Dataset) -> bool:
    """Tell whether training images are images of a split that does not fit in memory, shown whole or by a view that draws."""
    named = synset.indices is not None and not dataset.train.resident
    return named and (synset.views is None or drawn(synset) is not None)
