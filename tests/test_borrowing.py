"""A baseline trained as another set's students are."""

from dataclasses import replace

import pytest
import torch

from ddbench import teachers
from ddbench.borrowing import borrow
from ddbench.data import load_dataset
from ddbench.errors import UsageError
from ddbench.protocol import find_protocol
from ddbench.space import make_space
from ddbench.student_recipe import StudentRecipe
from ddbench.synset import Provenance, SynSet, Targets
from ddbench.targets import online_teacher

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
        "dataset": "digits",
        "split_hash": digits.train.hash,
        "class_names": digits.class_names,
        "channels": 1,
        "side": 8,
        "classes": torch.arange(10),
        "space": make_space("normalised", digits),
    }
    return SynSet(**{**fields, **changes})


def baseline(**changes):
    digits = load_dataset("digits")
    indices = torch.stack([(digits.train.labels == c).nonzero()[0, 0] for c in range(10)])
    return a_set(**{"indices": indices, "provenance": Provenance(method="random", seed=0), **changes})


def lender(**changes):
    fields = {"images": torch.randn(10, 1, 8, 8), "student_recipe": RECIPE, "provenance": Provenance(method="toy")}
    return a_set(**{**fields, **changes})


def a_teacher(seed=0):
    digits = load_dataset("digits")
    found = teachers.reference_teacher(find_protocol("toy-soft-v1").reference(digits), digits, CPU, seed=seed)
    teachers.keep(found)
    return found


def lent(other, own=None):
    return borrow(own or baseline(), other, load_dataset("digits"))


def test_a_recipe_on_classes_is_taken_as_it_is():
    recipe = RECIPE.model_copy(update={"labels": "classes", "loss": {"name": "ce"}})
    found = lent(lender(student_recipe=recipe))
    assert found.student_recipe == recipe and found.targets is None
    assert torch.equal(found.indices, baseline().indices) and found.provenance == baseline().provenance


def test_learned_labels_become_classes_all_else_equal():
    found = lent(lender(targets=LEARNED))
    assert found.targets is None
    assert found.student_recipe == RECIPE.model_copy(update={"labels": "classes", "loss": {"name": "ce"}})


def test_labels_that_come_from_experts_count_as_learned():
    experts = {f"{e}" * 64: {"role": "expert", "network": "convnet-d3", "epoch": 50, "accuracy": 0.4} for e in range(3)}
    found = lent(lender(targets=LEARNED, provenance=Provenance(method="toy", teachers=experts)))
    assert found.targets is None and found.student_recipe.labels == "classes"


def test_an_online_teacher_is_copied(toys):
    targets = online_teacher(a_teacher())
    found = lent(lender(targets=targets))
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
    other = lender(targets=labels, provenance=Provenance(method="toy", teachers=facts), space=lived)
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


def test_a_teacher_that_is_gone_is_one_line():
    facts = {"0" * 64: {"label_weight": 1.0}}
    with pytest.raises(UsageError, match="not in the cache"):
        lent(lender(targets=LEARNED, provenance=Provenance(method="toy", teachers=facts)))


def test_nothing_to_borrow():
    with pytest.raises(UsageError, match="no student recipe"):
        lent(lender(student_recipe=None))


def test_sets_must_match():
    digits = load_dataset("digits")
    with pytest.raises(UsageError, match="--set space=zca"):
        lent(lender(space=make_space("zca", digits), targets=LEARNED))
    with pytest.raises(UsageError, match="cannot borrow"):
        lent(lender(dataset="mnist", targets=LEARNED))
    with pytest.raises(UsageError, match="cannot borrow"):
        lent(replace(lender(targets=LEARNED), split_hash="0" * 64))
