"""Readers of files and folders made elsewhere; code in a file is never run, and entries are found by name, not guessed."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ddbench.data.dataset import Dataset
from ddbench.data.images import COLOUR_MODES, GREY_MODES
from ddbench.data.listing import Listing, class_folders, list_split
from ddbench.errors import UsageError

LIMIT = 8 * 2**30
"""Largest size of a file, packed or unpacked, and of a folder's pixels, in bytes; more is refused before it is read."""

TORCH, NUMPY = (".pt", ".pth"), (".npz", ".npy")
ROLES: dict[str, tuple[str, ...]] = {
    "images": ("images", "image", "data", "syn_images", "image_syn", "x"),
    "labels": ("labels", "label", "targets", "syn_labels", "label_syn", "y"),
    "soft_labels": ("soft_labels",),
    "lr": ("syn_lr", "lr"),
}
STATED = ("space", "class_names", "soft_form", "student_recipe")


@dataclass(frozen=True)
class FileContent:
    """Content of a file by role; `stated` holds the plain values that `export_set` writes beside the tensors."""

    images: torch.Tensor
    labels: torch.Tensor | None = None
    soft_labels: torch.Tensor | None = None
    lr: float | None = None
    stated: Mapping[str, Any] = field(default_factory=dict)


def read_file(path: Path) -> Any:
    """Read a `.pt`, `.pth`, `.npz` or `.npy` file: tensors, numbers, texts, lists and dicts of them.

    Raises:
        UsageError: no such file, another kind of file, more than 8 GiB, damaged, or holding Python objects.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix not in TORCH + NUMPY:
        raise UsageError(f"{path}: files ending in {', '.join(TORCH + NUMPY)} are read, and folders of images")
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            size = max(size, sum(entry.file_size for entry in packed.infolist()))
    if size > LIMIT:
        raise UsageError(f"{path}: {size:,} bytes, at most {LIMIT:,} are read")
    return _read_torch(path) if suffix in TORCH else _read_numpy(path)


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile pickle can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{path}: only tensors and plain values are read, and this file is not that: {reason}"
        ) from error


def _read_numpy(path: Path) -> Any:
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if path.suffix.lower() == ".npy":
            return _plain(loaded)
        with loaded:
            return {name: _plain(loaded[name]) for name in loaded.files}
    except Exception as error:  # as above
        raise UsageError(f"{path}: not a readable file of arrays: {' '.join(str(error).split())}") from error


def _plain(array: Any) -> Any:
    return array.tolist() if array.dtype.kind == "U" else torch.from_numpy(array)


def read_images(path: Path) -> FileContent:
    """Read the images of a file and whatever else it holds.

    Known are a tensor of images, a pair (images, labels), a list of image tensors, and a dict with one name for each
    role, at its top or one level below. "data" may also be the list with one pair that the code of DC and DM writes.

    Raises:
        UsageError: two entries for one role, or no images; the names in the file are listed.
    """
    value = outer = read_file(path)
    while isinstance(value, Mapping) and len(value) == 1 and _pick(value, "images", path) is None:
        value = next(iter(value.values()))
    entries = value if isinstance(value, Mapping) else {}
    found = {role: _pick(value, role, path) for role in ROLES} if isinstance(value, Mapping) else {"images": value}
    images, labels = found["images"], found.get("labels")
    if isinstance(images, list | tuple):
        images, paired = _pair(images, path)
        labels = paired if labels is None else labels
    pixels = _tensor(images, "images", path)
    if pixels is None:
        raise UsageError(f"{path}: no images among {_entries(outer)}; known names are {', '.join(ROLES['images'])}")
    return FileContent(
        images=pixels,
        labels=_tensor(labels, "labels", path),
        soft_labels=_tensor(found.get("soft_labels"), "soft_labels", path),
        lr=None if found.get("lr") is None else _number(found["lr"], path),
        stated={name: entries[name] for name in STATED if isinstance(entries.get(name), str | list | tuple)},
    )


def _pair(value: Any, path: Path) -> tuple[Any, Any]:
    """Split a pair (images, labels), or a list with one such pair; anything else is images without labels."""
    if len(value) == 1 and isinstance(value[0], list | tuple):
        return _pair(value[0], path)
    if value and all(isinstance(item, list | tuple) for item in value):
        raise UsageError(f"{path}: holds {len(value)} sets; save the one that is meant")
    if len(value) == 2 and _dims(value[0]) == 4 and _dims(value[1]) in (1, 2):
        return value[0], value[1]
    return value, None


def _dims(value: Any) -> int:
    return value.ndim if isinstance(value, torch.Tensor) else -1


def _pick(value: Mapping[Any, Any], role: str, path: Path) -> Any:
    """Return the entry for a role, at the top or, if there is none, one level below; None if there is none."""
    top = [(str(name), item) for name, item in value.items()]
    below = [
        (f"{name}.{inner}", item)
        for name, nested in top
        if isinstance(nested, Mapping)
        for inner, item in nested.items()
    ]
    for level in (top, below):
        fitting = [(n, item) for n, item in level if n.rpartition(".")[2].lower() in ROLES[role]]
        fitting = [(n, item) for n, item in fitting if item is not None and not isinstance(item, Mapping)]
        if len(fitting) > 1:
            raise UsageError(f"{path}: {' and '.join(n for n, _ in fitting)} could all be the {role}; keep one of them")
        if fitting:
            return fitting[0][1]
    return None


def _tensor(value: Any, role: str, path: Path) -> torch.Tensor | None:
    if value is None or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, torch.Tensor) and item.shape == value[0].shape for item in value):
            return torch.stack(list(value))
        if role != "images" and all(isinstance(item, int | float) for item in value):
            return torch.tensor(value)
    raise UsageError(f"{path}: the {role} are no tensor, but {type(value).__name__}")


def _entries(value: Any) -> str:
    """Describe the content of a file in words, for errors."""
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    return "the entries " + (", ".join(repr(str(key)) for key in list(value)[:20]) or "none")


def read_labels(path: Path) -> torch.Tensor:
    """Read labels from a file of their own: a tensor, a list of numbers, or a dict with one entry for them."""
    value = found = read_file(path)
    if isinstance(value, Mapping):
        found = _pick(value, "labels", path)
        if found is None:
            found = _pick(value, "soft_labels", path)
        if found is None and len(value) == 1:
            found = next(iter(value.values()))
    labels = _tensor(found, "labels", path)
    if labels is None:
        raise UsageError(f"{path}: no labels among {_entries(value)}; known names are {', '.join(ROLES['labels'])}")
    return labels


def read_number(path: Path) -> float:
    """Read a step size from a file of its own: one number, alone or as the dict entry `lr` or `syn_lr`."""
    value = read_file(path)
    if isinstance(value, Mapping):
        value = next(iter(value.values())) if len(value) == 1 else _pick(value, "lr", path)
    return _number(value, path)


def _number(value: Any, path: Path) -> float:
    """Return a step size as a number; UsageError if it is anything but one number."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value.detach())
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    shape = f"tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
    raise UsageError(f"{path}: the step size must be one number, not a {shape}")


def read_folder(root: Path, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a folder with one folder of images per class (or these in a folder `train`): uint8 pixels, int64 classes.

    Class folders are named by class name or, all of them, by class index (`3`, `0003`, `new003`).

    Raises:
        UsageError: a folder that names no class, an image of another size, or one that cannot be read.
    """
    folders = class_folders(root)
    if folders == ("train",) and "train" not in dataset.class_names:
        root, folders = root / "train", class_folders(root / "train")
    places = _places(root, folders, dataset)
    listing = list_split(root, folders)
    size = len(listing) * dataset.channels * dataset.side**2
    if size > LIMIT:
        raise UsageError(f"{root}: {len(listing):,} images are {size:,} bytes, at most {LIMIT:,} are read")
    return _decode(listing, dataset), torch.tensor([places[label] for label in listing.label_list()])


def _places(root: Path, folders: tuple[str, ...], dataset: Dataset) -> list[int]:
    """Return the class index of each class folder."""
    if not folders:
        raise UsageError(f"{root}: no class folders; a folder of images has one per class, with its name or index")
    if set(folders) <= set(dataset.class_names):
        return [dataset.class_names.index(name) for name in folders]
    digits = [name.removeprefix("new") for name in folders]
    odd = [name for name, text in zip(folders, digits, strict=True) if not (text.isascii() and text.isdecimal())]
    if odd:
        odd = [name for name in folders if name not in dataset.class_names] or odd
        raise UsageError(
            f"{root}: folder {odd[0]!r} is no class of {dataset.id} ({', '.join(dataset.class_names[:5])}, ...)"
        )
    places = [int(text) for text in digits]
    if max(places) >= len(dataset.class_names) or len(set(places)) < len(places):
        raise UsageError(f"{root}: class folders must be 0 to {len(dataset.class_names) - 1}, each once")
    return places


def _decode(listing: Listing, dataset: Dataset) -> torch.Tensor:
    import numpy as np

    pixels = np.empty((len(listing), dataset.channels, dataset.side, dataset.side), dtype=np.uint8)
    for row in range(len(listing)):
        pixels[row] = _image(listing.path(row), dataset)
    return torch.from_numpy(pixels)


def _image(path: Path, dataset: Dataset) -> Any:
    """Read one image as uint8 [C, side, side], without resizing."""
    import numpy as np
    from PIL import Image

    gray = dataset.channels == 1
    try:
        with Image.open(path) as image:
            if image.size != (dataset.side, dataset.side):
                width, height = image.size
                raise UsageError(f"{path}: {width} x {height} pixels, {dataset.id} has {dataset.side} x {dataset.side}")
            if image.mode not in (GREY_MODES if gray else GREY_MODES + COLOUR_MODES):
                raise UsageError(f"{path}: mode {image.mode}, {dataset.id} needs {'gray' if gray else 'RGB'} of 8 bits")
            rows = np.asarray(image.convert("L" if gray else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"cannot read image {path}: {error}") from error
    return rows.reshape(dataset.side, dataset.side, dataset.channels).transpose(2, 0, 1)
