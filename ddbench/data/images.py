"""Splits made of image files: decoding them, keeping them decoded or reading them on demand. `listing` lists them.

Geometry, for every set read from files: the short side is resized to the target (bilinear with antialiasing, as
PIL does it), then the center square is cut out. Up to 128 px the target is the side itself; above, it is
side * 256 / 224, so 224 px images come from a short side of 256. Nothing is squashed (MTT's ImageNet subsets are, in
its code; here shapes keep their proportions).
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.data.dataset import RESIDENT_SIDE, InMemory, Split
from ddbench.data.listing import Listing
from ddbench.errors import UsageError
from ddbench.hashing import digest_of_parts, list_json
from ddbench.settings import cache_dir
from ddbench.system.files import cached_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's constants per channel, on [0, 1], as in MTT's repository."""
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
PROBES = 64  # images whose headers decide grey or color
CHUNK = 64  # images that one thread decodes at a time, at most
THREADS = 8
DECODER = 1  # raised by hand when the geometry or the conversion changes; part of the cache's key


def probe_side(listing: Listing) -> int:
    """Side that a listing's first image suggests: its short side up to 128 px, else 224."""
    with _opened(listing.path(0)) as image:
        short = min(image.size)
    return short if short <= RESIDENT_SIDE else 224


def probe_channels(*listings: Listing) -> int:
    """1 if every probed image (up to 64 of each listing, evenly spaced) has mode L, else 3. Reads headers only."""
    for listing in listings:
        count = min(PROBES, len(listing))
        for step in range(count):
            with _opened(listing.path(step * len(listing) // count)) as image:
                if image.mode != "L":
                    return 3
    return 1


def file_split(listing: Listing, *, side: int, channels: int) -> Split:
    """Split of a listing: resident up to 128 px (decoded once, then cached), streamed above."""
    if side <= RESIDENT_SIDE:
        return _resident(listing, side, channels)
    return streamed_split(listing, side=side, channels=channels)


def streamed_split(listing: Listing, *, side: int, channels: int) -> Split:
    """A split that decodes images when they are read. Its hash covers names, sizes, labels, side and channels."""
    import torch

    labels = torch.from_numpy(listing.labels)
    return Split(labels, _contents_hash(listing, side, channels), False, FromFiles(listing, side, channels))


def _contents_hash(listing: Listing, side: int, channels: int) -> str:
    """Compute the `digest` of {"channels", "decoder", "files": [[name, bytes, label], ...], "side"}, file by file."""
    opened, closed = f'{{"channels":{channels},"decoder":{DECODER},"files":', f',"side":{side}}}'
    return digest_of_parts(chain([opened], list_json(listing.contents()), [closed]))


def _resident(listing: Listing, side: int, channels: int) -> Split:
    import torch

    def build() -> "dict[str, torch.Tensor]":
        return {"labels": torch.from_numpy(listing.labels), "pixels": decode(listing, None, side, channels)}

    path = cache_dir() / "decoded" / f"{_decoded_key(listing, side, channels)}.safetensors"
    tensors, content = cached_tensors(path, build)
    return Split(tensors["labels"], content, True, InMemory(tensors["pixels"]))


def _decoded_key(listing: Listing, side: int, channels: int) -> str:
    """Compute the `digest` of [decoder, names, labels, (bytes, mtime)s, side, channels], file by file.

    The modification times are in the cache's key, never in the split's hash.
    """
    names, labels, stats = (list_json(part) for part in (listing.names, listing.label_list(), listing.stats()))
    return digest_of_parts(chain([f"[{DECODER},"], names, [","], labels, [","], stats, [f",{side},{channels}]"]))


@dataclass(frozen=True, eq=False)
class FromFiles:
    """Reader that decodes the files it is asked for: uint8 [b, channels, side, side]."""

    listing: Listing
    side: int
    channels: int

    def __call__(self, indices: "torch.Tensor | None") -> "torch.Tensor":
        """Pixels of the images at `indices` (int64 [b]), or of all."""
        return decode(self.listing, None if indices is None else indices.tolist(), self.side, self.channels)


def decode(listing: Listing, indices: Sequence[int] | None, side: int, channels: int) -> "torch.Tensor":
    """Decode the images at `indices` (all for None) to uint8 [b, channels, side, side], on as many threads as cores.

    The result does not depend on the number of threads. UsageError names an image that cannot be read, or that has
    changed since it was listed.
    """
    import torch

    chosen = range(len(listing)) if indices is None else indices
    pixels = torch.empty(len(chosen), channels, side, side, dtype=torch.uint8)
    rows, threads = pixels.numpy(), min(THREADS, os.cpu_count() or 1)
    size = max(1, min(CHUNK, -(-len(chosen) // threads)))  # a training's batch keeps all threads busy

    def fill(start: int) -> None:
        for row in range(start, min(start + size, len(chosen))):
            rows[row] = decode_image(listing.unchanged(chosen[row]), side, channels)

    starts = range(0, len(chosen), size)
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        for _ in _progress(pool.map(fill, starts), len(starts), f"decoding {len(chosen):,} images"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return pixels


def decode_image(path: Path, side: int, channels: int) -> "np.ndarray[Any, Any]":
    """One image as uint8 [channels, side, side]; UsageError if it is unreadable, of 16 bits, or color among grey."""
    import numpy as np

    with _opened(path) as image:
        if image.mode not in GREY_MODES + COLOUR_MODES:
            raise UsageError(f"image {path} has mode {image.mode}: only images of 8 bits a channel are read")
        if channels == 1 and image.mode not in GREY_MODES:
            raise UsageError(f"image {path} has mode {image.mode} in a grey data set: convert it, or all others to RGB")
        try:
            if "transparency" in image.info and image.mode == "P":
                image = image.convert("RGBA")  # PIL's own advice for palettes with transparency
            image = _center_square(image.convert("L" if channels == 1 else "RGB"), side)
        except (OSError, SyntaxError, ValueError) as error:
            raise UsageError(f"cannot read image {path}: {error}") from error
        return np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)


def _center_square(image: "Image", side: int) -> "Image":
    from PIL.Image import Resampling

    width, height = image.size
    short = side if side <= RESIDENT_SIDE else round(side * 256 / 224)
    if min(width, height) != short:
        scale = short / min(width, height)
        width, height = max(short, int(width * scale)), max(short, int(height * scale))
        image = image.resize((width, height), Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _opened(path: Path) -> "Image":
    from PIL import Image

    try:
        return Image.open(path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise UsageError(f"cannot read image {path}: {reason}") from error


def _progress(done: Iterable[None], total: int, label: str) -> Iterable[None]:
    if total < 32:  # about a second
        return done
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(done, label, total=total, console=console, transient=True, disable=not console.is_terminal)
