"""`replay`: the logits that teachers gave to the batches of a stream, stored; a student sees the same batches again.

Fast knowledge distillation (FKD; SRe2L, CDA and CV-DD relabel so) stores crops, flips and mixes of every batch beside
its logits. Here they are functions of a seed and a step, so nothing but logits is stored, and the student must draw by
that seed: `stream`. Of a pruned set only some steps are kept, and a training goes through them again and again.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ddbench.data import Dataset
from ddbench.errors import JobFailed, UsageError
from ddbench.streams import Batch, Batches, Labeller, Stream
from ddbench.student_recipe import StudentRecipe
from ddbench.synset import SynSet, Targets
from ddbench.targets import Binding, TargetKind, targets_of
from ddbench.targets.encodings import Encoding, encoding_of
from ddbench.targets.teachers import check_params
from ddbench.teachers import Teacher
from ddbench.views import drawn, expand, training_count

MAX_BYTES = 8 * 2**30
PARAMS = {"encoding", "seed", "images", "batch", "made_by"}


class Replay(TargetKind):
    """Logits of a stream's batches.

    Tensors: `steps` int64 [S], the views that are kept, rising; and, by encoding (`ddbench.targets.encodings`),
    `logits` float16 [S, b, K]; or `logits` int8 [S, b, K] with `scale` and `offset` float32 [S, b]; or `values` float16
    [S, b, k] with `indices` int16 (int32 above 32,768 classes) [S, b, k] and `rest` float16 [S, b].

    Params: `encoding`, "fp16", "int8" or "topk"; `seed` of the stream; `images`, how many training images it is drawn
    from; `batch`, b; `made_by`, the params of the `teachers` targets that made the labels: those networks need not be
    there, but by them a baseline's own images are labelled.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        targets = _own(synset)
        if set(targets.params) != PARAMS:
            raise UsageError(f"replay targets: params must be {sorted(PARAMS)}, not {sorted(targets.params)}")
        for name, least in (("seed", 0), ("images", 1), ("batch", 1)):
            if type(targets.params[name]) is not int or targets.params[name] < least:
                raise UsageError(f"replay targets: {name} must be a whole number of at least {least}")
        _check_stream(synset, targets)
        _check_tensors(targets, len(synset.class_names))
        check_params(targets.params["made_by"])

    def bind(self, binding: Binding) -> Labeller:
        """The stored logits of a batch's view; of another stream's batch, a UsageError."""
        targets, classes = _own(binding.synset), len(binding.synset.class_names)
        encoding = _encoding(targets, classes)
        places = {step: place for place, step in enumerate(targets.tensors["steps"].tolist())}
        stored = {name: tensor for name, tensor in targets.tensors.items() if name != "steps"}

        def label(batch: Batch) -> Tensor:
            place = places.get(batch.step)
            if place is None or batch.seed != targets.params["seed"]:
                raise UsageError(f"replay targets: no labels of step {batch.step} of seed {batch.seed} are stored")
            return encoding.read({name: t[place].to(binding.device) for name, t in stored.items()}, classes)

        return label

    def bytes(self, synset: SynSet) -> dict[str, int]:
        """See the base class."""
        return {"targets": sum(tensor.nbytes for tensor in _own(synset).tensors.values())}

    def stream(self, synset: SynSet) -> Stream:
        """The batches that the labels are of."""
        targets = _own(synset)
        return Stream(targets.params["seed"], tuple(targets.tensors["steps"].tolist()), drawn(synset))


def record_replay(
    synset: SynSet,
    dataset: Dataset,
    device: torch.device,
    *,
    seed: int,
    encoding: Literal["fp16", "int8", "topk"] = "fp16",
    keep: Sequence[int] | None = None,
    topk: int | None = None,
    loop: Callable[[int, int], Iterable[int]] | None = None,
    recall: Callable[[str], Teacher | None] | None = None,
) -> Targets:
    """Label the batches of a student's training ahead.

    Args:
        synset: its targets are of the kind `teachers`, and its student recipe says batch, augmentations, mix and epochs.
        dataset: that it is of.
        device: where the teachers run.
        seed: of the stream that is drawn.
        encoding: how logits are stored.
        keep: steps to label, rising; None: all that the recipe takes.
        topk: for "topk": how many logits of a row to keep.
        loop: called with (0, steps to label) for their numbers; None: `range`. Where it ends early, only what it came to
            is kept (one step at least, of zeros if need be: a dry run may not come to any).
        recall: gives a teacher by its hash; None: those in the cache.

    Raises:
        UsageError: the set is of another kind, the labels would be too large, a teacher is missing.
        JobFailed: a logit is not finite, or beyond what the encoding holds.
    """
    recipe, makers = synset.student_recipe, synset.targets
    if recipe is None or makers is None or makers.kind != "teachers":
        raise UsageError("to record a replay, a set needs a student recipe and targets of the kind teachers")
    count, classes = training_count(synset), len(synset.class_names)
    steps = _steps(recipe.steps(count), keep)
    batch = min(recipe.batch, count)
    how = encoding_of(encoding, topk, classes)
    _refuse_size(how, batch, classes, len(steps))
    kind, _ = targets_of(synset)
    label = kind.bind(Binding(synset, dataset, device, recall))
    batches = Batches(expand(synset, dataset)[0].to(device), recipe, Stream(seed, tuple(steps), drawn(synset)))
    tensors = {
        name: torch.zeros(len(steps), *shape, dtype=dtype)
        for name, (dtype, shape) in how.shapes(batch, classes).items()
    }
    done = 1
    for place in (loop or range)(0, len(steps)):
        _put(tensors, place, how.write(label(batches.at(place))))
        done = place + 1
    params = {"encoding": encoding, "seed": seed, "images": count, "batch": batch, "made_by": dict(makers.params)}
    stored = {"steps": torch.tensor(list(steps)), **tensors}
    return Targets("replay", params, {name: tensor[:done].contiguous() for name, tensor in stored.items()})


def _put(tensors: dict[str, Tensor], place: int, entry: dict[str, Tensor]) -> None:
    for name, tensor in entry.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise JobFailed(f"the teachers' {name} at step {place} are not finite, or too large for {tensor.dtype}")
        tensors[name][place] = tensor


def _steps(total: int, keep: Sequence[int] | None) -> Sequence[int]:
    if keep is None:
        return range(total)  # not a list: there may be more than could be labelled
    if not keep or keep[0] < 0 or any(one >= two for one, two in pairwise(keep)):
        raise UsageError("replay targets: the steps to keep must be at least one, 0 or more, and rising")
    return keep


def require_room(recipe: StudentRecipe, images: int, classes: int, encoding: str, topk: int | None = None) -> None:
    """UsageError where the labels of all steps of a training on so many images would be too large."""
    how = encoding_of(encoding, topk, classes)
    _refuse_size(how, min(recipe.batch, images), classes, recipe.steps(images))


def _refuse_size(how: Encoding, batch: int, classes: int, steps: int) -> None:
    size = steps * how.bytes(batch, classes)
    if size > MAX_BYTES:
        raise UsageError(
            f"the labels of {steps:,} steps would take {size / 2**30:.1f} GiB, allowed are {MAX_BYTES / 2**30:.0f}: "
            "keep fewer steps, store int8 or topk, or let the teachers label online"
        )


def _own(synset: SynSet) -> Targets:
    assert synset.targets is not None
    return synset.targets


def _encoding(targets: Targets, classes: int) -> Encoding:
    values = targets.tensors.get("values")
    kept = values.shape[-1] if values is not None and values.ndim else None
    return encoding_of(targets.params["encoding"], kept, classes)


def _check_stream(synset: SynSet, targets: Targets) -> None:
    """The stream is one that a training of this set can see."""
    images, batch, count = targets.params["images"], targets.params["batch"], training_count(synset)
    if images != count:
        raise UsageError(f"replay targets: labels of {images} training images do not fit a set of {count}")
    recipe = synset.student_recipe
    if recipe is None or batch != min(recipe.batch, count):
        wanted = "none" if recipe is None else min(recipe.batch, count)
        raise UsageError(f"replay targets: the set's student recipe must have batches of {batch}, not {wanted}")


def _check_tensors(targets: Targets, classes: int) -> None:
    steps = targets.tensors.get("steps")
    if steps is None or steps.dtype != torch.int64 or steps.ndim != 1 or not len(steps):
        raise UsageError("replay targets: steps must be int64 [S], of at least one step")
    if int(steps[0]) < 0 or bool((steps[1:] <= steps[:-1]).any()):
        raise UsageError("replay targets: steps must be 0 or more, and rising")
    encoding = _encoding(targets, classes)
    shapes = encoding.shapes(targets.params["batch"], classes)
    if set(targets.tensors) != {"steps", *shapes}:
        raise UsageError(f"replay targets hold {sorted({'steps', *shapes})}, not {sorted(targets.tensors)}")
    for name, (dtype, shape) in shapes.items():
        tensor, wanted = targets.tensors[name], (len(steps), *shape)
        if tensor.dtype != dtype or tuple(tensor.shape) != wanted:
            raise UsageError(
                f"replay targets: {name} must be {dtype} {list(wanted)}, not {tensor.dtype} {list(tensor.shape)}"
            )
    encoding.check(targets.tensors, classes)


REPLAY = Replay()
