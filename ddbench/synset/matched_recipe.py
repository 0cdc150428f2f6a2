"""Borrowed baselines: `random` trained as another set's students are, so that a comparison measures the images alone."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import targets_of
from ddbench.synset.targets.distances import record_distances
from ddbench.synset.targets.recording import drawn_by
from ddbench.synset.targets.replay import record_replay
from ddbench.synset.targets.soft import packed
from ddbench.synset.teachers import require
from ddbench.synset.views import training_count, training_images
from ddbench.system import code
from ddbench.training.cache import Cache
from ddbench.training.loop import predict
from ddbench.training.recipe import StudentRecipe

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Lender:
    """Whose student recipe a baseline is trained by: that set's method, and the hash of its recipe (imported: its own)."""

    method: str
    recipe_hash: str


def lender_of(synset: SynSet) -> Lender:
    """The lender that a set is."""
    made = synset.provenance
    return Lender(made.method, made.recipe_hash or synset.hash)


def borrow(baseline: SynSet, lender: SynSet, dataset: Dataset, device: torch.device = CPU) -> SynSet:
    """The baseline with the lender's student recipe and, where it can have them, the lender's labels.

    Teachers that label online are copied. Stored labels that named teachers made (a replay and distances say which, else
    provenance does) are made again by the same teachers for the baseline's own images. Learned labels have no counterpart for other
    images, and labels that begin as outputs of experts count as learned: the student then learns the classes by
    cross-entropy, all else equal. Views stay with the lender: they were made for its images.

    A baseline of indices in a pixel or normalised space moves into the lender's, if that is another such space.

    Args:
        baseline: the set that borrows.
        lender: the set that ships a student recipe.
        dataset: that both are of.
        device: where teachers label.

    Raises:
        UsageError: the lender ships no student recipe, the sets differ in data set, or a whitened space in one of them.
    """
    recipe = lender.student_recipe
    if recipe is None:
        raise UsageError(f"the set of {lender.provenance.method} ships no student recipe to borrow")
    if (baseline.dataset, baseline.split_hash) != (lender.dataset, lender.split_hash):
        raise UsageError(f"a baseline on {baseline.dataset} cannot borrow from a set on {lender.dataset}")
    own = replace(_moved(baseline, lender), student_recipe=recipe)
    if recipe.labels != "targets":
        return own
    kind, targets = targets_of(lender)
    if kind.teachers(lender):
        return replace(own, targets=targets)
    if targets.kind in ("replay", "distances"):
        return replace(own, targets=_recorded(own, targets, dataset, device))
    labelled = _relabel(own, lender, dataset, device)
    if labelled is not None:
        return replace(own, targets=labelled)
    return replace(own, student_recipe=by_classes(recipe), targets=None)


def _moved(baseline: SynSet, lender: SynSet) -> SynSet:
    """The baseline in the lender's space. Where neither is whitened, its indices name the same pixels in both."""
    if baseline.space == lender.space:
        return baseline
    if baseline.indices is None or "zca" in (baseline.space.kind, lender.space.kind):
        raise UsageError(
            f"the baseline lives in {baseline.space.kind} space, the set in {lender.space.kind}: "
            f"make the baseline with --set space={lender.space.kind}, so that whitening is not what is compared"
        )
    return replace(baseline, space=lender.space)


def by_classes(recipe: StudentRecipe) -> StudentRecipe:
    """The recipe with the classes and cross-entropy in place of learned labels."""
    return recipe.model_copy(update={"labels": "classes", "loss": {"name": "ce"}})


def _recorded(own: SynSet, lent: Targets, dataset: Dataset, device: torch.device) -> Targets:
    """The replay or distances of a set's own images by the lender's teachers, made once and kept in the cache.

    Where the lender kept every step of its training, so does the set; else both keep the same steps.
    """
    assert own.student_recipe is not None
    asked, steps = replace(own, targets=Targets("teachers", lent.params["made_by"])), lent.tensors["steps"].tolist()
    keep = None if len(steps) == own.student_recipe.steps(lent.params["images"]) else steps
    how: dict[str, Any] = {"seed": lent.params["seed"], "keep": keep}
    if lent.kind == "replay":
        values = lent.tensors.get("values")
        how |= {"encoding": lent.params["encoding"], "topk": None if values is None else values.shape[-1]}

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        record = record_replay if lent.kind == "replay" else record_distances
        made = record(asked, dataset, device, **how)
        return made.tensors, made.params

    product = Cache(f"borrowed-{lent.kind}", {"set": asked.hash, **how, "code": code.TRAINING}).product(make)
    return Targets(lent.kind, {**product.info, **drawn_by(lent.params.get("draw", "cycle"))}, product.tensors)


def _relabel(own: SynSet, lender: SynSet, dataset: Dataset, device: torch.device) -> Targets | None:
    """`soft` labels of a set's images by the teachers that made the lender's; None if no teacher made them."""
    assert lender.targets is not None
    made_by = lender.provenance.teachers
    weights = {key: facts["label_weight"] for key, facts in made_by.items() if "label_weight" in facts}
    if lender.targets.kind != "soft" or not weights:
        return None
    total = torch.zeros(training_count(own), len(own.class_names))
    for key, weight in weights.items():
        teacher = require(key)
        seen, _ = training_images(own, dataset, device, teacher.space)
        total = total + weight * predict(teacher.module(device), seen).cpu()
    if lender.targets.params["form"] == "probabilities":
        total = total.softmax(1)
    form = Targets("soft", {k: v for k, v in lender.targets.params.items() if k != "encoding"}, {"labels": total})
    if "encoding" not in lender.targets.params:
        return form
    values = lender.targets.tensors.get("values")
    topk = None if values is None else values.shape[-1]
    return packed(form, lender.targets.params["encoding"], topk, len(own.class_names))
