"""Targets: what is well formed, what logits a batch gets, what they weigh."""

from dataclasses import replace

import pytest
import torch

from ddbench import networks, plugins
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import make_space, transform_for
from ddbench.distillation.method import find_method
from ddbench.errors import UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.reference_teacher import reference_teacher
from ddbench.randomness import forked
from ddbench.synset import teachers
from ddbench.synset.synset import SynSet, Targets
from ddbench.synset.targets import Binding, committee, find_target_kind, online_teacher, targets_of
from ddbench.synset.targets.teachers import _only_norms_care
from ddbench.training.batch_schedule import Batch
from ddbench.training.losses import LOSSES, Labels

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


def named(**more):
    return Targets("teachers", {"teachers": [{"hash": "0" * 64, "weight": 1.0}], **more})


def bound(synset):
    kind, _ = targets_of(synset)
    return kind.bind(Binding(synset, load_dataset("digits"), CPU))


def batch(synset, index=(3, 1, 4), permutation=None, weight=1.0):
    index = torch.tensor(index)
    return Batch(synset.images[index], index, 0, permutation, weight)


def a_teacher(seed=0, space="normalised"):
    digits = load_dataset("digits")
    found = reference_teacher(find_protocol("toy-soft-v1").reference(digits), digits, CPU, seed=seed)
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


@pytest.mark.parametrize("mixed", ["probabilities", "logits"])
@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_soft_labels_of_a_mixed_batch(form, mixed):
    labels = LABELS if form == "logits" else LABELS.softmax(1)
    params = {"form": form, **({"mixed": mixed} if mixed == "logits" else {})}
    synset = a_set(Targets("soft", params, {"labels": labels}))
    permutation = torch.tensor([2, 0, 1])
    logits = bound(synset)(batch(synset, permutation=permutation, weight=0.3))
    if mixed == "logits":
        own = (labels if form == "logits" else labels.log())[[3, 1, 4]]
        assert torch.allclose(bound(synset)(batch(synset)), own, atol=1e-5)
    else:
        own, logits = LABELS.softmax(1)[[3, 1, 4]], logits.softmax(1)
    assert torch.allclose(logits, 0.3 * own + 0.7 * own[permutation], atol=1e-5)


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
        (Targets("teachers", {"teachers": [{"hash": "../sets/".ljust(64, "a"), "weight": 1.0}]}, {}), "is not a hash"),
        (Targets("teachers", {"teachers": [{"hash": "0" * 64, "weight": 1.0}]}, {"x": LABELS}), "tensors"),
        (named(bn="train"), "bn must be"),
        (named(bn="batch", sub_batch=0), "sub_batch"),
        (named(bn="batch", sub_batch=True), "sub_batch"),
        (named(bn="batch", sub_batch=2.0), "sub_batch"),
        (named(sub_batch=4), "sub_batch"),
        (named(bn="eval", sub_batch=4), "sub_batch"),
        (named(size=4), "list"),
        (Targets("soft", {"form": "logits", "mixed": "votes"}, {"labels": LABELS}), "mixed"),
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
        ("method", "no-method", find_method),
        ("method", "broken", find_method),
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


def test_a_committee_leaves_out_what_goes_without_saying(toys):
    one, two = a_teacher(0), a_teacher(1)
    plain = committee([(one, 1), (two, 0.5)])
    assert plain.params == {"teachers": [{"hash": one.hash, "weight": 1.0}, {"hash": two.hash, "weight": 0.5}]}
    assert a_set(committee([(one, 1.0)])).hash == a_set(online_teacher(one)).hash
    assert committee([(one, 1.0)], "batch").params == {**online_teacher(one).params, "bn": "batch"}
    full = committee([(one, 1.0)], bn="batch", sub_batch=4)
    assert full.params == {**online_teacher(one).params, "bn": "batch", "sub_batch": 4}
    said = Targets("teachers", {**plain.params, "bn": "eval"})
    seen = batch(a_set())
    assert torch.equal(bound(a_set(said))(seen), bound(a_set(plain))(seen))


def kept_teacher(name, seed=0, **changes):
    """An untrained network with running statistics of its own, in the cache."""
    digits = load_dataset("digits")
    network = networks.create(name, channels=1, side=8, classes=10, seed=seed)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.fill_(0.3)
                part.running_var.fill_(2.0)
    facts = {"network": name, "dataset": "digits", "split_hash": digits.train.hash, "class_names": digits.class_names}
    shape = {"channels": 1, "side": 8, "space": make_space("normalised", digits), "recipe_hash": "0" * 64}
    state = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
    found = teachers.Teacher(**{**facts, **shape, **changes}, state=state)
    teachers.keep(found)
    return found


def seen_by(synset, count=10, step=3, seed=5):
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    return Batch(images, torch.arange(count) % 10, step, seed=seed)


NETWORKS = ["resnet18", "convnet-d2-w8-bn", "shufflenetv2", "mobilenetv2", "convnet-d2-w8", "mlp"]  # mobile: dropout


@pytest.mark.parametrize("sub_batch", [None, 4, 5, 32])
@pytest.mark.parametrize("name", NETWORKS)
def test_batch_statistics_by_their_definition(name, sub_batch):
    """The teacher in train mode, groups one after another, its draws keyed by seed and step of the view."""
    teacher = kept_teacher(name)
    synset = a_set(committee([(teacher, 1.0)], "batch", sub_batch))
    seen = seen_by(synset)
    direct = teacher.module(CPU).train()
    with forked(5, "labels", 3):
        wanted = torch.cat([direct(part) for part in seen.images.split(sub_batch or 10)])
    found = bound(synset)(seen)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    if "bn" in name or name in NETWORKS[:4]:
        assert not torch.allclose(found, teacher.module(CPU)(seen.images), atol=1e-3)


def test_only_what_draws_goes_in_turn():
    def asks_once(name):
        module = kept_teacher(name).module(CPU).train()
        return _only_norms_care(module, (2, 1, 8, 8), CPU)

    assert asks_once("resnet18") and asks_once("convnet-d2-w8") and not asks_once("mobilenetv2")
    assert not _only_norms_care(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64)), (2, 1, 8, 8), CPU)


def test_draws_of_a_committee_are_keyed_by_the_view_and_leave_the_generator():
    drawing, other = kept_teacher("mobilenetv2"), kept_teacher("mobilenetv2", seed=1)
    synset = a_set(committee([(drawing, 0.5), (other, 2.0)], "batch", 5))
    label = bound(synset)
    before = torch.random.get_rng_state()
    first = label(seen_by(synset))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(label(seen_by(synset)), first)
    assert not torch.equal(label(seen_by(synset, step=4)), first)
    assert not torch.equal(label(seen_by(synset, seed=6)), first)
    one, two = drawing.module(CPU).train(), other.module(CPU).train()
    images, wanted = seen_by(synset).images, torch.zeros(())
    with forked(5, "labels", 3):
        for module, weight in ((one, 0.5), (two, 2.0)):
            wanted = wanted + weight * torch.cat([module(part) for part in images.split(5)])
    torch.testing.assert_close(first, wanted)


@pytest.mark.parametrize(("bn", "sub_batch"), [("eval", None), ("batch", None), ("batch", 4)])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_labelling_leaves_the_teacher_alone(name, bn, sub_batch):
    """No gradient reaches it, its statistics stay for others, and what it says does not depend on what it saw."""
    teacher = kept_teacher(name)
    synset = a_set(committee([(teacher, 1.0)], bn, sub_batch))
    label = bound(synset)
    seen = seen_by(synset)
    images = seen.images.clone().requires_grad_()
    first = label(replace(seen, images=images))
    assert not first.requires_grad and not first.is_inference()
    for step in range(3):
        label(seen_by(synset, step=step))
    assert torch.equal(label(seen), first) and torch.equal(bound(synset)(seen), first)
    kept = teachers.require(teacher.hash)
    assert kept.hash == teacher.hash and all(torch.equal(kept.state[k], t) for k, t in teacher.state.items())
    student = networks.create("mlp", channels=1, side=8, classes=10, seed=0)
    loss = LOSSES.build({"name": "kl", "temperature": 2.0})
    loss(student(images), Labels(seen.index, first)).backward()
    assert images.grad is not None


def test_batch_statistics_in_another_space(toys):
    """The mapping into the teacher's space comes before the groups."""
    digits = load_dataset("digits")
    teacher = kept_teacher("convnet-d2-w8-bn", space=make_space("pixel", digits))
    synset = a_set(committee([(teacher, 1.0)], "batch", 5))
    seen = seen_by(synset)
    pixels = transform_for(synset.space, digits).decode(seen.images)
    direct = teacher.module(CPU).train()
    wanted = torch.cat([direct(part) for part in pixels.split(5)])
    torch.testing.assert_close(bound(synset)(seen), wanted, rtol=1e-4, atol=1e-5)


def test_teachers_that_are_not_in_the_cache_can_be_given():
    teacher = kept_teacher("mlp")
    elsewhere = replace(teacher, recipe_hash="1" * 64)
    synset = a_set(committee([(elsewhere, 1.0)]))
    seen = seen_by(synset)
    kind, _ = targets_of(synset)
    with pytest.raises(UsageError, match="not in the cache"):
        kind.bind(Binding(synset, load_dataset("digits"), CPU, lambda wanted: None))
    label = kind.bind(Binding(synset, load_dataset("digits"), CPU, {elsewhere.hash: elsewhere}.get))
    assert torch.equal(label(seen), teacher.module(CPU)(seen.images))


def test_no_kind_but_stored_labels_asks_for_a_schedule(toys):
    for synset in (a_set(soft()), a_set(online_teacher(a_teacher()))):
        kind, _ = targets_of(synset)
        assert kind.schedule(synset) is None
