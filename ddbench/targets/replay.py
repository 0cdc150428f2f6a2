"""`replay`: the logits that teachers gave to the batches of a stream, stored; a student sees the same batches again.

Fast knowledge distillation (FKD; SRe2L, CDA and CV-DD relabel so) stores crops, flips and mixes of every batch beside
its logits. Here they are functions of a seed and a step, so nothing but logits is stored, and the student must draw by
that seed: `stream`. Of a pruned set only some steps are kept; a training goes through them again and again, or draws one
of them for every step (LPLD).
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
Draw = Literal["cycle", "uniform"]
DRAWS: tuple[Draw, ...] = ("cycle", "uniform")
STEP_BYTES = torch.int64.itemsize  # the number of a step, stored with its logits
Loop = Callable[[int, int], Iterable[int]]


class Replay(TargetKind):
    """Logits of a stream's batches.

    Tensors: `steps` int64 [S], the views that are kept, rising; and, by encoding (`ddbench.targets.encodings`),
    `logits` float16 [S, b, K]; or `logits` int8 [S, b, K] with `scale` and `offset` float32 [S, b]; or `values` float16
    [S, b, k] with `indices` int16 (int32 above 32,768 classes) [S, b, k] and `rest` float16 [S, b].

    Params: `encoding`, "fp16", "int8" or "topk"; `seed` of the stream; `images`, how many training images it is drawn
    from; `batch`, b; `made_by`, the params of the `teachers` targets that made the labels: those networks need not be
    there, but by them a baseline's own images are labelled. `draw` may be left out: "cycle", step t of a training sees
    view t mod S of those kept; or "uniform", it sees one drawn by the stream's seed and t, with replacement.
    """

    def check(self, synset: SynSet) -> None:
        """See the base class."""
        targets = _own(synset)
        if set(targets.params) - {"draw"} != PARAMS:
            raise UsageError(f"replay targets: params must be {sorted(PARAMS)}, not {sorted(targets.params)}")
        if targets.params.get("draw", DRAWS[0]) not in DRAWS:
            raise UsageError(f"replay targets: draw must be {' or '.join(DRAWS)}, not {targets.params['draw']!r}")
        for name, least in (("seed", 0), ("images", 1), ("batch", 1)):
            if type(targets.params[name]) is not int or targets.params[name] < least:
                raise UsageError(f"replay targets: {name} must be a whole number of at least {least}")
        _check_stream(synset, targets)
        _check_tensors(targets, len(synset.class_names))
        check_params(targets.params["made_by"])

    def bind(self, binding: Binding) -> Labeller:
        """The stored logits of a batch's view; of another stream's batch, a UsageError."""
        targets, classes = _own(binding.synset), len(binding.synset.class_names)
        encoding = stored_encoding(targets, classes)
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
        uniform = targets.params.get("draw") == "uniform"
        return Stream(targets.params["seed"], tuple(targets.tensors["steps"].tolist()), drawn(synset), uniform)


def record_replay(
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
    """Label the batches of a student's training ahead.

    Args:
        synset: its targets are of the kind `teachers`, and its student recipe says batch, augmentations, mix and epochs.
        dataset: that it is of.
        device: where the teachers run.
        seed: of the stream that is drawn.
        encoding: how logits are stored.
        keep: steps to label, rising; None: all that the recipe takes.
        draw: how a training takes them, see `Replay`.
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
    tensors = _filled(how, steps, batch, classes, lambda place: label(batches.at(place)), loop)
    params = {"encoding": encoding, "seed": seed, "images": count, "batch": batch, "made_by": dict(makers.params)}
    return Targets("replay", {**params, **drawn_by(draw)}, tensors)


def drawn_by(draw: str) -> dict[str, str]:
    """The entry of the params that says how kept steps are taken; none for "cycle", so that older hashes stay valid."""
    return {} if draw == DRAWS[0] else {"draw": draw}


def rewritten(
    synset: SynSet, places: Tensor, *, encoding: str, topk: int | None = None, loop: Loop | None = None
) -> Targets:
    """The stored logits of some of a set's kept steps, in another encoding or the same; no teacher is asked.

    Args:
        synset: its targets are of the kind `replay`.
        places: int64, rising, in the list of steps that are kept.
        encoding: how logits are stored from now on.
        topk: for "topk": how many logits of a row to keep.
        loop: as for `record_replay`.
    """
    targets, classes = _own(synset), len(synset.class_names)
    before, after = stored_encoding(targets, classes), encoding_of(encoding, topk, classes)
    steps, params = targets.tensors["steps"][places], {**targets.params, "encoding": encoding}
    if before == after:
        return Targets("replay", params, {name: tensor[places] for name, tensor in targets.tensors.items()})
    batch = targets.params["batch"]
    _refuse_size(after, batch, classes, len(places))
    stored, at = {name: tensor for name, tensor in targets.tensors.items() if name != "steps"}, places.tolist()

    def logits(place: int) -> Tensor:
        return before.read({name: tensor[at[place]] for name, tensor in stored.items()}, classes)

    return Targets("replay", params, _filled(after, steps.tolist(), batch, classes, logits, loop))


def _filled(
    how: Encoding,
    steps: Sequence[int],
    batch: int,
    classes: int,
    logits: Callable[[int], Tensor],
    loop: Loop | None,
) -> dict[str, Tensor]:
    """The tensors of a replay: the steps, and the logits [b, K] of each place in their list as the encoding writes them."""
    shapes = how.shapes(batch, classes)
    tensors = {name: torch.zeros(len(steps), *shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    done = 1
    for place in (loop or range)(0, len(steps)):
        _put(tensors, place, how.write(logits(place)))
        done = place + 1
    stored = {"steps": torch.tensor(list(steps)), **tensors}
    return {name: tensor[:done].contiguous() for name, tensor in stored.items()}


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


def require_room(
    recipe: StudentRecipe,
    images: int,
    classes: int,
    encoding: str,
    topk: int | None = None,
    steps: int | None = None,
) -> None:
    """UsageError where the labels of all steps of a training on so many images, or of so many steps, are too large."""
    how = encoding_of(encoding, topk, classes)
    _refuse_size(how, min(recipe.batch, images), classes, steps or recipe.steps(images))


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


def stored_encoding(targets: Targets, classes: int) -> Encoding:
    """How the logits of targets of this kind are written; UsageError if that is unknown, or k is out of range."""
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
    encoding = stored_encoding(targets, classes)
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
