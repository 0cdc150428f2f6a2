"""`distances`: two numbers for each image of a schedule's batches, instead of all logits of a teacher (DBR, arXiv 2503.18267).

They are the cross-entropies of the teachers' logits for the image as augmented and mixed: with the image's own one-hot
label, d_org, and with that of the image which is mixed into it, d_aug (`ddbench.training.losses.distances`). They hold for that
view only; so they are recorded for the batches of a schedule, which a student sees again.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets.encodings import Shapes, Tensors
from ddbench.synset.targets.recording import EntryFormat, Loop, RecordedTargets, record
from ddbench.synset.teachers import Recall
from ddbench.training.batch_schedule import Batch, SoftLabels
from ddbench.training.losses import distances
from ddbench.training.recipe import StudentRecipe


def _shapes(rows: int) -> Shapes:
    return {"distances": (torch.float16, (rows, 2))}


def _write(batch: Batch, logits: Tensor, classes: Tensor) -> dict[str, Tensor]:
    return {"distances": distances(logits, classes, batch.permutation).half()}


FORMAT = EntryFormat("distances", _shapes, _write, "keep fewer steps, or let the teachers label online")


class Distances(RecordedTargets):
    """Distances of a schedule's batches, which the loss `dbr` reads.

    Tensors beside `steps`: `distances` float16 [S, b, 2], d_org and d_aug, 0 or more.
    """

    def shapes(self, targets: Targets, classes: int) -> Shapes:
        """See the base class."""
        return _shapes(targets.params["batch"])

    def check_values(self, targets: Targets, classes: int) -> None:
        """See the base class."""
        if float(targets.tensors["distances"].min()) < 0:
            raise UsageError("distances targets: distances must be 0 or more")

    def reader(self, targets: Targets, classes: int) -> Callable[[Tensors], SoftLabels]:
        """See the base class."""
        return lambda entry: SoftLabels(distances=entry["distances"].float())


def record_distances(
    synset: SynSet,
    dataset: Dataset,
    device: torch.device,
    *,
    seed: int,
    keep: Sequence[int] | None = None,
    loop: Loop | None = None,
    recall: Recall | None = None,
) -> Targets:
    """Record the distances of the batches of a student's training; see `ddbench.synset.targets.recording.record`."""
    return record(synset, dataset, device, FORMAT, seed=seed, keep=keep, loop=loop, recall=recall)


def require_room(recipe: StudentRecipe, images: int) -> None:
    """UsageError where the distances of all steps of a training on so many images would be too large."""
    FORMAT.require_room(min(recipe.batch, images), recipe.steps(images))


DISTANCES = Distances()
