"""What do the images look like: a row per set, a column per class, enlarged without smoothing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ddbench.errors import UsageError
from ddbench.report.plots.style import COLUMN, PAGE, settings, settle

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

MOST_CLASSES = 10
MOST_SETS = 40


def images_side_by_side(
    sets: "Mapping[str, tuple[torch.Tensor, torch.Tensor]]", class_names: Sequence[str], title: str = ""
) -> "Figure":
    """The first image of every class in every set; white where a set has none of the class.

    Args:
        sets: by name, in the order of the rows: images float [n, C, S, S] with C 1 or 3, clamped to [0, 1]; classes
            int64 [n].
        class_names: one name per class; the first ten are shown, and a note says how many there are.
        title: above the grid.

    Raises:
        UsageError: no sets or too many, or images of different sizes.
    """
    sizes = {tuple(images.shape[1:]) for images, _ in sets.values()}
    if not 1 <= len(sets) <= MOST_SETS:
        raise UsageError(f"1 to {MOST_SETS} sets can stand side by side, not {len(sets)}")
    if len(sizes) > 1:
        shapes = " and ".join(" x ".join(map(str, size)) for size in sorted(sizes))
        raise UsageError(f"sets of images of {shapes} cannot stand side by side")
    count = min(MOST_CLASSES, len(class_names))
    with settings():
        from matplotlib.figure import Figure

        width = COLUMN if count <= 5 else PAGE
        side = (width - 0.9) / count
        figure = Figure(figsize=(width, 0.75 + side * len(sets)), layout="constrained")
        axes = figure.add_subplot()
        page = _page(sets, count, sizes.pop()[-1])
        axes.imshow(
            page.numpy(), interpolation="none", extent=(-0.5, count - 0.5, len(sets) - 0.5, -0.5), aspect="auto"
        )
        axes.set_yticks(range(len(sets)), list(sets))
        axes.set_xticks(range(count), [_short(name, side) for name in class_names[:count]])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        more = f"{count} of {len(class_names)} classes" if count < len(class_names) else ""
        axes.set_title(", ".join(text for text in (title, more) if text))
        settle(figure)
    return figure


def _page(sets: "Mapping[str, tuple[torch.Tensor, torch.Tensor]]", count: int, side: int) -> "torch.Tensor":
    """The images on white, [rows, columns, 3], enlarged by whole pixels so that gaps are thin."""
    import torch

    scale = max(1, 96 // side)
    gap = max(1, side * scale // 24)
    pitch = side * scale + 2 * gap
    page = torch.ones(len(sets) * pitch, count * pitch, 3)
    for row, (images, classes) in enumerate(sets.values()):
        for column in range(count):
            places = (classes == column).nonzero()
            if len(places):
                image = images[int(places[0])].detach().float().cpu().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
                tile = image.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
                top, left = row * pitch + gap, column * pitch + gap
                page[top : top + len(tile), left : left + len(tile)] = tile
    return page


def _short(name: str, inches: float) -> str:
    """A class name that fits above its column, at about 15 letters of 8 points an inch."""
    most = max(3, int(15 * inches))
    return name if len(name) <= most else name[: most - 1] + "…"
