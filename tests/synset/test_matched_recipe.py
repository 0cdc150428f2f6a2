"""A baseline trained as another set's students are."""

from dataclasses import replace

import pytest
import torch

from ddbench.data.registry import load_dataset
from ddbench.data.spaces import Space, make_space
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import reference_teacher
from ddbench.synset import teachers
from ddbench.synset.matched_recipe import by_classes, match_recipe
from ddbench.synset.synset import Provenance, SynSet, Targets, Views
from ddbench.synset.targets import committee, online_teacher, targets_of
from ddbench.synset.targets.stored_soft_labels import record_soft_labels
from ddbench.training.recipe import StudentRecipe

CPU = torch.device("cpu")
RECIPE = StudentRecipe(
    network="mlp",
    optimizer={"name": "sgd", "lr": 0.1},
    loss={"name": "kl", "temperature": 3.0},
    labels="targets",
    epochs=2,
    batch=5,
)
LEARNED = Targets("soft", {"form": "logits"}, {"labels": torch.randn(10, 10)})


def a_set(**changes):
    digits = load_dataset("digits")
    fields = {
        "classes": torch.arange(10),
        "space": make_space("normalised", digits),
    }
    return SynSet.of(digits, **{**fields, **changes})


def baseline(**changes):
    digits = load_dataset("digits")
    indices = torch.stack([(digits.train.labels == c).nonzero()[0, 0] for c in range(10)])
    return a_set(**{"indices": indices, "provenance": Provenance(method="random", seed=0), **changes})


def owner(**changes):
    fields = {"images": torch.randn(10, 1, 8, 8), "student_recipe": RECIPE, "provenance": Provenance(method="toy")}
    return a_set(**{**fields, **changes})


def a_teacher(seed=0):
    digits = load_dataset("digits")
    found = reference_teacher(find_protocol("toy-soft-v1").reference(digits), digits, CPU, seed=seed)
    teachers.keep(found)
    return found


def lent(other, own=None):
    return match_recipe(own or baseline(), other, load_dataset("digits"))


def test_a_recipe_on_classes_is_taken_as_it_is():
    recipe = RECIPE.model_copy(update={"labels": "classes", "loss": {"name": "ce"}})
    found = lent(owner(student_recipe=recipe))
    assert found.student_recipe == recipe and found.targets is None
    assert torch.equal(found.indices, baseline().indices) and found.provenance == baseline().provenance


EXPERTS = {f"{e}" * 64: {"role": "expert", "network": "convnet-d3", "epoch": 50, "accuracy": 0.4} for e in range(3)}


@pytest.mark.parametrize("facts", [{}, EXPERTS], ids=["learned", "experts"])
def test_learned_labels_become_classes_all_else_equal(facts):
    """Labels that begin as outputs of experts count as learned."""
    found = lent(owner(targets=LEARNED, provenance=Provenance(method="toy", teachers=facts)))
    assert found.targets is None
    assert found.student_recipe == RECIPE.model_copy(update={"labels": "classes", "loss": {"name": "ce"}})


def test_an_online_teacher_is_copied(toys):
    targets = online_teacher(a_teacher())
    found = lent(owner(targets=targets))
    assert found.student_recipe == RECIPE and found.targets.kind == "teachers"
    assert found.targets.params == targets.params


@pytest.mark.parametrize("form", ["logits", "probabilities"])
@pytest.mark.parametrize("space", ["normalised", "pixel"])
def test_stored_labels_of_named_teachers_are_made_again(toys, form, space):
    digits = load_dataset("digits")
    one, two = a_teacher(0), a_teacher(1)
    facts = {one.hash: {"label_weight": 0.5}, two.hash: {"label_weight": 2.0}, "f" * 64: {"accuracy": 0.9}}
    labels = Targets("soft", {"form": form}, {"labels": torch.randn(10, 10).softmax(1)})
    lived = make_space(space, digits)
    other = owner(targets=labels, provenance=Provenance(method="toy", teachers=facts), space=lived)
    own = baseline(space=lived)
    found = lent(other, own)
    pixels = digits.train.read()[own.indices].float() / 255
    seen = (pixels - digits.mean[0]) / digits.std[0]  # both teachers read the normalised space
    wanted = 0.5 * one.module(CPU)(seen) + 2.0 * two.module(CPU)(seen)
    if form == "probabilities":
        wanted = wanted.softmax(1)
    assert found.student_recipe == RECIPE and found.targets.params == {"form": form}
    made = found.targets.tensors["labels"]
    assert torch.allclose(made, wanted, atol=1e-4) and not made.is_inference() and not made.requires_grad
    assert not torch.allclose(made, labels.tensors["labels"])


def a_replay(makers=(0, 1), own=None, **options):
    """An owner whose labels are stored logits of two teachers."""
    online = owner(targets=committee([(a_teacher(seed), 0.5 + seed) for seed in makers], "batch", 3), **(own or {}))
    return replace(online, targets=record_soft_labels(online, load_dataset("digits"), CPU, seed=4, **options))


@pytest.mark.parametrize(
    "options", [{}, {"keep": [1, 2]}, {"encoding": "int8"}, {"encoding": "topk", "topk": 3}], ids=str
)
def test_a_replay_is_made_again_for_other_images_and_once(toys, options, monkeypatch):
    digits, other = load_dataset("digits"), a_replay(**options)
    found = lent(other)
    assert found.student_recipe == RECIPE and found.targets.kind == "replay"
    assert found.targets.params == other.targets.params
    online = replace(baseline(), student_recipe=RECIPE, targets=Targets("teachers", other.targets.params["made_by"]))
    wanted = record_soft_labels(online, digits, CPU, seed=4, **options)
    assert {name: t.shape for name, t in found.targets.tensors.items()} == {
        name: t.shape for name, t in other.targets.tensors.items()
    }
    assert all(torch.equal(found.targets.tensors[name], tensor) for name, tensor in wanted.tensors.items())
    targets_of(found)
    monkeypatch.setattr("ddbench.synset.matched_recipe.record_soft_labels", None)
    assert lent(other).hash == found.hash


def test_a_larger_baseline_gets_a_replay_of_its_own_length(toys):
    digits = load_dataset("digits")
    more = baseline(indices=torch.arange(25), classes=digits.train.labels[:25])
    every = lent(a_replay(), more)
    assert every.targets.tensors["steps"].tolist() == list(range(10)) and every.targets.params["images"] == 25
    pruned = lent(a_replay(keep=[0, 3]), more)
    assert pruned.targets.tensors["steps"].tolist() == [0, 3]
    targets_of(every), targets_of(pruned)


def test_what_is_missing_is_one_line():
    facts = {"0" * 64: {"label_weight": 1.0}}
    made_by = {"teachers": [{"hash": "0" * 64, "weight": 1.0}]}
    params = {"encoding": "fp16", "seed": 0, "images": 10, "batch": 5, "made_by": made_by}
    tensors = {"steps": torch.arange(4), "logits": torch.zeros(4, 5, 10).half()}
    for changes, message in (
        ({"targets": LEARNED, "provenance": Provenance(method="toy", teachers=facts)}, "not in the cache"),
        ({"targets": Targets("replay", params, tensors)}, "not in the cache"),
        ({"student_recipe": None}, "no student recipe"),
    ):
        with pytest.raises(UsageError, match=message):
            lent(owner(**changes))


def compensated(**changes):
    views = Views("compensators", {}, {"compensators": torch.zeros(2, 1, 1, 8, 8), "slots": torch.zeros(10).long()})
    return owner(views=views, **changes)


def test_a_baseline_trains_without_the_owners_views(toys):
    one = a_teacher()
    labels = Targets("soft", {"form": "logits", "mixed": "logits"}, {"labels": torch.randn(30, 10)})
    facts = {one.hash: {"label_weight": 1.0}}
    found = lent(compensated(targets=labels, provenance=Provenance(method="toy", teachers=facts)))
    assert found.views is None and found.targets.tensors["labels"].shape == (10, 10)
    assert found.targets.params == labels.params
    targets_of(found)
    online = lent(compensated(targets=online_teacher(one)))
    assert online.views is None and online.targets.params == online_teacher(one).params


def test_a_replay_with_views_is_made_again_without(toys):
    online = compensated(targets=online_teacher(a_teacher()))
    other = replace(online, targets=record_soft_labels(online, load_dataset("digits"), CPU, seed=4))
    assert other.targets.params["images"] == 30 and len(other.targets.tensors["steps"]) == 12
    found = lent(other)
    assert found.targets.params["images"] == 10 and found.targets.tensors["steps"].tolist() == [0, 1, 2, 3]
    targets_of(found)


OTHER = Space("normalised", mean=(0.2,), std=(0.7,))


@pytest.mark.parametrize(("own", "theirs"), [("normalised", OTHER), ("pixel", OTHER), ("normalised", "pixel")])
def test_a_baseline_of_indices_moves_into_an_affine_space(own, theirs):
    """A map per channel is no whitening: the pixels stay, the student sees them as those of the owner's set."""
    digits = load_dataset("digits")
    lived = make_space(theirs, digits) if isinstance(theirs, str) else theirs
    recipe = by_classes(RECIPE)
    before = baseline(space=make_space(own, digits))
    found = lent(owner(space=lived, student_recipe=recipe), before)
    assert found.space == lived and torch.equal(found.indices, before.indices)
    pixels = digits.train.read(before.indices).float() / 255
    wanted = pixels if theirs == "pixel" else (pixels - 0.2) / 0.7
    assert torch.allclose(found.pixels(digits), wanted, atol=1e-6)


def test_stored_images_do_not_move():
    stored = baseline(indices=None, images=torch.randn(10, 1, 8, 8))
    with pytest.raises(UsageError, match="--set space=normalised"):
        lent(owner(space=OTHER, student_recipe=by_classes(RECIPE)), stored)
    assert lent(owner(student_recipe=by_classes(RECIPE)), stored).space == stored.space


@pytest.mark.parametrize("whitened", ["own", "theirs"])
def test_whitening_is_never_compared(whitened):
    digits = load_dataset("digits")
    zca = {"space": make_space("zca", digits)}
    with pytest.raises(UsageError, match="whitening"):
        lent(owner(**(zca if whitened == "theirs" else {})), baseline(**(zca if whitened == "own" else {})))


def test_sets_must_match():
    digits = load_dataset("digits")
    with pytest.raises(UsageError, match="--set space=zca"):
        lent(owner(space=make_space("zca", digits), targets=LEARNED))
    with pytest.raises(UsageError, match="cannot be trained by"):
        lent(owner(dataset="mnist", targets=LEARNED))
    with pytest.raises(UsageError, match="cannot be trained by"):
        lent(replace(owner(targets=LEARNED), split_hash="0" * 64))
