"""Matched-recipe baselines: `random` trained by another set's recipe, so that a comparison measures the images alone."""

from dataclasses import replace
from typing import Any

import torch

from ddbench.data.dataset import Dataset
from ddbench.errors import UsageError
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import targets_of
from ddbench.synset.targets.distances import record_distances
from ddbench.synset.targets.encodings import stored_topk
from ddbench.synset.targets.recording import drawn_by
from ddbench.synset.targets.soft import packed
from ddbench.synset.targets.stored_soft_labels import record_soft_labels
from ddbench.synset.teachers import require
from ddbench.synset.views import training_count, training_images
from ddbench.system import code
from ddbench.training.cache import Cache
from ddbench.training.loop import predict
from ddbench.training.recipe import StudentRecipe

CPU = torch.device("cpu")


def match_recipe(baseline: SynSet, owner: SynSet, dataset: Dataset, device: torch.device = CPU) -> SynSet:
    """Give a baseline another set's training recipe and, where it can have them, labels by the same teachers.

    Teachers that label online are copied. Stored labels of named teachers (the targets or the provenance name them) are
    made again, by the same teachers for the baseline's own images. Learned labels have no counterpart for other images,
    and labels that begin as outputs of experts count as learned: the student then learns the classes by cross-entropy,
    all else equal. Views are not copied: they were made for the owner's images.

    A baseline of indices in a pixel or normalised space moves into the owner's, if that is another such space.

    Args:
        baseline: the set that takes the recipe over.
        owner: the set that ships a student recipe.
        dataset: that both are of.
        device: where teachers label.

    Raises:
        UsageError: the owner ships no student recipe, the sets differ in data set, or a whitened space in one of them.
    """
    recipe, method = owner.student_recipe, owner.provenance.method
    if recipe is None:
        raise UsageError(f"the set of {method} ships no student recipe that a baseline could be trained by")
    if (baseline.dataset, baseline.split_hash) != (owner.dataset, owner.split_hash):
        raise UsageError(
            f"a baseline on {baseline.dataset} cannot be trained by the recipe of a set on {owner.dataset}"
        )
    if baseline.space != owner.space and (baseline.indices is None or "zca" in (baseline.space.kind, owner.space.kind)):
        raise UsageError(
            f"the baseline lives in {baseline.space.kind} space, the set in {owner.space.kind}: "
            f"make the baseline with --set space={owner.space.kind}, so that whitening is not what is compared"
        )
    own = replace(baseline, space=owner.space, student_recipe=recipe)
    if recipe.labels != "targets":
        return own
    kind, targets = targets_of(owner)
    if kind.teachers(owner):
        return replace(own, targets=targets)
    if targets.kind in ("replay", "distances"):
        return replace(own, targets=_recorded(own, targets, dataset, device))
    labels = _relabelled(own, owner, targets, dataset, device)
    return replace(own, student_recipe=recipe if labels else by_classes(recipe), targets=labels)


def by_classes(recipe: StudentRecipe) -> StudentRecipe:
    """Return the recipe with the classes and cross-entropy in place of learned labels."""
    return recipe.model_copy(update={"labels": "classes", "loss": {"name": "ce"}})


def _recorded(own: SynSet, targets: Targets, dataset: Dataset, device: torch.device) -> Targets:
    """Record logits or distances for a set's own images by the teachers of `targets`, made once and cached.

    Where those targets keep every step of their training, so do the new ones; else both keep the same steps.
    """
    assert own.student_recipe is not None
    online, steps = replace(own, targets=Targets("teachers", targets.params["made_by"])), targets.tensors["steps"]
    all_kept = len(steps) == own.student_recipe.steps(targets.params["images"])
    how: dict[str, Any] = {"seed": targets.params["seed"], "keep": None if all_kept else steps.tolist()}
    if targets.kind == "replay":
        how |= {"encoding": targets.params["encoding"], "topk": stored_topk(targets)}

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        record = record_soft_labels if targets.kind == "replay" else record_distances
        made = record(online, dataset, device, **how)
        return made.tensors, made.params

    key = {"set": online.hash, **how, "code": code.TRAINING}
    artifact = Cache(f"borrowed-{targets.kind}", key).product(make)
    return Targets(targets.kind, {**artifact.info, **drawn_by(targets.params.get("draw", "cycle"))}, artifact.tensors)


def _relabelled(own: SynSet, owner: SynSet, targets: Targets, dataset: Dataset, device: torch.device) -> Targets | None:
    """Make `soft` labels of a set's images by the teachers that made the owner's; None if no teacher made them."""
    made_by = owner.provenance.teachers
    weights = {key: facts["label_weight"] for key, facts in made_by.items() if "label_weight" in facts}
    if targets.kind != "soft" or not weights:
        return None
    classes = len(own.class_names)
    total = torch.zeros(training_count(own), classes)
    for key, weight in weights.items():
        teacher = require(key)
        images, _ = training_images(own, dataset, device, teacher.space)
        total = total + weight * predict(teacher.module(device), images).cpu()
    if targets.params["form"] == "probabilities":
        total = total.softmax(1)
    plain = Targets("soft", {k: v for k, v in targets.params.items() if k != "encoding"}, {"labels": total})
    if "encoding" not in targets.params:
        return plain
    return packed(plain, targets.params["encoding"], stored_topk(targets), classes)
