"""What `replay` and `distances` share: entries about the batches of a schedule, made ahead by teachers and stored by step.

Crops, flips and mixes of a batch are functions of the schedule's seed and a step, so none of them is stored; the student
must draw by that seed. Where only some steps are kept, a training goes through them again and again, or draws one of them
for every step (LPLD).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.errors import JobFailed, UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, own_targets
from ddbench.synset.targets.encodings import Shapes, Tensors, check_shapes, shapes_bytes
from ddbench.synset.targets.teachers import TEACHERS, check_params
from ddbench.synset.teachers import Teacher
from ddbench.synset.views import drawn, training_count, training_images
from ddbench.training.batch_schedule import Batch, BatchSchedule
from ddbench.training.batches import Batches

MAX_BYTES = 8 * 2**30
PARAMS = {"seed", "images", "batch", "made_by"}
"""`seed` of the schedule; `images`, how many training images it is drawn from; `batch`, b; `made_by`, the params of the
`teachers` targets that made the entries: those networks need not be there, but by them a baseline's own images are
labelled.

`draw` may be left out: "cycle", step t of a training sees view t mod S of those kept; or "uniform", it sees one drawn by
the schedule's seed and t, with replacement."""
Draw = Literal["cycle", "uniform"]
DRAWS: tuple[Draw, ...] = ("cycle", "uniform")
STEP_BYTES = torch.int64.itemsize  # the number of a step, stored with its entry
Loop = Callable[[int, int], Iterable[int]]


@dataclass(frozen=True)
class EntryFormat:
    """How entries are written.

    Attributes:
        kind: of the targets.
        shapes: name -> dtype and shape of one step's entry, for b rows.
        write: the entry of a batch, by its images' logits [b, K] and classes int64 [b].
        cheaper: what to do where entries would be too large, in words.
    """

    kind: str
    shapes: Callable[[int], Shapes]
    write: Callable[[Batch, Tensor, Tensor], Tensors]
    cheaper: str

    def require_room(self, rows: int, steps: int) -> None:
        """UsageError where so many steps' entries would be too large."""
        if (size := steps * shapes_bytes(self.shapes(rows))) > MAX_BYTES:
            raise UsageError(
                f"the labels of {steps:,} steps would take {size / 2**30:.1f} GiB, allowed are {MAX_BYTES / 2**30:.0f}: "
                f"{self.cheaper}"
            )


def record(
    synset: SynSet,
    dataset: Dataset,
    device: torch.device,
    form: EntryFormat,
    *,
    seed: int,
    keep: Sequence[int] | None = None,
    draw: Draw = "cycle",
    loop: Loop | None = None,
    recall: Callable[[str], Teacher | None] | None = None,
) -> Targets:
    """Write the entries of the batches of a student's training ahead: tensors by name, `steps` int64 [S], and `PARAMS`.

    Args:
        synset: its targets are of the kind `teachers`, and its student recipe says batch, augmentations, mix and epochs.
        dataset: that it is of.
        device: where the teachers run.
        form: how entries are written.
        seed: of the schedule that is drawn.
        keep: steps to label, rising; None: all that the recipe takes.
        draw: how a training takes them, see `PARAMS`.
        loop: see `filled`.
        recall: gives a teacher by its hash; None: those in the cache.

    Raises:
        UsageError: the set is of another kind, the entries would be too large, a teacher is missing.
        JobFailed: a value is not finite, or beyond what its type holds.
    """
    recipe, makers = synset.student_recipe, synset.targets
    if recipe is None or makers is None or makers.kind != "teachers":
        raise UsageError(
            f"to record {form.kind} targets, a set needs a student recipe and targets of the kind teachers"
        )
    count = training_count(synset)
    steps, batch = _steps(form.kind, recipe.steps(count), keep), min(recipe.batch, count)
    form.require_room(batch, len(steps))
    TEACHERS.check(synset)
    label = TEACHERS.bind(Binding(synset, dataset, device, recall))
    images, classes = training_images(synset, dataset, device)
    batches = Batches(images, recipe, BatchSchedule(seed, tuple(steps), drawn(synset)))

    def entry(place: int) -> Tensors:
        seen = batches.at(place)
        return form.write(seen, label(seen), classes[seen.index])

    params = {"seed": seed, "images": count, "batch": batch, "made_by": dict(makers.params), **drawn_by(draw)}
    return Targets(form.kind, params, filled(form.shapes(batch), steps, entry, loop))


def drawn_by(draw: str) -> dict[str, str]:
    """The entry of the params that says how kept steps are taken; none for "cycle", so that older hashes stay valid."""
    return {} if draw == DRAWS[0] else {"draw": draw}


def filled(
    shapes: Shapes, steps: Sequence[int], entry: Callable[[int], Tensors], loop: Loop | None = None
) -> dict[str, Tensor]:
    """The tensors of targets: the steps, and the entry of each place in their list.

    Args:
        shapes: name -> dtype and shape of an entry.
        steps: that the entries are of.
        entry: gives that of a place.
        loop: called with (0, steps) for the places; None: `range`. Where it ends early, only what it came to is kept (one
            at least, of zeros if need be: a dry run may not come to any).
    """
    tensors = {name: torch.zeros(len(steps), *shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    done = 1
    for place in (loop or range)(0, len(steps)):
        _put(tensors, place, entry(place))
        done = place + 1
    stored = {"steps": torch.tensor(list(steps)), **tensors}
    return {name: tensor[:done].contiguous() for name, tensor in stored.items()}


def _put(tensors: Tensors, place: int, entry: Mapping[str, Tensor]) -> None:
    for name, tensor in entry.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise JobFailed(f"the teachers' {name} at step {place} are not finite, or too large for {tensor.dtype}")
        tensors[name][place] = tensor


def _steps(kind: str, total: int, keep: Sequence[int] | None) -> Sequence[int]:
    if keep is None:
        return range(total)  # not a list: there may be more than could be labelled
    if not keep or keep[0] < 0 or any(one >= two for one, two in pairwise(keep)):
        raise UsageError(f"{kind} targets: the steps to keep must be at least one, 0 or more, and rising")
    return keep


def check_schedule(synset: SynSet, more: Iterable[str] = ()) -> None:
    """UsageError unless the params are `PARAMS` and `more`, and of a schedule that a training of this set can see."""
    targets = own_targets(synset)
    kind, params, allowed = targets.kind, targets.params, PARAMS | set(more)
    if set(params) - {"draw"} != allowed:
        raise UsageError(f"{kind} targets: params must be {sorted(allowed)}, not {sorted(params)}")
    if params.get("draw", DRAWS[0]) not in DRAWS:
        raise UsageError(f"{kind} targets: draw must be {' or '.join(DRAWS)}, not {params['draw']!r}")
    for name, least in (("seed", 0), ("images", 1), ("batch", 1)):
        if type(params[name]) is not int or params[name] < least:
            raise UsageError(f"{kind} targets: {name} must be a whole number of at least {least}")
    count, recipe = training_count(synset), synset.student_recipe
    if params["images"] != count:
        raise UsageError(f"{kind} targets: labels of {params['images']} training images do not fit a set of {count}")
    if recipe is None or params["batch"] != min(recipe.batch, count):
        wanted = "none" if recipe is None else min(recipe.batch, count)
        raise UsageError(
            f"{kind} targets: the set's student recipe must have batches of {params['batch']}, not {wanted}"
        )


def check_entries(targets: Targets, shapes: Callable[[], Shapes]) -> None:
    """UsageError unless the tensors are `steps` and what `shapes` (asked after those) says of an entry."""
    kind, steps = targets.kind, targets.tensors.get("steps")
    if steps is None or steps.dtype != torch.int64 or steps.ndim != 1 or not len(steps):
        raise UsageError(f"{kind} targets: steps must be int64 [S], of at least one step")
    if int(steps[0]) < 0 or bool((steps[1:] <= steps[:-1]).any()):
        raise UsageError(f"{kind} targets: steps must be 0 or more, and rising")
    entries = {name: (dtype, (len(steps), *shape)) for name, (dtype, shape) in shapes().items()}
    check_shapes(targets, {"steps": (steps.dtype, tuple(steps.shape)), **entries})


def check_makers(targets: Targets) -> None:
    """UsageError unless `made_by` names teachers."""
    check_params(targets.params["made_by"])


def entries_of(targets: Targets, device: torch.device) -> Callable[[Batch], Tensors]:
    """The stored entry of a batch's view, on a device; of another schedule's batch, a UsageError."""
    places = {step: place for place, step in enumerate(targets.tensors["steps"].tolist())}
    stored = {name: tensor for name, tensor in targets.tensors.items() if name != "steps"}

    def entry(batch: Batch) -> Tensors:
        place = places.get(batch.step)
        if place is None or batch.seed != targets.params["seed"]:
            raise UsageError(f"{targets.kind} targets: no labels of step {batch.step} of seed {batch.seed} are stored")
        return {name: tensor[place].to(device) for name, tensor in stored.items()}

    return entry


def schedule_of(synset: SynSet) -> BatchSchedule:
    """The batches that the entries are of."""
    targets = own_targets(synset)
    uniform = targets.params.get("draw") == "uniform"
    return BatchSchedule(targets.params["seed"], tuple(targets.tensors["steps"].tolist()), drawn(synset), uniform)


def stored_bytes(synset: SynSet) -> dict[str, int]:
    """Size of the entries and of the numbers of their steps, as `TargetKind.bytes` gives it."""
    return {"targets": sum(tensor.nbytes for tensor in own_targets(synset).tensors.values())}
