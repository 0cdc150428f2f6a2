"""`replay`: the logits that teachers gave to the batches of a schedule, stored; a student sees the same batches again.

Fast knowledge distillation (FKD; SRe2L, CDA and CV-DD relabel so) stores crops, flips and mixes of every batch beside
its logits. Here they are functions of a seed and a step, so nothing but logits is stored, and the student must draw by
that seed: `schedule`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, TargetKind, own_targets
from ddbench.synset.targets.encodings import encoding_of, stored_encoding
from ddbench.synset.targets.recording import (
    Draw,
    EntryFormat,
    Loop,
    check_entries,
    check_makers,
    check_schedule,
    drawn_by,
    entries_of,
    filled,
    record,
    schedule_of,
    stored_bytes,
)
from ddbench.synset.teachers import Teacher
from ddbench.training.batch_schedule import Batch, BatchSchedule, Labeller
from ddbench.training.recipe import StudentRecipe


class StoredSoftLabels(TargetKind):
    """Logits of a schedule's batches.

    Tensors: `steps` int64 [S], the views that are kept, rising; and, by encoding (`ddbench.synset.targets.encodings`),
    `logits` float16 [S, b, K]; or `logits` int8 [S, b, K] with `scale` and `offset` float32 [S, b]; or `values` float16
    [S, b, k] with `indices` int16 (int32 above 32,768 classes) [S, b, k] and `rest` float16 [S, b].

    Params: `encoding`, "fp16", "int8" or "topk"; and those of `ddbench.synset.targets.recording.PARAMS`.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        targets, classes = own_targets(synset), len(synset.class_names)
        check_schedule(synset, ["encoding"])
        check_entries(targets, lambda: stored_encoding(targets, classes).shapes(targets.params["batch"], classes))
        stored_encoding(targets, classes).check(targets.tensors, classes)
        check_makers(targets)

    def bind(self, binding: Binding) -> Labeller:
        """The stored logits of a batch's view; of another schedule's batch, a UsageError."""
        targets, classes = own_targets(binding.synset), len(binding.synset.class_names)
        encoding, entry = stored_encoding(targets, classes), entries_of(targets, binding.device)
        return lambda batch: encoding.read(entry(batch), classes)

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """See the base class."""
        return stored_bytes(synset)

    def schedule(self, synset: SynSet) -> BatchSchedule:
        """The batches that the labels are of."""
        return schedule_of(synset)


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
    recall: Callable[[str], Teacher | None] | None = None,
) -> Targets:
    """Store the logits of the batches of a student's training ahead.

    Args:
        synset: see `ddbench.synset.targets.recording.record`, as the arguments that say likewise.
        dataset: likewise.
        device: likewise.
        seed: likewise.
        encoding: how logits are stored.
        keep: likewise.
        draw: likewise.
        topk: for "topk": how many logits of a row to keep.
        loop: likewise.
        recall: likewise.

    Raises:
        UsageError: the set is of another kind, the labels would be too large, a teacher is missing.
        JobFailed: a logit is not finite, or beyond what the encoding holds.
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
    """The stored logits of some of a set's kept steps, in another encoding or the same; no teacher is asked.

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
