"""Export: a SynSet becomes files that other code reads: `.pt`, `.npz`, or a folder of PNGs."""

import logging
import os
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ddbench.data.dataset import Dataset
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import transform_for
from ddbench.errors import CannotWrite, UsageError, unknown
from ddbench.extras.import_export.importing import plain_recipe
from ddbench.synset.synset import SynSet, check_dataset
from ddbench.synset.targets.soft import labels_of
from ddbench.synset.views import drawn
from ddbench.system.files import make_folder, write_with

FORMATS = ("pt", "npz", "folder")
SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._,'()-]{0,99}")
log = logging.getLogger("ddbench")


def export_set(synset: SynSet, dataset: Dataset | str, out: Path | str, format: str | None = None) -> Path:
    """Write a set's images and labels for other code; `import_set` reads them back.

    `.pt` and `.npz` hold `images` (float32 [n, C, H, W] in the set's space; uint8 for a set of pixels or of indices),
    `labels` (int64 [n]), `soft_labels` ([n, K], with `soft_form`) and `syn_lr` where the set has them, and as plain
    values `dataset`, `class_names`, `space` and `student_recipe`. The `.pt` loads with `weights_only=True`. Float
    images come back bit for bit: export and import give a set of the same hash.

    For a set with views that are drawn, the stored images are written (PCA: canvases), without views and student recipe.

    A folder holds `train/<class>/0000.png`, ... (class indices where a name cannot name a folder). PNGs hold 8 bits,
    0 to 255: values between and outside are lost, and so are soft labels and step size.

    Args:
        synset: the set to write.
        dataset: its data set, or the name.
        out: file or folder; an existing file is replaced, a folder must be new or empty.
        format: "pt", "npz" or "folder"; None: by the ending of `out`.

    Returns:
        `out`; after a failure nothing is left there.

    Raises:
        UsageError: an unknown format, another data set, a set of expanding views, a folder that is not empty.
    """
    data, path = load_dataset(dataset) if isinstance(dataset, str) else dataset, Path(out)
    chosen = format or {".pt": "pt", ".pth": "pt", ".npz": "npz"}.get(path.suffix.lower(), "folder")
    if chosen not in FORMATS:
        raise unknown("format", chosen, FORMATS)
    check_dataset(synset, data)
    if synset.views is not None:
        if drawn(synset) is None:
            raise UsageError(f"a set with views ({synset.views.kind}) cannot be exported: its tensors are not images")
        log.warning("views (%s) are left out, and the student recipe: other code sees whole images", synset.views.kind)
        synset = replace(synset, views=None, student_recipe=None)
    if chosen == "folder":
        _write_folder(synset, data, path)
    else:
        if path.is_dir():
            raise UsageError(f"{path}: a folder; name a file")
        _write_file(content(synset, data), path, chosen)
    return path


def content(synset: SynSet, dataset: Dataset) -> dict[str, Any]:
    """Return the tensors and plain values of a set's file, by name."""
    images = synset.images if synset.images is not None else dataset.train.read(synset.indices)
    found: dict[str, Any] = {
        "images": images.detach().cpu().clone(),
        "labels": synset.classes.cpu().clone(),
        "dataset": synset.dataset,
        "class_names": list(synset.class_names),
        "space": synset.space.kind,
    }
    targets, recipe = synset.targets, synset.student_recipe
    if targets is not None and targets.kind == "soft":
        plain = "encoding" not in targets.params
        labels = targets.tensors["labels"].clone() if plain else labels_of(targets, len(synset.class_names))
        found |= {"soft_labels": labels, "soft_form": targets.params["form"]}
    elif targets is not None:
        log.warning("targets of kind %r are left out: a file of images and labels has no place for them", targets.kind)
    if recipe is not None and (recipe.labels != "targets" or "soft_labels" in found):
        found |= {"syn_lr": float(recipe.optimizer["lr"]), "student_recipe": plain_recipe(recipe)}
    return found


def _write_file(found: dict[str, Any], path: Path, format: str) -> None:
    if format == "pt":
        write_with(path, lambda temporary: torch.save(found, temporary))
        return
    import numpy as np

    arrays: dict[str, Any] = {k: v.numpy() if isinstance(v, torch.Tensor) else np.array(v) for k, v in found.items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a path would get the ending .npz
            np.savez(file, **arrays)

    write_with(path, write)


def _write_folder(synset: SynSet, dataset: Dataset, out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not an empty folder; name a new one")
    make_folder(out.resolve().parent)
    try:
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.resolve().parent))
        try:
            _write_pngs(_pixels(synset, dataset), synset, building / "train")
            building.chmod(0o755)
            os.replace(building, out)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise CannotWrite(f"cannot write {out}: {error.strerror or error}") from error


def _pixels(synset: SynSet, dataset: Dataset) -> torch.Tensor:
    """Return the images as uint8 [n, C, H, W], clipped to the range of pixels."""
    if synset.indices is not None:
        return dataset.train.read(synset.indices)
    assert synset.images is not None
    if synset.images.dtype == torch.uint8:
        return synset.images
    decoded = transform_for(synset.space, dataset).decode(synset.images)
    return (decoded.clamp(0, 1) * 255).round().to(torch.uint8)


def _write_pngs(pixels: torch.Tensor, synset: SynSet, root: Path) -> None:
    from PIL import Image

    folders = _folder_names(synset.class_names)
    for c, folder in enumerate(folders):
        chosen = pixels[synset.classes == c].permute(0, 2, 3, 1)
        if len(chosen):
            (root / folder).mkdir(parents=True)
        for number, image in enumerate(chosen):
            Image.fromarray(image.squeeze(2).numpy()).save(root / folder / f"{number:04d}.png")


def _folder_names(class_names: tuple[str, ...]) -> list[str]:
    """Return the class names, or the indices of all classes if a name cannot name a folder on every system."""
    unique = len({name.lower() for name in class_names}) == len(class_names)
    if unique and all(SAFE.fullmatch(name) and name[-1] not in " ." for name in class_names):
        return list(class_names)
    return [f"{c:04d}" for c in range(len(class_names))]
