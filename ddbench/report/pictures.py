"""Pictures of sets: a grid with one row per class, enlarged without smoothing, as PNG."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddbench.errors import UsageError
from ddbench.system.files import write_atomic

if TYPE_CHECKING:
    import torch
    from PIL import Image, ImageFont

MOST_CLASSES = 10
MOST_IMAGES = 10  # per class
TILE = 64  # pixels of a tile's side on the page, about
GAP, MARGIN, FONT = 4, 10, 14


def picture_grid(
    images: "torch.Tensor",
    classes: "torch.Tensor",
    class_names: Sequence[str],
    path: Path,
    *,
    title: str = "",
    most_classes: int = MOST_CLASSES,
    most_images: int = MOST_IMAGES,
) -> Path:
    """Draw images as a grid, a row per class with its name, and write it to `path` (.png).

    Args:
        images: float `[n, C, H, W]` with C 1 or 3, in [0, 1]; what lies outside is clamped.
        classes: int64 `[n]`, indices into `class_names`.
        class_names: one name per class, in order.
        path: the file to write.
        title: a line above the grid.
        most_classes: rows at most, the first classes; a note says how many there are.
        most_images: images per row at most, the first of the class; likewise.

    UsageError for shapes, classes or values that do not fit, and where the file cannot be written.
    """
    _check(images, classes, class_names, path)
    present = sorted(set(classes.tolist()))
    rows = [(classes == label).nonzero().flatten() for label in present[:most_classes]]
    scale = max(1, TILE // max(images.shape[-2:]))
    tiles = [[_tile(images[index], scale) for index in row[:most_images].tolist()] for row in rows]
    names = [class_names[label] for label in present[:most_classes]]
    note = _note(len(names), len(present), max(map(len, tiles)), int(classes.bincount().max()))
    buffer = io.BytesIO()
    _page(tiles, names, title, note).save(buffer, format="PNG", optimize=True)
    write_atomic(path, buffer.getvalue())
    return path


def _check(images: "torch.Tensor", classes: "torch.Tensor", class_names: Sequence[str], path: Path) -> None:
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


def _tile(image: "torch.Tensor", scale: int) -> "Image.Image":
    """One image `[C, H, W]` as RGB, enlarged by whole pixels, or made smaller where it is larger than a page takes."""
    from PIL import Image

    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().expand(3, -1, -1)
    tile = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
    if max(tile.size) > 2 * TILE:
        tile.thumbnail((2 * TILE, 2 * TILE))
        return tile
    return tile.resize((tile.width * scale, tile.height * scale), Image.Resampling.NEAREST)


def _note(rows: int, all_rows: int, columns: int, all_columns: int) -> str:
    parts = []
    if rows < all_rows:
        parts.append(f"{rows} of {all_rows} classes")
    if columns < all_columns:
        parts.append(f"{columns} of up to {all_columns} images per class")
    return f"Shown: {', '.join(parts)}." if parts else ""


def _page(tiles: list[list["Image.Image"]], names: list[str], title: str, note: str) -> "Image.Image":
    from PIL import Image, ImageDraw

    font = _font()
    side = max(tile.height for row in tiles for tile in row)
    names = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    left = MARGIN + max(int(font.getlength(name)) for name in names) + MARGIN
    top = MARGIN + (FONT + MARGIN if title else 0)
    grid_width = max(map(len, tiles)) * (side + GAP)
    width = max(left + grid_width, *(MARGIN + int(font.getlength(text)) for text in (title, note))) + MARGIN
    height = top + len(tiles) * (side + GAP) + (FONT + MARGIN if note else 0) + MARGIN
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, fill="black", font=font)
    for row, (name, images) in enumerate(zip(names, tiles, strict=True)):
        y = top + row * (side + GAP)
        draw.text((left - MARGIN, y + side // 2), name, fill="black", font=font, anchor="rm")
        for column, image in enumerate(images):
            page.paste(image, (left + column * (side + GAP), y))
    draw.text((MARGIN, height - MARGIN - FONT), note, fill="dimgray", font=font)
    return page


def _font() -> "ImageFont.FreeTypeFont":
    """DejaVu Sans, which matplotlib brings along."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT)
