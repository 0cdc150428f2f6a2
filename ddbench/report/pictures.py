"""Pictures of sets: images in rows on white, enlarged without smoothing; a set's with a row per class, as PNG."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import interpolate

from ddbench.data.dataset import Dataset
from ddbench.data.spaces import transform_for
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet
from ddbench.synset.views import drawn, expand
from ddbench.system.files import write_atomic

if TYPE_CHECKING:
    from PIL import Image

MOST_CLASSES = 10
MOST_IMAGES = 10  # per class
TILE = 64  # pixels of an image's side on the page, about
GAP, MARGIN, FONT = 4, 10, 14


def draw_set(synset: SynSet, dataset: Dataset, path: Path) -> Path:
    """Draw a set's images, a row per class, as PNG."""
    pixels, classes, title = as_seen(synset, dataset)
    return picture_grid(pixels, classes, synset.class_names, path, title=title)


def as_seen(synset: SynSet, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor, str]:
    """A set as a student sees it, views expanded: pixels [N, C, H, W], not clamped; classes [N]; a title.

    Of views that are drawn, the stored images.
    """
    images, classes = expand(synset, dataset)
    counts = classes.bincount(minlength=len(synset.class_names)).tolist()
    each = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    made = ""
    if synset.views is not None:
        made = f", made of {len(synset)} stored" if drawn(synset) is None else f", shown by {synset.views.kind}"
    title = f"{synset.provenance.method} on {synset.dataset}, {each} per class{made}"
    return transform_for(synset.space, dataset).decode(images), classes, title


def on_white(rows: Sequence[Sequence[torch.Tensor | None]], side: int = TILE) -> torch.Tensor:
    """Images [C, H, W] of one size, clamped to [0, 1], in rows on white with gaps: [3, height, width].

    They are enlarged by whole pixels up to `side`, or made smaller where they are larger than twice that.
    """
    from torchvision.utils import make_grid

    columns = max(map(len, rows))
    some = next(image for row in rows for image in row if image is not None)
    blank = torch.ones_like(some, dtype=torch.float, device="cpu")
    padded = [image for row in rows for image in [*row, *[None] * (columns - len(row))]]
    tiles = torch.stack([blank if image is None else image.detach().float().cpu() for image in padded]).clamp(0, 1)
    longest = max(some.shape[-2:])
    if longest > 2 * side:
        tiles = interpolate(tiles, scale_factor=2 * side / longest, mode="bilinear", antialias=True)
    scale = max(1, side // longest)
    tiles = tiles.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    return make_grid(tiles, nrow=columns, padding=GAP, pad_value=1.0)


def picture_grid(
    images: torch.Tensor, classes: torch.Tensor, class_names: Sequence[str], path: Path, *, title: str = ""
) -> Path:
    """Draw images as a grid, a row per class with its name, and write it to `path` (.png).

    Args:
        images: float `[n, C, H, W]` with C 1 or 3, in [0, 1]; what lies outside is clamped.
        classes: int64 `[n]`, indices into `class_names`.
        class_names: one name per class, in order.
        path: the file to write.
        title: a line above the grid.

    At most `MOST_CLASSES` rows of `MOST_IMAGES`, the first ones; a note says how many there are. UsageError for shapes,
    classes or values that do not fit, and where the file cannot be written.
    """
    _check(images, classes, class_names, path)
    present = sorted(set(classes.tolist()))
    rows = [list(images[classes == label][:MOST_IMAGES]) for label in present[:MOST_CLASSES]]
    names = [class_names[label] for label in present[:MOST_CLASSES]]
    most = int(classes.bincount().max())
    cut = [f"{len(rows)} of {len(present)} classes"] * (len(rows) < len(present))
    cut += [f"{MOST_IMAGES} of up to {most} images per class"] * (most > MOST_IMAGES)
    buffer = io.BytesIO()
    page = _page(on_white(rows), names, title, f"Shown: {', '.join(cut)}." if cut else "")
    page.save(buffer, format="PNG", optimize=True)
    write_atomic(path, buffer.getvalue())
    return path


def _check(images: torch.Tensor, classes: torch.Tensor, class_names: Sequence[str], path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: a picture is written as .png")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UsageError(f"images of shape {list(images.shape)}: [n, C, H, W] with n > 0 and C 1 or 3 is needed")
    if classes.shape != images.shape[:1]:
        raise UsageError(f"{len(images)} images but classes of shape {list(classes.shape)}")
    if int(classes.min()) < 0 or int(classes.max()) >= len(class_names):
        raise UsageError(
            f"classes from {int(classes.min())} to {int(classes.max())}, but {len(class_names)} class names"
        )
    if not images.isfinite().all():
        raise UsageError("images hold values that are not finite")


def _page(grid: torch.Tensor, names: Sequence[str], title: str, note: str) -> "Image.Image":
    """The grid [3, height, width] with a name left of every row, a title above and a note below."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    dejavu = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font = ImageFont.truetype(str(dejavu), FONT)
    names = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    tiles = Image.fromarray(grid.mul(255).round().byte().permute(1, 2, 0).numpy())
    left = 2 * MARGIN + max(int(font.getlength(name)) for name in names)
    top = MARGIN + (FONT + MARGIN if title else 0)
    width = max(left + tiles.width, *(MARGIN + int(font.getlength(text)) for text in (title, note))) + MARGIN
    page = Image.new("RGB", (width, top + tiles.height + (FONT + MARGIN if note else 0) + MARGIN), "white")
    page.paste(tiles, (left, top))
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, fill="black", font=font)
    for row, name in enumerate(names):
        middle = top + tiles.height * (2 * row + 1) // (2 * len(names))
        draw.text((left - MARGIN, middle), name, fill="black", font=font, anchor="rm")
    draw.text((MARGIN, page.height - MARGIN - FONT), note, fill="dimgray", font=font)
    return page
