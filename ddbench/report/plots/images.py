"""What do the images look like: a row per set, a column per class, enlarged without smoothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure

from ddbench.data.registry import load_dataset
from ddbench.errors import UsageError
from ddbench.report.pictures import MOST_CLASSES, as_seen, on_white
from ddbench.report.plots.style import COLUMN, PAGE, settings, settle
from ddbench.synset.synset import load

MOST_SETS = 40


def images_of(paths: Sequence[Path], dataset: str | None = None) -> Figure:
    """Sets of one data set side by side, named by their methods, or by their files where those are not enough.

    Args:
        paths: files of sets, and folders of them.
        dataset: the data set, where it is a folder: "folder:PATH".

    Raises:
        UsageError: no sets, sets of several data sets, or images of different sizes.
    """
    files = [file for path in paths for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]
    sets = {file: load(file) for file in files}
    names = {synset.dataset for synset in sets.values()}
    if len(names) != 1:
        raise UsageError(f"--sets: sets of one data set are needed, these are of {', '.join(sorted(names)) or 'none'}")
    data = load_dataset(dataset or names.pop())
    methods = [synset.provenance.method for synset in sets.values()]
    alike = len(set(methods)) < len(methods)
    rows = {file.stem if alike else each.provenance.method: as_seen(each, data)[:2] for file, each in sets.items()}
    return images_side_by_side(rows, data.class_names, data.id)


def images_side_by_side(
    sets: Mapping[str, tuple[torch.Tensor, torch.Tensor]], class_names: Sequence[str], title: str = ""
) -> Figure:
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
        width = COLUMN if count <= 5 else PAGE
        side = (width - 0.9) / count
        figure = Figure(figsize=(width, 0.75 + side * len(sets)), layout="constrained")
        axes = figure.add_subplot()
        rows = [[_first(images, classes == label) for label in range(count)] for images, classes in sets.values()]
        page = on_white(rows, 96).permute(1, 2, 0).numpy()
        axes.imshow(page, interpolation="none", extent=(-0.5, count - 0.5, len(sets) - 0.5, -0.5), aspect="auto")
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


def _first(images: torch.Tensor, where: torch.Tensor) -> torch.Tensor | None:
    return images[int(where.nonzero()[0])] if where.any() else None


def _short(name: str, inches: float) -> str:
    """A class name that fits above its column, at about 15 letters of 8 points an inch."""
    most = max(3, int(15 * inches))
    return name if len(name) <= most else name[: most - 1] + "…"
