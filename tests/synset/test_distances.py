"""Distances of a schedule's batches: what they are, what is stored of them, and the loss that reads them."""

import math
from dataclasses import replace
from functools import partial

import pytest
import small_sets
import torch
from small_sets import a_recipe, a_teacher, forget_teachers, labeller_of, refused_when_spoilt, with_param, with_tensor

from ddbench import networks
from ddbench.data.registry import load_dataset
from ddbench.errors import JobFailed, UsageError
from ddbench.evaluation.evaluate import evaluate_seeds
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.sizes import bytes_of
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.synset import Provenance, SynSet, Targets, load, save
from ddbench.synset.targets import committee, targets_of
from ddbench.synset.targets.distances import record_distances
from ddbench.synset.targets.stored_soft_labels import record_soft_labels
from ddbench.training.batch_schedule import BatchSchedule, SoftLabels
from ddbench.training.batches import views_of
from ddbench.training.compute import Compute
from ddbench.training.loop import train
from ddbench.training.losses import LOSSES, Labels, distances

CPU = torch.device("cpu")
RECIPE = a_recipe(loss={"name": "dbr", "alpha": 0.5})
STEPS = 7  # 3 epochs of 20 images in batches of 8


a_set = partial(small_sets.a_set, RECIPE)


def recorded(synset, **options):
    return replace(synset, targets=record_distances(synset, load_dataset("digits"), CPU, seed=11, **options))


def by_hand(logits, classes, permutation):
    """-log softmax, element by element in float64."""
    rows = []
    for i, z in enumerate(logits.double().tolist()):
        total = math.log(sum(math.exp(value) for value in z))
        other = i if permutation is None else int(permutation[i])
        rows.append([total - z[int(classes[i])], total - z[int(classes[other])]])
    return torch.tensor(rows, dtype=torch.float64)


# what they are


@pytest.mark.parametrize("mixed", [True, False])
def test_distances_are_cross_entropies_with_both_labels(mixed):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(9, 5, generator=generator, dtype=torch.float64) * 3
    classes = torch.randint(5, (9,), generator=generator)
    permutation = torch.randperm(9, generator=generator) if mixed else None
    found = distances(logits, classes, permutation)
    torch.testing.assert_close(found, by_hand(logits, classes, permutation), rtol=1e-12, atol=1e-12)
    assert torch.equal(found[:, 0], found[:, 1]) != mixed


@pytest.mark.parametrize("mix", [{"name": "cutmix"}, {"name": "mixup", "alpha": 0.8}, None])
def test_what_is_stored_is_of_the_online_logits_of_the_same_view(mix):
    recipe = RECIPE.model_copy(update={"mix": mix})
    online = a_set(student_recipe=recipe)
    synset = recorded(online)
    ask = labeller_of(online)[0]
    label, schedule = labeller_of(synset)
    views = list(views_of(online.images, recipe, BatchSchedule(11)))
    assert len(views) == STEPS and (schedule.seed, schedule.steps) == (11, tuple(range(STEPS)))
    for view in views:
        found, classes = label(view), online.classes[view.index]
        wanted = by_hand(ask(view), classes, view.permutation)
        assert isinstance(found, SoftLabels) and found.logits is None and found.distances.dtype == torch.float32
        torch.testing.assert_close(found.distances.double(), wanted, rtol=2**-10, atol=1e-6)  # half precision
        assert torch.equal(found.distances, distances(ask(view), classes, view.permutation).half().float())
    assert synset.targets.params == {"seed": 11, "images": 20, "batch": 8, "made_by": online.targets.params}


# the loss


@pytest.mark.parametrize("difference", ["squared", "absolute"])
@pytest.mark.parametrize("mixed", [True, False])
def test_the_loss_is_its_formula(difference, mixed):
    generator = torch.Generator().manual_seed(2)
    student = (torch.randn(6, 4, generator=generator, dtype=torch.float64) * 2).requires_grad_()
    classes, wanted = torch.randint(4, (6,), generator=generator), torch.rand(6, 2, generator=generator) * 3
    permutation, weight = (torch.randperm(6, generator=generator), 0.3) if mixed else (None, 1.0)
    loss_of = LOSSES.build({"name": "dbr", "alpha": 0.7, "difference": difference})
    found = loss_of(student, Labels(classes, None, permutation, weight, distances=wanted))
    own = by_hand(student.detach(), classes, permutation)
    total = 0.0
    for i in range(6):
        hard = weight * own[i, 0] + (1 - weight) * own[i, 1]
        off = [float(own[i, n] - wanted[i, n].double()) for n in range(2)]
        regular = sum(abs(value) if difference == "absolute" else value**2 for value in off) / 2
        total += (float(hard) + 0.7 * regular) / 6
    assert float(found.detach()) == pytest.approx(total, rel=1e-12)
    (gradient,) = torch.autograd.grad(found, student)
    own = distances(student, classes, permutation)
    hard = weight * own[:, 0] + (1 - weight) * own[:, 1]
    off = (own - wanted).abs() if difference == "absolute" else (own - wanted).square()
    (expected,) = torch.autograd.grad((hard + 0.7 * off.mean(1)).mean(), student)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_losses_say_what_they_miss():
    student, classes = torch.randn(6, 4), torch.arange(6) % 4
    with pytest.raises(UsageError, match="needs a teacher's distances"):
        LOSSES.build({"name": "dbr", "alpha": 1.0})(student, Labels(classes, student))
    with pytest.raises(UsageError, match="loss dbr reads those"):
        LOSSES.build({"name": "kl"})(student, Labels(classes, distances=torch.rand(6, 2)))
    for spoiled in ({"alpha": -1.0}, {"alpha": 1.0, "difference": "cubed"}, {}):
        with pytest.raises(UsageError, match="loss 'dbr', parameter"):
            LOSSES.build({"name": "dbr", **spoiled})


def test_an_answer_of_both_kinds_serves_either_loss():
    student, classes = torch.randn(6, 4), torch.arange(6) % 4
    labels = Labels.of(classes, SoftLabels(student, torch.rand(6, 2)))
    assert torch.equal(labels.logits, student) and labels.distances.shape == (6, 2)
    assert Labels.of(classes, None).logits is None and torch.equal(Labels.of(classes, student).logits, student)


# a training, written out


def test_a_student_trains_by_the_stored_distances_as_written_out():
    synset = recorded(a_set())
    label, schedule = labeller_of(synset)
    one, two = (networks.create("convnet-d1-w8", channels=1, side=8, classes=10, seed=3).double() for _ in range(2))
    images = synset.images.double()
    train(one, images, synset.classes, RECIPE, seed=3, labeller=label, schedule=schedule)
    sgd = torch.optim.SGD(two.parameters(), lr=0.05)
    for step, view in enumerate(views_of(images, RECIPE, BatchSchedule(11))):
        logits, classes = two(view.images), synset.classes[view.index]
        chances = logits.log_softmax(1)
        own, other = -chances[range(8), classes], -chances[range(8), classes[view.permutation]]
        stored = synset.targets.tensors["distances"][step].double()
        regular = ((own - stored[:, 0]) ** 2 + (other - stored[:, 1]) ** 2).mean() / 2
        loss = (view.weight * own + (1 - view.weight) * other).mean() + 0.5 * regular
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    for found, wanted in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


def test_an_evaluation_shows_the_stream_and_needs_no_teacher():
    synset = recorded(a_set())
    forget_teachers()
    digits, protocol = load_dataset("digits"), find_protocol("shipped-v1")
    runs = [evaluate_seeds(synset, digits, protocol, seeds=(seed,), setting=Compute()).runs[0] for seed in (0, 0, 1)]
    assert [run.status for run in runs] == ["ok"] * 3 and runs[0].steps == STEPS
    assert runs[0].final_loss == runs[1].final_loss != runs[2].final_loss


# what is stored


def test_bytes_are_two_halves_a_view_and_a_number_a_step():
    synset = recorded(a_set())
    kind, _ = targets_of(synset)
    assert kind.bytes(synset) == {"targets": STEPS * (8 * 2 * 2 + 8)} and kind.teachers(synset) == []
    lines = bytes_of(synset, load_dataset("digits"), find_protocol("shipped-v1"))
    assert lines["targets"] == STEPS * (8 * 2 * 2 + 8) and "external" not in lines
    logits = replace(synset, targets=record_soft_labels(a_set(), load_dataset("digits"), CPU, seed=11))
    assert targets_of(logits)[0].bytes(logits)["targets"] == STEPS * (8 * 10 * 2 + 8)


def test_a_set_goes_to_a_file_and_back(tmp_path):
    synset = recorded(a_set(), keep=[1, 4])
    save(synset, tmp_path / "set")
    read = load(tmp_path / "set")
    assert read.hash == synset.hash and read.targets.params == synset.targets.params
    assert torch.equal(read.targets.tensors["distances"], synset.targets.tensors["distances"])
    whole = recorded(a_set()).targets.tensors["distances"]
    assert torch.equal(read.targets.tensors["distances"], whole[[1, 4]])


def test_distances_beyond_half_precision_fail():
    with pytest.raises(JobFailed, match="distances at step 0 are not finite, or too large for"):
        recorded(a_set(targets=committee([(a_teacher(), 1e9)])))


MALFORMED = {
    "extra param": (with_param("encoding", "fp16"), "params"),
    "fewer steps": (with_tensor("steps", lambda t: t[:-1]), r"\[6, 8, 2\]"),
    "rows": (with_tensor("distances", lambda t: t[:, :7]), r"\[7, 8, 2\]"),
    "one of two": (with_tensor("distances", lambda t: t[..., :1]), r"\[7, 8, 2\]"),
    "type": (with_tensor("distances", torch.Tensor.float), "float16"),
    "negative": (with_tensor("distances", lambda t: -t - 1), "0 or more"),
    "extra": (lambda params, tensors: tensors.update(logits=torch.zeros(1)), "hold"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_distances_are_refused(case):
    refused_when_spoilt(recorded(a_set()), *MALFORMED[case])


# borrowed


def baseline(count=20):
    digits = load_dataset("digits")
    own = {"indices": torch.arange(count), "classes": digits.train.labels[:count], "space": a_set().space}
    return SynSet.of(digits, **own, provenance=Provenance(method="random", seed=0))


@pytest.mark.parametrize("options", [{}, {"keep": [1, 2]}], ids=str)
def test_a_baseline_gets_distances_of_its_own_images_by_the_same_teachers(options, monkeypatch):
    digits, other = load_dataset("digits"), recorded(a_set(), **options)
    found = match_recipe(baseline(), other, digits)
    online = replace(baseline(), student_recipe=RECIPE, targets=Targets("teachers", other.targets.params["made_by"]))
    wanted = record_distances(online, digits, CPU, seed=11, **options)
    assert found.student_recipe == RECIPE and found.targets.params == other.targets.params
    assert all(torch.equal(found.targets.tensors[name], tensor) for name, tensor in wanted.tensors.items())
    assert not torch.equal(found.targets.tensors["distances"], other.targets.tensors["distances"])
    monkeypatch.setattr("ddbench.synset.matched_recipe.record_distances", None)  # made once
    assert match_recipe(baseline(), other, digits).hash == found.hash
    monkeypatch.undo()
    larger = match_recipe(baseline(25), other, digits)
    targets_of(larger)
    assert larger.targets.tensors["steps"].tolist() == (options.get("keep") or list(range(3 * 25 // 8)))


def test_distances_and_replays_of_one_seed_are_kept_apart():
    digits = load_dataset("digits")
    stored = recorded(a_set())
    logits = replace(stored, targets=record_soft_labels(a_set(), digits, CPU, seed=11))
    kinds = [match_recipe(baseline(), other, digits).targets.kind for other in (stored, logits, stored)]
    assert kinds == ["distances", "replay", "distances"]


def test_a_baseline_whose_teachers_are_gone_is_a_line():
    made_by = {"teachers": [{"hash": "0" * 64, "weight": 1.0}]}
    params = {"seed": 0, "images": 20, "batch": 8, "made_by": made_by}
    tensors = {"steps": torch.arange(STEPS), "distances": torch.zeros(STEPS, 8, 2).half()}
    with pytest.raises(UsageError, match="not in the cache"):
        match_recipe(baseline(), a_set(targets=Targets("distances", params, tensors)), load_dataset("digits"))
