"""`distances`: two numbers for each image of a schedule's batches, instead of all logits of a teacher (DBR, arXiv 2503.18267).

They are the cross-entropies of the teachers' logits for the image as augmented and mixed: with the image's own one-hot
label, d_org, and with that of the image which is mixed into it, d_aug (`ddbench.training.losses.distances`). They hold for that
view only; so, as in a replay, they are of the views of a recorded schedule, and a student sees the same batches again.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, TargetKind, own_targets
from ddbench.synset.targets.encodings import Shapes
from ddbench.synset.targets.recording import (
    EntryFormat,
    check_entries,
    check_makers,
    check_schedule,
    entries_of,
    record,
    schedule_of,
    stored_bytes,
)
from ddbench.synset.teachers import Teacher
from ddbench.training.batch_schedule import Batch, BatchSchedule, Labeller, SoftLabels
from ddbench.training.losses import distances
from ddbench.training.recipe import StudentRecipe


def _shapes(rows: int) -> Shapes:
    return {"distances": (torch.float16, (rows, 2))}


def _write(batch: Batch, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
    return {"distances": distances(logits, classes, batch.permutation).half()}


FORMAT = EntryFormat("distances", _shapes, _write, "keep fewer steps, or let the teachers label online")


class Distances(TargetKind):
    """Distances of a schedule's batches.

    Tensors: `steps` int64 [S], the views that are kept, rising; `distances` float16 [S, b, 2], d_org and d_aug, 0 or more.
    Params: `ddbench.synset.targets.recording.PARAMS`. The loss `dbr` reads them.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        targets = own_targets(synset)
        check_schedule(synset)
        check_entries(targets, lambda: _shapes(targets.params["batch"]))
        if float(targets.tensors["distances"].min()) < 0:
            raise UsageError("distances targets: distances must be 0 or more")
        check_makers(targets)

    def bind(self, binding: Binding) -> Labeller:
        """The stored distances of a batch's view; of another schedule's batch, a UsageError."""
        entry = entries_of(own_targets(binding.synset), binding.device)
        return lambda batch: SoftLabels(distances=entry(batch)["distances"].float())

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """See the base class."""
        return stored_bytes(synset)

    def schedule(self, synset: SynSet) -> BatchSchedule:
        """The batches that the distances are of."""
        return schedule_of(synset)


def record_distances(
    synset: SynSet,
    dataset: Dataset,
    device: torch.device,
    *,
    seed: int,
    keep: Sequence[int] | None = None,
    loop: Callable[[int, int], Iterable[int]] | None = None,
    recall: Callable[[str], Teacher | None] | None = None,
) -> Targets:
    """Store the distances of the batches of a student's training ahead; see `ddbench.synset.targets.recording.record`."""
    return record(synset, dataset, device, FORMAT, seed=seed, keep=keep, loop=loop, recall=recall)


def require_room(recipe: StudentRecipe, images: int) -> None:
    """UsageError where the distances of all steps of a training on so many images would be too large."""
    FORMAT.require_room(min(recipe.batch, images), recipe.steps(images))


DISTANCES = Distances()
