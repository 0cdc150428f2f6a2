"""Import: a distilled set that was made elsewhere becomes a SynSet.

Files of tensors hold class indices, which are read in the data set's order of classes. A set with another order (folders
sorted by another name, a shuffled subset) gets wrong labels without an error, unless the file names its classes
(`class_names`, as `export_set` writes it) or the caller does.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from pydantic import ValidationError

from ddbench.data.dataset import Dataset
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import SPACE_KINDS
from ddbench.errors import UsageError, first_problem, unknown
from ddbench.evaluation.from_tensors import SoftForm, are_probabilities, as_classes, from_tensors
from ddbench.extras.import_export.reading import FileContent, read_folder, read_images, read_labels, read_number
from ddbench.synset.synset import SynSet, save
from ddbench.synset.targets import targets_of
from ddbench.system.files import check_writable
from ddbench.training.recipe import StudentRecipe

SOFT = ("logits", "probabilities", "classes")


def import_set(
    images: Path | str,
    labels: Path | str | None = None,
    lr: Path | str | float | None = None,
    *,
    dataset: Dataset | str,
    space: str,
    soft: str | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "imported",
    out: Path | str | None = None,
) -> SynSet:
    """Read a set from one file or several, or from a folder of images.

    Args:
        images: a `.pt`, `.pth`, `.npz` or `.npy` file with images [n, C, H, W], possibly with labels and step size; or a
            folder with one folder of images per class, named by class name or index.
        labels: file of the labels, if they are not in the images' file: class indices [n] (whole floats count), one-hot
            rows, or soft labels [n, K].
        lr: learned step size: a number, or the file that holds it.
        dataset: the data set, or its name.
        space: space of the images' values, "pixel" ([0, 1]), "normalised" or "zca"; for uint8 images and image files,
            which hold pixels, the space in which students train.
        soft: form of labels [n, K]: "logits", "probabilities", or "classes" (the largest of each row). None: one-hot
            rows are classes, rows that sum to 1 are probabilities, others are logits.
        class_names: names of the file's class indices, where their order differs from the data set's.
        name: method name, for tables.
        out: file to write the set to.

    Raises:
        UsageError: something is missing, ambiguous, damaged, of the wrong shape or out of range.
    """
    data = load_dataset(dataset) if isinstance(dataset, str) else dataset
    if space not in SPACE_KINDS:
        raise unknown("space", space, SPACE_KINDS)
    if soft is not None and soft not in SOFT:
        raise unknown("form of soft labels", soft, SOFT)
    if out is not None:
        check_writable(Path(out))
    path, number = Path(images), read_number(Path(lr)) if isinstance(lr, str | Path) else lr
    make = partial(from_tensors, dataset=data, space=space, name=name, note=f"imported from {path.name}")
    if path.is_dir():
        if labels is not None or class_names is not None:
            raise UsageError(f"{path}: the folders name the classes; give no labels and no class names with them")
        pixels, classes = read_folder(path, data)
        synset = make(pixels, classes, syn_lr=number)
    else:
        content = read_images(path)
        if labels is not None:
            content = replace(content, labels=read_labels(Path(labels)), soft_labels=None)
        stated = content.stated.get("space")
        if stated in SPACE_KINDS and stated != space:
            raise UsageError(f"{path}: says that its images are in {stated} space, not {space}")
        classes, rows, form = _labels(content, soft, data, path)
        order = _order(class_names or content.stated.get("class_names"), data)
        synset = make(
            content.images,
            order[classes],
            soft_labels=None if rows is None else rows[:, order.argsort()],
            soft_form=form,
            syn_lr=content.lr if number is None else number,
        )
        if number is None and labels is None:
            synset = _with_recipe(synset, content, path)
    if synset.targets is not None:
        targets_of(synset)
    if out is not None:
        save(synset, Path(out))
    return synset


def _labels(
    content: FileContent, soft: str | None, dataset: Dataset, path: Path
) -> tuple[torch.Tensor, torch.Tensor | None, SoftForm]:
    """Return class indices [n] in the file's own order, soft labels [n, K] or None, and the form of these."""
    count, names = len(content.images), dataset.class_names
    hard, rows = content.labels, content.soft_labels
    if hard is not None and hard.ndim == 2 and hard.shape[1] == 1:
        hard = hard[:, 0]
    if hard is not None and hard.ndim == 2 and rows is None:
        hard, rows = None, hard
    if rows is None:
        if hard is None:
            raise UsageError(f"{path}: no labels beside the images; name their file")
        return as_classes(hard, count, names), None, "logits"
    if tuple(rows.shape) != (count, len(names)):
        raise UsageError(f"labels have shape {list(rows.shape)}, [{count}] or [{count}, {len(names)}] is needed")
    if rows.is_floating_point() and not bool(torch.isfinite(rows).all()):
        raise UsageError("soft labels hold values that are not finite (NaN or infinity)")
    classes = rows.argmax(1) if hard is None else as_classes(hard, count, names)
    form = soft or content.stated.get("soft_form") or _form(rows)
    if form == "classes":
        return classes, None, "logits"
    return classes, rows, "probabilities" if form == "probabilities" else "logits"


def _form(rows: torch.Tensor) -> str:
    """Guess the form of labels [n, K]; rows of logits do not all sum to 1 by chance."""
    if bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(1) == 1).all()):
        return "classes"
    return "probabilities" if are_probabilities(rows) else "logits"


def _order(class_names: Sequence[str] | None, dataset: Dataset) -> torch.Tensor:
    """Return the data set's class index of each of the file's class indices."""
    if class_names is None:
        return torch.arange(len(dataset.class_names))
    if sorted(class_names) != sorted(dataset.class_names):
        odd = sorted(set(class_names) ^ set(dataset.class_names)) or ["given twice"]
        raise UsageError(f"the class names of the set are not those of {dataset.id}: {odd[0]!r}")
    return torch.tensor([dataset.class_names.index(name) for name in class_names])


def _with_recipe(synset: SynSet, content: FileContent, path: Path) -> SynSet:
    """Add the student recipe that a file of `export_set` holds."""
    text = content.stated.get("student_recipe")
    if not isinstance(text, str):
        return synset
    try:
        recipe = StudentRecipe.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"{path}: student_recipe: {first_problem(error)}") from error
    if recipe.labels == "targets" and synset.targets is None:
        return synset
    return replace(synset, student_recipe=recipe)


def plain_recipe(recipe: StudentRecipe) -> str:
    """Write a student recipe as the text that `import_set` reads back."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
