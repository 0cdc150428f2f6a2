"""Label budgets: the soft labels of a set, packed under a number of bytes.

Two ways, alone or together: logits in fewer bytes (`ddbench.synset.targets.encodings`), and fewer label batches, as LPLD's
soft label pruning does (facts from its released code, he-y/soft-label-pruning-for-dataset-distillation). Of the E x steps
label batches of a training it keeps the share 1 - rho, the first of them, and the training draws one of those for every
step, uniformly with replacement.

Differences from the paper:
- how a share is rounded is *not established*: down, so that the result never exceeds the budget;
- draws are keyed by the schedule's seed and the step: all students of a set see the same ones, as of any stored labels;
- crops, flips and mixes follow from a seed and a step and take no bytes, but a kept batch's step is stored: 8 bytes.
"""

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

import torch

from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError, unknown
from ddbench.hashing import digest
from ddbench.randomness import rng
from ddbench.synset.synset import Provenance, SynSet, Targets, stored_parts
from ddbench.synset.targets import targets_of
from ddbench.synset.targets.encodings import ENCODINGS, encoding_of, stored_encoding
from ddbench.synset.targets.recording import DRAWS, STEP_BYTES, Draw, Loop
from ddbench.synset.targets.soft import packed
from ddbench.synset.targets.stored_soft_labels import record_soft_labels, reencoded, require_room
from ddbench.synset.teachers import Recall
from ddbench.synset.views import training_count
from ddbench.training.recipe import StudentRecipe

Keep = Literal["first", "random"]
KEEPS: tuple[Keep, ...] = get_args(Keep)
MOST = 100_000_000  # label batches that a random share is drawn from


@dataclass(frozen=True)
class Packing:
    """Encoding and budget of stored labels.

    Attributes:
        encoding: "fp16", "int8" or "topk".
        topk: for "topk": logits kept of a row.
        ratio: how many times fewer bytes than all label batches in fp16, 1 or more: LPLD's rho is 1 - 1 / ratio; or
        bytes: how many they may take. With neither, no label batch is dropped.
        keep: which label batches are kept where some are dropped: the first, or random ones.
        draw: how a training then takes them: "uniform", one drawn for every step, or "cycle", in turn.

    Raises:
        UsageError: an unknown name, ratio and bytes together, or one out of range.
    """

    encoding: Literal["fp16", "int8", "topk"] = "fp16"
    topk: int | None = None
    ratio: float | None = None
    bytes: int | None = None
    keep: Keep = "first"
    draw: Draw = "uniform"

    def __post_init__(self) -> None:
        for kind, name, known in (
            ("encoding", self.encoding, ENCODINGS),
            ("keep", self.keep, KEEPS),
            ("draw", self.draw, DRAWS),
        ):
            if name not in known:
                raise unknown(kind, name, known)
        if (self.encoding == "topk") != (self.topk is not None):
            raise UsageError("topk, how many logits to keep, goes with the encoding topk")
        if self.ratio is not None and self.bytes is not None:
            raise UsageError("a label budget is a ratio or a number of bytes, not both")
        if not self.limited and (self.keep, self.draw) != (KEEPS[0], "uniform"):
            raise UsageError("keep and draw go with ratio or bytes: without a budget no label batch is dropped")
        if self.ratio is not None and not 1 <= self.ratio < float("inf"):
            raise UsageError(f"ratio must be a number of at least 1, not {self.ratio}")
        if self.bytes is not None and self.bytes < 1:
            raise UsageError(f"bytes must be at least 1, not {self.bytes}")

    @property
    def limited(self) -> bool:
        """Tell whether there is a budget."""
        return self.ratio is not None or self.bytes is not None

    def words(self) -> str:
        """For names: "fp16", "topk3", "int8-40x", "fp16-2000B", "fp16-40x-random-cycle"."""
        budget = f"-{self.ratio:g}x" if self.ratio is not None else f"-{self.bytes}B" if self.bytes is not None else ""
        more = "".join(f"-{word}" for word in (self.keep, self.draw) if word not in ("first", "uniform"))
        return f"{self.encoding}{self.topk or ''}{budget}{more}"

    def limit(self, full: int) -> int | None:
        """Bytes that labels may take, where all of them in fp16 take `full`; rounded down; None: no limit."""
        if self.ratio is not None:
            return int(full / Fraction(str(self.ratio)))  # as it is typed: 1.1 is 11/10
        return self.bytes

    def batches(self, recipe: StudentRecipe, images: int, classes: int) -> int:
        """Count the label batches of a training on so many images that are kept.

        Raises:
            UsageError: not one fits.
        """
        total, limit = recipe.steps(images), self.limit(full_bytes(recipe, images, classes))
        if limit is None:
            return total
        each = batch_bytes(recipe, images, classes, self.encoding, self.topk)
        if limit < each:
            raise UsageError(
                f"a label budget of {limit:,} bytes is below one label batch: {each:,} bytes in {self.encoding}"
            )
        return min(total, limit // each)

    def require_room(self, recipe: StudentRecipe, images: int, classes: int) -> None:
        """UsageError where not one label batch fits, or those that are kept could not be stored."""
        kept = self.batches(recipe, images, classes)
        require_room(recipe, images, classes, self.encoding, self.topk, kept)

    def choose(self, total: int, kept: int, seed: int) -> torch.Tensor:
        """Choose which of `total` label batches are kept: int64 [kept], rising; random ones by the schedule's seed."""
        if self.keep == "first" or kept == total:
            return torch.arange(kept)
        if total > MOST:
            raise UsageError(f"a random share of {total:,} label batches is too much to draw: keep the first")
        return torch.randperm(total, generator=rng(seed, "kept label batches"))[:kept].sort().values


def batch_bytes(recipe: StudentRecipe, images: int, classes: int, encoding: str, topk: int | None = None) -> int:
    """Bytes of one label batch: its logits, and the number of its step."""
    return encoding_of(encoding, topk, classes).bytes(min(recipe.batch, images), classes) + STEP_BYTES


def full_bytes(recipe: StudentRecipe, images: int, classes: int) -> int:
    """Bytes of all label batches of a training in fp16: what ratios are against."""
    return recipe.steps(images) * batch_bytes(recipe, images, classes, "fp16")


def full_size(synset: SynSet) -> int:
    """Bytes that the soft labels of a set take in fp16 with nothing dropped; UsageError if it has none."""
    _, targets = targets_of(synset)
    count, classes = training_count(synset), len(synset.class_names)
    if targets.kind == "soft":
        return 2 * count * classes
    return full_bytes(_recipe(synset), count, classes)


def parts(synset: SynSet) -> dict[str, int]:
    """Bytes of a set by part, as they are stored: images (an index counts as its pixels), extra, targets, external."""
    kind, _ = targets_of(synset)
    return stored_parts(synset) | kind.bytes(synset)


def pack_labels(
    synset: SynSet,
    dataset: Dataset,
    packing: Packing,
    device: torch.device,
    *,
    seed: int | None = None,
    loop: Loop | None = None,
) -> SynSet:
    """A set with its soft labels packed; all else is as it was.

    Labels that are stored are re-written where what is stored suffices; else the teachers that made them are asked.

    Args:
        synset: its targets are of the kind `teachers`, `replay` or `soft`.
        dataset: that it is of.
        packing: how.
        device: where teachers run.
        seed: of the schedule whose batches online teachers label; None: the set's synthesis seed, else 0.
        loop: called with (0, label batches) for their numbers; None: `range`.

    Raises:
        UsageError: the set has no such targets, nothing fits the budget, a teacher is missing, another seed is wanted than
            that of the stored labels.
        JobFailed: a logit is not finite, or beyond what the encoding holds.
    """
    _, targets = targets_of(synset)
    if targets.kind == "replay" and seed not in (None, targets.params["seed"]):
        raise UsageError(f"the labels are stored for the schedule of seed {targets.params['seed']}, not of {seed}")
    own = synset.provenance.seed or 0 if seed is None else seed
    made = packed_targets(synset, dataset, packing, device, seed=own, loop=loop)
    return replace(synset, targets=made, provenance=_provenance(synset, made, packing))


def packed_targets(
    synset: SynSet,
    dataset: Dataset,
    packing: Packing,
    device: torch.device,
    *,
    seed: int,
    loop: Loop | None = None,
    recall: Recall | None = None,
) -> Targets:
    """Packed targets of a set; see `pack_labels`. `recall` gives a teacher by its hash; None: those in the cache."""
    _, targets = targets_of(synset)
    if targets.kind == "soft":
        return _soft(synset, targets, packing)
    if targets.kind not in ("teachers", "replay"):
        raise UsageError(f"targets of kind {targets.kind} cannot be packed: teachers, replay or soft are needed")
    recipe, images, classes = _recipe(synset), training_count(synset), len(synset.class_names)
    total, kept = recipe.steps(images), packing.batches(recipe, images, classes)
    draw: Draw = packing.draw if kept < total else "cycle"
    chosen: list[int] | None = None
    if targets.kind == "replay":
        steps, seed = targets.tensors["steps"], targets.params["seed"]
        if not packing.limited:
            kept, draw = len(steps), targets.params.get("draw", "cycle")
        if kept <= len(steps):
            places = packing.choose(len(steps), kept, seed)
            if stored_encoding(targets, classes).suffices(encoding_of(packing.encoding, packing.topk, classes)):
                return reencoded(synset, places, encoding=packing.encoding, topk=packing.topk, draw=draw, loop=loop)
            chosen = steps[places].tolist()
        synset = replace(synset, targets=Targets("teachers", targets.params["made_by"]))
    if chosen is None:
        packing.require_room(recipe, images, classes)
        if kept < total:
            chosen = packing.choose(total, kept, seed).tolist()
    how: dict[str, Any] = {"encoding": packing.encoding, "topk": packing.topk, "keep": chosen, "draw": draw}
    return record_soft_labels(synset, dataset, device, seed=seed, loop=loop, recall=recall, **how)


def _soft(synset: SynSet, targets: Targets, packing: Packing) -> Targets:
    classes = len(synset.class_names)
    wanted = encoding_of(packing.encoding, packing.topk, classes)
    if "encoding" in targets.params and not stored_encoding(targets, classes).suffices(wanted):
        raise UsageError(f"labels that are stored in {targets.params['encoding']} do not suffice for {packing.words()}")
    made = packed(targets, packing.encoding, packing.topk, classes)
    size, limit = sum(tensor.nbytes for tensor in made.tensors.values()), packing.limit(full_size(synset))
    if limit is not None and size > limit:
        raise UsageError(
            f"soft labels are one for each image, of which none can be dropped: {size:,} bytes in {packing.encoding} are "
            f"above the label budget of {limit:,}"
        )
    return made


def _recipe(synset: SynSet) -> StudentRecipe:
    if synset.student_recipe is None:
        raise UsageError("to pack labels by batches, a set needs a student recipe")
    return synset.student_recipe


def _provenance(synset: SynSet, made: Targets, packing: Packing) -> Provenance:
    """That of the set, with a recipe of its own: the packed set is another cell of every table."""
    changes: dict[str, Any] = {"note": f"labels packed ({packing.words()}) of the set {synset.hash}"}
    provenance = synset.provenance
    if provenance.recipe_hash is not None:
        plain, before = provenance.recipe, provenance.recipe.get("labels")
        name = before.get("recipe") if isinstance(before, dict) else plain.get("name")
        steps, seed = made.tensors.get("steps"), made.params.get("seed")
        labels = {"recipe": name, "batches": None if steps is None else len(steps), **asdict(packing)}
        if seed not in (None, provenance.seed):
            labels["seed"] = seed  # only then: synthesis seeds are draws of one cell
        changes["recipe"] = {**plain, "name": f"{name}+{packing.words()}", "labels": labels}
        changes["recipe_hash"] = digest(changes["recipe"])
    return provenance.model_copy(update=changes)
