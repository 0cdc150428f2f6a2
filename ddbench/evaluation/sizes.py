"""Sizes of what a student needs, in bytes: images, targets, extra tensors, and models from outside, a line each."""

import io

import torch
from PIL import Image

from ddbench.data.dataset import Dataset
from ddbench.data.spaces import transform_for
from ddbench.evaluation.protocol import Protocol
from ddbench.synset.synset import SynSet, stored_parts
from ddbench.synset.targets import targets_of
from ddbench.synset.teachers import Teacher

PNG_LEVEL = 9
AT_ONCE = 500  # images that are encoded together, where a split does not fit in memory
LINES = ("images", "images_encoded", "targets", "extra", "external")
"""`images_encoded` is another way to count `images`, so a total takes one of the two."""


def png_bytes(images: torch.Tensor) -> int:
    """Size of uint8 images [n, C, H, W] as one PNG each at level 9: the codec that all sets are counted in."""
    total = 0
    for image in images:
        pixels = image.permute(1, 2, 0).squeeze(2).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=PNG_LEVEL)
        total += buffer.tell()
    return total


def bytes_of(
    synset: SynSet,
    dataset: Dataset,
    protocol: Protocol,
    reference: Teacher | None = None,
    *,
    encode_limit: int = 20_000,
) -> dict[str, int]:
    """Count what a student needs under a protocol.

    Args:
        synset: the set; an index counts as the image that it names.
        dataset: its data set.
        protocol: what it reads decides what is counted.
        reference: the reference teacher of a soft protocol: external for every set.
        encode_limit: sets of more images are counted raw only (`whole`, say).

    Returns:
        bytes by line: `images` (as stored, or as uint8 pixels for indices), `images_encoded` (8-bit PNG, level 9; images
        outside the pixel range are clipped for counting), `targets`, `extra` (tensors of views), `external` (models).
    """
    lines = stored_parts(synset)
    if len(synset) <= encode_limit:
        transform, total = transform_for(synset.space, dataset), 0
        # large images are decoded in parts
        for places in torch.arange(len(synset)).split(len(synset) if dataset.train.resident else AT_ONCE):
            decoded = transform.decode(synset.pixels(dataset, places))
            total += png_bytes((decoded.clamp(0, 1) * 255).round().to(torch.uint8))
        lines["images_encoded"] = total
    if reference is not None:
        lines["external"] = reference.bytes()
    if protocol.shipped and synset.student_recipe is not None and synset.student_recipe.labels == "targets":
        kind, _ = targets_of(synset)
        for name, count in kind.bytes(synset).items():
            lines[name] = lines.get(name, 0) + count
    return lines
