"""Recorded targets: entries about the batches of a schedule, made ahead by teachers and stored by step.

Crops, flips and mixes of a batch are functions of the schedule's seed and a step, so none of them is stored; the student
must draw by that seed. Where only some steps are kept, a training goes through them again and again, or draws one of them
for every step (LPLD).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ddbench.data.dataset import Dataset
from ddbench.errors import JobFailed, UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, TargetKind, own_targets
from ddbench.synset.targets.encodings import Shapes, Tensors, check_shapes, shapes_bytes
from ddbench.synset.targets.teachers import TEACHERS, check_params
from ddbench.synset.teachers import Recall
from ddbench.synset.views import drawn, training_count, training_images
from ddbench.training.batch_schedule import Batch, BatchSchedule, Labeller, SoftLabels
from ddbench.training.batches import Batches

MAX_BYTES = 8 * 2**30
PARAMS = {"seed", "images", "batch", "made_by"}
"""`seed` of the schedule; `images`, how many training images it is drawn from; `batch`, b; `made_by`, the params of the
`teachers` targets that made the entries: those networks need not be there, but by them a baseline's own images are
labeled.

`draw` may be left out: "cycle", step t of a training sees view t mod S of those kept; or "uniform", it sees one drawn by
the schedule's seed and t, with replacement."""
Draw = Literal["cycle", "uniform"]
DRAWS: tuple[Draw, ...] = ("cycle", "uniform")
STEP_BYTES = torch.int64.itemsize  # the number of a step, stored with its entry
Loop = Callable[[int, int], Iterable[int]]


@dataclass(frozen=True)
class EntryFormat:
    """Format of entries.

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
    recall: Recall | None = None,
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
    if keep is not None and (not keep or keep[0] < 0 or any(one >= two for one, two in pairwise(keep))):
        raise UsageError(f"{form.kind} targets: the steps to keep must be at least one, 0 or more, and rising")
    count = training_count(synset)
    # a range is no list: there may be more steps than could be labeled
    steps, rows = range(recipe.steps(count)) if keep is None else keep, min(recipe.batch, count)
    form.require_room(rows, len(steps))
    TEACHERS.check(synset)
    label = TEACHERS.bind(Binding(synset, dataset, device, recall))
    images, classes = training_images(synset, dataset, device)
    batches = Batches(images, recipe, BatchSchedule(seed, tuple(steps), drawn(synset)))

    def entry(place: int) -> Tensors:
        batch = batches.at(place)
        return form.write(batch, label(batch), classes[batch.index])

    params = {"seed": seed, "images": count, "batch": rows, "made_by": dict(makers.params), **drawn_by(draw)}
    return Targets(form.kind, params, filled(form.shapes(rows), steps, entry, loop))


def drawn_by(draw: str) -> dict[str, str]:
    """Entry of the params that says how kept steps are taken; none for "cycle", so that older hashes stay valid."""
    return {} if draw == DRAWS[0] else {"draw": draw}


def filled(
    shapes: Shapes, steps: Sequence[int], entry: Callable[[int], Tensors], loop: Loop | None = None
) -> dict[str, Tensor]:
    """Tensors of targets: the steps, and the entry of each place in their list.

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
        for name, tensor in entry(place).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise JobFailed(f"the teachers' {name} at step {place} are not finite, or too large for {tensor.dtype}")
            tensors[name][place] = tensor
        done = place + 1
    stored = {"steps": torch.tensor(list(steps)), **tensors}
    return {name: tensor[:done].contiguous() for name, tensor in stored.items()}


class RecordedTargets(TargetKind):
    """Base of the kinds that hold an entry for every kept step, under `PARAMS` and tensors `steps` int64 [S], rising."""

    more_params: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def shapes(self, targets: Targets, classes: int) -> Shapes:
        """Give name -> dtype and shape of one step's entry, for checked `PARAMS` and K classes."""

    @abstractmethod
    def check_values(self, targets: Targets, classes: int) -> None:
        """Raise UsageError unless values of entries are in range."""

    @abstractmethod
    def reader(self, targets: Targets, classes: int) -> Callable[[Tensors], Tensor | SoftLabels]:
        """Give what turns a step's entry into what a loss reads."""

    def check(self, synset: SynSet) -> None:
        """See the base class; the params must be of a schedule that a training of this set can see."""
        targets, classes = own_targets(synset), len(synset.class_names)
        kind, params, allowed = targets.kind, targets.params, PARAMS | self.more_params
        if set(params) - {"draw"} != allowed:
            raise UsageError(f"{kind} targets: params must be {sorted(allowed)}, not {sorted(params)}")
        if params.get("draw", DRAWS[0]) not in DRAWS:
            raise UsageError(f"{kind} targets: draw must be {' or '.join(DRAWS)}, not {params['draw']!r}")
        for name, least in (("seed", 0), ("images", 1), ("batch", 1)):
            if type(params[name]) is not int or params[name] < least:
                raise UsageError(f"{kind} targets: {name} must be a whole number of at least {least}")
        count, recipe = training_count(synset), synset.student_recipe
        if params["images"] != count:
            raise UsageError(
                f"{kind} targets: labels of {params['images']} training images do not fit a set of {count}"
            )
        rows = None if recipe is None else min(recipe.batch, count)
        if params["batch"] != rows:
            raise UsageError(
                f"{kind} targets: the set's student recipe must have batches of {params['batch']}, not {rows or 'none'}"
            )
        steps = targets.tensors.get("steps")
        if steps is None or steps.dtype != torch.int64 or steps.ndim != 1 or not len(steps):
            raise UsageError(f"{kind} targets: steps must be int64 [S], of at least one step")
        if int(steps[0]) < 0 or bool((steps[1:] <= steps[:-1]).any()):
            raise UsageError(f"{kind} targets: steps must be 0 or more, and rising")
        shapes = self.shapes(targets, classes)
        entries = {name: (dtype, (len(steps), *shape)) for name, (dtype, shape) in shapes.items()}
        check_shapes(targets, {"steps": (steps.dtype, tuple(steps.shape)), **entries})
        self.check_values(targets, classes)
        check_params(params["made_by"])

    def bind(self, binding: Binding) -> Labeller:
        """Give what the entry of a batch's view says; of another schedule's batch, a UsageError."""
        targets = own_targets(binding.synset)
        read = self.reader(targets, len(binding.synset.class_names))
        places = {step: place for place, step in enumerate(targets.tensors["steps"].tolist())}
        stored = {name: tensor for name, tensor in targets.tensors.items() if name != "steps"}

        def label(batch: Batch) -> Tensor | SoftLabels:
            place = places.get(batch.step)
            if place is None or batch.seed != targets.params["seed"]:
                raise UsageError(
                    f"{targets.kind} targets: no labels of step {batch.step} of seed {batch.seed} are stored"
                )
            return read({name: tensor[place].to(binding.device) for name, tensor in stored.items()})

        return label

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """Size of the entries and of the numbers of their steps."""
        return {"targets": sum(tensor.nbytes for tensor in own_targets(synset).tensors.values())}

    def schedule(self, synset: SynSet) -> BatchSchedule:
        """Batches that the entries are of."""
        targets = own_targets(synset)
        uniform = targets.params.get("draw") == "uniform"
        return BatchSchedule(targets.params["seed"], tuple(targets.tensors["steps"].tolist()), drawn(synset), uniform)
