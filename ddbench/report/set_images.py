"""Images of a distilled set as people look at them: decoded pixels and a title, drawn as a grid."""

from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.data.dataset import Dataset
from ddbench.data.spaces import transform_for
from ddbench.report.pictures import picture_grid
from ddbench.synset.synset import SynSet
from ddbench.synset.views import drawn, expand

if TYPE_CHECKING:
    import torch


def draw_set(synset: SynSet, dataset: Dataset, path: Path) -> Path:
    """Draw a set's images as PNG, one row per class."""
    pixels, classes, title = images_of_set(synset, dataset)
    return picture_grid(pixels, classes, synset.class_names, path, title=title)


def images_of_set(synset: SynSet, dataset: Dataset) -> "tuple[torch.Tensor, torch.Tensor, str]":
    """Return pixels [N, C, H, W] (not clamped), classes [N] and a title of a set, as a student sees it.

    Views that expand the set are expanded; for views that are drawn at every step, the stored images are returned.
    """
    images, classes = expand(synset, dataset)
    counts = classes.bincount(minlength=len(synset.class_names)).tolist()
    each = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    title = f"{synset.provenance.method} on {synset.dataset}, {each} per class"
    if synset.views is not None:
        made = f"made of {len(synset)} stored" if drawn(synset) is None else f"shown by {synset.views.kind}"
        title += f", {made}"
    return transform_for(synset.space, dataset).decode(images), classes, title
