"""Targets: what is well formed, what logits a batch gets, what they weigh."""

from dataclasses import replace

import pytest
import torch

from ddbench import plugins, teachers
from ddbench.data import load_dataset
from ddbench.errors import UsageError
from ddbench.protocol import find_protocol
from ddbench.space import make_space, transform_for
from ddbench.student import Batch
from ddbench.synset import SynSet, Targets
from ddbench.targets import Binding, find_target_kind, online_teacher, targets_of

CPU = torch.device("cpu")
LABELS = torch.randn(10, 10, generator=torch.Generator().manual_seed(4))


def a_set(targets=None, space="normalised"):
    digits = load_dataset("digits")
    images = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return SynSet(
        dataset="digits",
        split_hash=digits.train.hash,
        class_names=digits.class_names,
        channels=1,
        side=8,
        classes=torch.arange(10),
        space=make_space(space, digits),
        images=images,
        targets=targets,
    )


def soft(form="logits", labels=LABELS):
    return Targets("soft", {"form": form}, {"labels": labels})


def bound(synset):
    kind, _ = targets_of(synset)
    return kind.bind(Binding(synset, load_dataset("digits"), CPU))


def batch(synset, index=(3, 1, 4), permutation=None, weight=1.0):
    index = torch.tensor(index)
    return Batch(synset.images[index], index, 0, permutation, weight)


def a_teacher(seed=0, space="normalised"):
    digits = load_dataset("digits")
    found = teachers.reference_teacher(find_protocol("toy-soft-v1").reference(digits), digits, CPU, seed=seed)
    found = replace(found, space=make_space(space, digits))
    teachers.keep(found)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_soft_logits_are_the_rows(dtype):
    synset = a_set(soft(labels=LABELS.to(dtype)))
    assert torch.equal(bound(synset)(batch(synset)), LABELS.to(dtype).float()[[3, 1, 4]])


def test_soft_probabilities_come_back_under_softmax():
    probabilities = LABELS.softmax(1)
    synset = a_set(soft("probabilities", probabilities))
    assert torch.allclose(bound(synset)(batch(synset)).softmax(1), probabilities[[3, 1, 4]], atol=1e-6)
    hard = a_set(soft("probabilities", torch.eye(10)))
    found = bound(hard)(batch(hard))
    assert torch.isfinite(found).all() and torch.allclose(found.softmax(1), torch.eye(10)[[3, 1, 4]], atol=1e-6)


@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_soft_labels_of_a_mixed_batch_are_mixed_probabilities(form):
    labels = LABELS if form == "logits" else LABELS.softmax(1)
    synset = a_set(soft(form, labels))
    permutation = torch.tensor([2, 0, 1])
    found = bound(synset)(batch(synset, permutation=permutation, weight=0.3)).softmax(1)
    own = LABELS.softmax(1)[[3, 1, 4]]
    assert torch.allclose(found, 0.3 * own + 0.7 * own[permutation], atol=1e-5)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (Targets("soft", {}, {"labels": LABELS}), "form"),
        (Targets("soft", {"form": "votes"}, {"labels": LABELS}), "form"),
        (Targets("soft", {"form": "logits", "x": 1}, {"labels": LABELS}), "form"),
        (Targets("soft", {"form": "logits"}, {}), "labels"),
        (Targets("soft", {"form": "logits"}, {"labels": LABELS, "more": LABELS}), "labels"),
        (soft(labels=LABELS[:9]), "10, 10"),
        (soft(labels=LABELS[:, :9]), "10, 10"),
        (soft(labels=LABELS.double()), "float"),
        (soft("probabilities", LABELS), "sum to 1"),
        (soft("probabilities", LABELS.softmax(1) * 1.01), "sum to 1"),
        (Targets("sotf", {}, {}), "did you mean soft"),
        (Targets("teachers", {}, {}), "list"),
        (Targets("teachers", {"teachers": []}, {}), "list"),
        (Targets("teachers", {"teachers": [{"hash": "0" * 64}]}, {}), "weight"),
        (Targets("teachers", {"teachers": [{"hash": "0" * 63, "weight": 1.0}]}, {}), "hash"),
        (Targets("teachers", {"teachers": [{"hash": "0" * 64, "weight": -1.0}]}, {}), "weight"),
        (Targets("teachers", {"teachers": [{"hash": "0" * 64, "weight": 1.0}]}, {"x": LABELS}), "tensors"),
    ],
)
def test_malformed_targets_are_refused(targets, message):
    with pytest.raises(UsageError, match=message) as error:
        targets_of(a_set(targets))
    assert "\n" not in str(error.value)


def test_a_set_without_targets():
    with pytest.raises(UsageError, match="no targets"):
        targets_of(a_set())


@pytest.mark.parametrize("space", ["normalised", "pixel", "zca"])
def test_an_online_teacher_sees_what_the_student_sees_in_its_own_space(toys, space):
    digits = load_dataset("digits")
    teacher = a_teacher(space=space)
    synset = a_set(online_teacher(teacher))
    seen = batch(synset)
    own, theirs = (transform_for(s, digits) for s in (synset.space, teacher.space))
    wanted = teacher.module(CPU)(theirs.encode(own.decode(seen.images)))
    found = bound(synset)(seen)
    assert torch.allclose(found, wanted, atol=1e-4) and not found.requires_grad


def test_a_committee_is_a_weighted_sum_of_logits(toys):
    one, two = a_teacher(0), a_teacher(1)
    entries = [{"hash": one.hash, "weight": 0.25}, {"hash": two.hash, "weight": 2.0}]
    synset = a_set(Targets("teachers", {"teachers": entries}))
    seen = batch(synset)
    wanted = 0.25 * one.module(CPU)(seen.images) + 2.0 * two.module(CPU)(seen.images)
    assert torch.allclose(bound(synset)(seen), wanted, atol=1e-5)
    kind, _ = targets_of(synset)
    assert [t.hash for t in kind.teachers(synset)] == [one.hash, two.hash]
    assert kind.bytes(synset) == {"external": one.bytes() + two.bytes()}


def test_a_teacher_that_is_not_there_or_knows_other_classes(toys):
    absent = Targets("teachers", {"teachers": [{"hash": "0" * 64, "weight": 1.0}]})
    with pytest.raises(UsageError, match="not in the cache"):
        bound(a_set(absent))
    other = replace(a_teacher(), class_names=tuple("9876543210"))
    teachers.keep(other)
    with pytest.raises(UsageError, match="classes"):
        bound(a_set(online_teacher(other)))


def test_stored_labels_weigh_what_they_hold():
    for dtype, size in ((torch.float32, 4), (torch.float16, 2)):
        synset = a_set(soft(labels=LABELS.to(dtype)))
        kind, _ = targets_of(synset)
        assert kind.bytes(synset) == {"targets": 100 * size} and kind.teachers(synset) == []


def test_what_is_registered_must_be_what_it_says(toys):
    for kind, name, find in (
        ("target kind", "softer", find_target_kind),
        ("method", "no-method", lambda name: __import__("ddbench.method").method.find_method(name)),
        ("method", "broken", lambda name: __import__("ddbench.method").method.find_method(name)),
    ):
        with pytest.raises(UsageError, match=kind):
            find(name)


def test_a_name_registered_twice_is_an_error(toys, tmp_path, monkeypatch):
    folder = tmp_path / "second-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: second\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[ddbench.methods]\ntoy = elsewhere:METHOD\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins._declared.cache_clear()
    with pytest.raises(UsageError, match="'toy' is registered twice"):
        plugins.names("ddbench.methods")
