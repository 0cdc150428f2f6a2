"""Borrowed baselines: `random` trained as another set's students are, so that a comparison measures the images alone."""

from dataclasses import dataclass, replace

import torch

from ddbench.data import Dataset
from ddbench.errors import UsageError
from ddbench.space import transform_for
from ddbench.student import predict
from ddbench.student_recipe import StudentRecipe
from ddbench.synset import SynSet, Targets
from ddbench.targets import targets_of
from ddbench.teachers import require


@dataclass(frozen=True)
class Lender:
    """Whose student recipe a baseline is trained by: that set's method, and the hash of its recipe (imported: its own)."""

    method: str
    recipe_hash: str


def lender_of(synset: SynSet) -> Lender:
    """The lender that a set is."""
    made = synset.provenance
    return Lender(made.method, made.recipe_hash or synset.hash)


def borrow(baseline: SynSet, lender: SynSet, dataset: Dataset) -> SynSet:
    """The baseline with the lender's student recipe and, where it can have them, the lender's labels.

    Teachers that label online are copied. Stored labels that named teachers made (provenance says which) are made
    again by the same teachers for the baseline's own images. Learned labels have no counterpart for other images, and
    labels that begin as outputs of experts count as learned: the student then learns the classes by cross-entropy, all
    else equal.

    Raises:
        UsageError: the lender ships no student recipe, or the two sets differ in data set or space.
    """
    recipe = lender.student_recipe
    if recipe is None:
        raise UsageError(f"the set of {lender.provenance.method} ships no student recipe to borrow")
    if (baseline.dataset, baseline.split_hash) != (lender.dataset, lender.split_hash):
        raise UsageError(f"a baseline on {baseline.dataset} cannot borrow from a set on {lender.dataset}")
    if baseline.space != lender.space:
        raise UsageError(
            f"the baseline lives in {baseline.space.kind} space, the set in {lender.space.kind}: "
            f"make the baseline with --set space={lender.space.kind}, so that whitening is not what is compared"
        )
    if recipe.labels != "targets":
        return replace(baseline, student_recipe=recipe)
    kind, targets = targets_of(lender)
    if kind.teachers(lender):
        return replace(baseline, student_recipe=recipe, targets=targets)
    labelled = _relabel(baseline, lender, dataset)
    if labelled is not None:
        return replace(baseline, student_recipe=recipe, targets=labelled)
    return replace(baseline, student_recipe=by_classes(recipe), targets=None)


def by_classes(recipe: StudentRecipe) -> StudentRecipe:
    """The recipe with the classes and cross-entropy in place of learned labels."""
    return recipe.model_copy(update={"labels": "classes", "loss": {"name": "ce"}})


def _relabel(baseline: SynSet, lender: SynSet, dataset: Dataset) -> Targets | None:
    """`soft` labels of the baseline's images by the teachers that made the lender's; None if no teacher made them."""
    assert lender.targets is not None
    made_by = lender.provenance.teachers
    weights = {key: facts["label_weight"] for key, facts in made_by.items() if "label_weight" in facts}
    if lender.targets.kind != "soft" or not weights:
        return None
    images = baseline.pixels(dataset)
    pixels = transform_for(baseline.space, dataset).decode(images)
    total = torch.zeros(len(baseline), len(baseline.class_names))
    for key, weight in weights.items():
        teacher = require(key)
        seen = images if teacher.space == baseline.space else transform_for(teacher.space, dataset).encode(pixels)
        total = total + weight * predict(teacher.module(torch.device("cpu")), seen)
    if lender.targets.params["form"] == "probabilities":
        total = total.softmax(1)
    return Targets("soft", dict(lender.targets.params), {"labels": total})
