"""Stored soft labels (fast knowledge distillation, FKD; arXiv 2112.01528): teachers' logits for the batches of a schedule.

SRe2L, CDA and CV-DD relabel so, and store crops, flips and mixes of every batch beside its logits. Here those follow from
a seed and a step, so nothing but logits is stored, and the student must draw by that seed: `schedule`. In files the kind
is called `replay`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import own_targets
from ddbench.synset.targets.encodings import Shapes, Tensors, encoding_of, stored_encoding
from ddbench.synset.targets.recording import Draw, EntryFormat, Loop, RecordedTargets, drawn_by, filled, record
from ddbench.synset.teachers import Recall
from ddbench.training.batch_schedule import Batch
from ddbench.training.recipe import StudentRecipe


class StoredSoftLabels(RecordedTargets):
    """Logits of a schedule's batches.

    Tensors beside `steps`, by encoding (`ddbench.synset.targets.encodings`): `logits` float16 [S, b, K]; or `logits` int8
    [S, b, K] with `scale` and `offset` float32 [S, b]; or `values` float16 [S, b, k] with `indices` int16 (int32 above
    32,768 classes) [S, b, k] and `rest` float16 [S, b].

    Params beside `PARAMS`: `encoding`, "fp16", "int8" or "topk".
    """

    more_params = frozenset({"encoding"})

    def shapes(self, targets: Targets, classes: int) -> Shapes:
        """See the base class."""
        return stored_encoding(targets, classes).shapes(targets.params["batch"], classes)

    def check_values(self, targets: Targets, classes: int) -> None:
        """See the base class."""
        stored_encoding(targets, classes).check(targets.tensors, classes)

    def reader(self, targets: Targets, classes: int) -> Callable[[Tensors], Tensor]:
        """See the base class."""
        encoding = stored_encoding(targets, classes)
        return lambda entry: encoding.read(entry, classes)


def record_soft_labels(
    synset: SynSet,
    dataset: Dataset,
    device: torch.device,
    *,
    seed: int,
    encoding: Literal["fp16", "int8", "topk"] = "fp16",
    keep: Sequence[int] | None = None,
    draw: Draw = "cycle",
    topk: int | None = None,
    loop: Loop | None = None,
    recall: Recall | None = None,
) -> Targets:
    """Record the logits of the batches of a student's training, `topk` of a row for the encoding "topk".

    Other arguments and errors are those of `ddbench.synset.targets.recording.record`.
    """
    form = _form(encoding, topk, len(synset.class_names))
    made = record(synset, dataset, device, form, seed=seed, keep=keep, draw=draw, loop=loop, recall=recall)
    return replace(made, params={"encoding": encoding, **made.params})


def reencoded(
    synset: SynSet,
    places: Tensor,
    *,
    encoding: str,
    topk: int | None = None,
    draw: Draw = "cycle",
    loop: Loop | None = None,
) -> Targets:
    """Stored logits of some of a set's kept steps, in another encoding or the same; no teacher is asked.

    Args:
        synset: its targets are of the kind `replay`.
        places: int64, rising, in the list of steps that are kept.
        encoding: how logits are stored from now on.
        topk: for "topk": how many logits of a row to keep.
        draw: how a training takes them from now on.
        loop: as for `record_soft_labels`.
    """
    targets, classes = own_targets(synset), len(synset.class_names)
    before, after = stored_encoding(targets, classes), encoding_of(encoding, topk, classes)
    steps, plain = targets.tensors["steps"][places], {k: v for k, v in targets.params.items() if k != "draw"}
    params = {**plain, "encoding": encoding, **drawn_by(draw)}
    if before == after:
        return Targets("replay", params, {name: tensor[places] for name, tensor in targets.tensors.items()})
    batch = targets.params["batch"]
    _form(encoding, topk, classes).require_room(batch, len(places))
    stored, at = {name: tensor for name, tensor in targets.tensors.items() if name != "steps"}, places.tolist()

    def entry(place: int) -> dict[str, Tensor]:
        return after.write(before.read({name: tensor[at[place]] for name, tensor in stored.items()}, classes))

    return Targets("replay", params, filled(after.shapes(batch, classes), steps.tolist(), entry, loop))


def require_room(
    recipe: StudentRecipe,
    images: int,
    classes: int,
    encoding: str,
    topk: int | None = None,
    steps: int | None = None,
) -> None:
    """UsageError where the labels of all steps of a training on so many images, or of so many steps, are too large."""
    form = _form(encoding, topk, classes)
    form.require_room(min(recipe.batch, images), steps or recipe.steps(images))


def _form(encoding: str, topk: int | None, classes: int) -> EntryFormat:
    how = encoding_of(encoding, topk, classes)

    def write(batch: Batch, logits: Tensor, own: Tensor) -> dict[str, Tensor]:
        return how.write(logits)

    cheaper = "keep fewer steps, store int8 or topk, or let the teachers label online"
    return EntryFormat("replay", lambda rows: how.shapes(rows, classes), write, cheaper)


STORED_SOFT_LABELS = StoredSoftLabels()
