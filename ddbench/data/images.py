"""Splits made of image files: listing them, decoding them, keeping them decoded or reading them on demand.

Geometry, for every set read from files: the short side is resized to the target (bilinear with antialiasing, as
PIL does it), then the centre square is cut out. Up to 128 px the target is the side itself; above, it is
side * 256 / 224, so 224 px images come from a short side of 256. Nothing is squashed (MTT's ImageNet subsets are,
facts/trajectory_matching.md 1.2; here shapes keep their proportions).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddbench.canonical import digest
from ddbench.data.cached import Tensors, cached_tensors
from ddbench.data.dataset import RESIDENT_SIDE, InMemory, Split
from ddbench.errors import UsageError
from ddbench.settings import cache_dir

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pnm", ".tif", ".tiff", ".webp")
GREY_MODES = ("1", "L", "LA")
COLOUR_MODES = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
PROBES = 64  # images whose headers decide grey or colour
CHUNK = 64  # images that one thread decodes at a time
DECODER = 1  # raised by hand when the geometry or the conversion changes; part of the cache's key


@dataclass(frozen=True)
class Listing:
    """The image files of one split, in order of class and then of name.

    `names` are relative to `root` with forward slashes, `stats` are (bytes, mtime in ns), `labels` are 0..K-1.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    stats: tuple[tuple[int, int], ...]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Where the image at `index` lies."""
        return self.root / self.names[index]


def class_folders(split: Path) -> tuple[str, ...]:
    """The sorted names of the folders right below a split's folder, hidden ones left out."""
    with os.scandir(split) as entries:
        return tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))


def list_split(split: Path, classes: Sequence[str]) -> Listing:
    """List the images below `split/<class>/` (at any depth) for each class in order; an empty class is a UsageError."""
    names: list[str] = []
    labels: list[int] = []
    stats: list[tuple[int, int]] = []
    for label, name in enumerate(classes):
        found = sorted(_images_below(split / name, name))
        if not found:
            raise UsageError(f"no images in class folder {split / name} (suffixes read: {' '.join(SUFFIXES)})")
        names.extend(f[0] for f in found)
        labels.extend([label] * len(found))
        stats.extend((f[1], f[2]) for f in found)
    return Listing(split, tuple(names), tuple(labels), tuple(stats))


def _images_below(folder: Path, prefix: str) -> Iterator[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = f"{prefix}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    yield from _images_below(folder / entry.name, name)
                elif entry.name.lower().endswith(SUFFIXES):
                    stat = entry.stat()
                    yield name, stat.st_size, stat.st_mtime_ns
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror or error}") from error


def probe_side(listing: Listing) -> int:
    """The side that a listing's first image suggests: its short side up to 128 px, else 224."""
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
    """The split of a listing: resident up to 128 px (decoded once, then cached), streamed above."""
    if side <= RESIDENT_SIDE:
        return _resident(listing, side, channels)
    return streamed_split(listing, side=side, channels=channels)


def streamed_split(listing: Listing, *, side: int, channels: int) -> Split:
    """A split that decodes images when they are read. Its hash covers names, sizes, labels, side and channels."""
    import torch

    files = [[n, s[0], label] for n, s, label in zip(listing.names, listing.stats, listing.labels, strict=True)]
    content = digest({"channels": channels, "decoder": DECODER, "files": files, "side": side})
    return Split(torch.tensor(listing.labels), content, False, FromFiles(listing, side, channels))


def _resident(listing: Listing, side: int, channels: int) -> Split:
    import torch

    def build() -> Tensors:
        return {"labels": torch.tensor(listing.labels), "pixels": decode(listing, None, side, channels)}

    # the modification times are in the cache's key, never in the split's hash
    key = digest([DECODER, listing.names, listing.labels, listing.stats, side, channels])
    tensors, content = cached_tensors(cache_dir() / "decoded" / f"{key}.safetensors", build)
    return Split(tensors["labels"], content, True, InMemory(tensors["pixels"]))


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

    The result does not depend on the number of threads. UsageError names an image that cannot be read.
    """
    import torch

    chosen = range(len(listing)) if indices is None else indices
    pixels = torch.empty(len(chosen), channels, side, side, dtype=torch.uint8)
    rows = pixels.numpy()

    def fill(start: int) -> None:
        for row in range(start, min(start + CHUNK, len(chosen))):
            rows[row] = decode_image(listing.path(chosen[row]), side, channels)

    starts = range(0, len(chosen), CHUNK)
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        for _ in _progress(pool.map(fill, starts), len(starts), f"decoding {len(chosen):,} images"):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    return pixels


def decode_image(path: Path, side: int, channels: int) -> "np.ndarray[Any, Any]":
    """One image as uint8 [channels, side, side]; UsageError if it is unreadable, of 16 bits, or colour among grey."""
    import numpy as np

    with _opened(path) as image:
        if image.mode not in GREY_MODES + COLOUR_MODES:
            raise UsageError(f"image {path} has mode {image.mode}: only images of 8 bits a channel are read")
        if channels == 1 and image.mode not in GREY_MODES:
            raise UsageError(f"image {path} has mode {image.mode} in a grey data set: convert it, or all others to RGB")
        try:
            if "transparency" in image.info and image.mode == "P":
                image = image.convert("RGBA")  # PIL's own advice for palettes with transparency
            image = _centre_square(image.convert("L" if channels == 1 else "RGB"), side)
        except (OSError, SyntaxError, ValueError) as error:
            raise UsageError(f"cannot read image {path}: {error}") from error
        return np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)


def _centre_square(image: "Image", side: int) -> "Image":
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
