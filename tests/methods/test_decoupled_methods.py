"""sre2l, cda, sre2l++, cvdd, infer and rded as wholes: who votes, who labels, what is stored, what is kept between runs."""

import math
from dataclasses import replace
from itertools import product

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.cvdd import voters_of, weights
from ddbench.methods.engines.decoupled import measured_norm
from ddbench.methods.engines.decoupled.codecs import stored
from ddbench.methods.engines.decoupled.patches import patch_images
from ddbench.methods.engines.decoupled.pipeline import recovered, space_of
from ddbench.methods.engines.decoupled.recover import Recovery
from ddbench.methods.engines.decoupled.relabel import relabeled
from ddbench.methods.engines.decoupled.squeeze import squeeze
from ddbench.methods.engines.decoupled.windows import view
from ddbench.methods.infer import _skipped, natural_images
from pydantic import ValidationError
from small_tasks import digits, logits_and_distance, random_places, refused, shipped_record, stopped_elsewhere
from watching import Stopped, Watch

from ddbench.budget import Budget
from ddbench.data.dataset import Split
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import transform_for
from ddbench.distillation.method import find_method
from ddbench.errors import NotDefined, UsageError
from ddbench.evaluation.protocol import find_protocol
from ddbench.evaluation.sizes import bytes_of
from ddbench.jobs.job import distill_job
from ddbench.randomness import rng
from ddbench.settings import cache_dir
from ddbench.synset.targets import recording
from ddbench.synset.teachers import recall
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import views_of
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.loop import predict, train
from ddbench.training.precision import Execution

SEED = 5
ONE, TWO, THREE = "convnet-d1-w4-bn", "convnet-d1-w6-bn", "convnet-d2-w4-bn"
COMMON = {
    "weights": "random",
    "iterations": 4,
    "recover_lr": 0.25,
    "r_bn": 0.05,
    "roll": [0, 1],
    "student_batch": 10,
    "student_epochs": 2,
}
PATCHES = {"pool": 6, "crops": 2}
OWN = {
    "sre2l": {},
    "cda": {},
    "sre2l++": PATCHES,
    "cvdd": {**PATCHES, "committee": [ONE, TWO, THREE], "prior": [60.0, 55.0, 40.0], "pairing": "cycle"},
    "infer": {"committee": [ONE, TWO], "crop": False, "r_bn": 1.0},
    "rded": PATCHES,
}
NOT_OF_RDED = ("iterations", "recover_lr", "r_bn", "roll")
every_method = pytest.mark.parametrize("name", OWN)


def a_task(ipc=2, *, network=ONE, **more):
    return small_tasks.a_task(ipc, network=network, **more)


def fields_of(name, **changes):
    given = {**COMMON, **OWN[name], **changes}
    return {key: value for key, value in given.items() if name != "rded" or key not in NOT_OF_RDED}


def hyper_of(name, **changes):
    return small_tasks.hyper_of(name, **fields_of(name, **changes))


def distil(name, task=None, **changes):
    return find_method(name).distill(task or a_task(), hyper_of(name, **changes))


def teachers_of(task, names=(ONE,), name="sre2l"):
    return squeeze(task, hyper_of(name), names)


def limits(space):
    """Black and white in a space of one channel."""
    return -space.mean[0] / space.std[0], (1 - space.mean[0]) / space.std[0]


# what images begin as, and how they come


@pytest.mark.parametrize("block", [100, 4])
def test_images_come_by_ipc_index_and_class_whatever_the_blocks(block):
    task, hyper = a_task(ipc=3), hyper_of("sre2l", block=block, codec="float")
    images, classes = recovered(task, hyper, teachers_of(task), [{ONE: 1.0}] * 3)
    assert classes.tolist() == [*range(10)] * 3 and images.shape == (30, 1, 8, 8)
    low, high = limits(task.space("normalised"))
    assert low - 1e-6 <= images.min() and images.max() <= high + 1e-6
    for codec in ("uint8", "jpeg75"):
        changed = hyper.model_copy(update={"codec": codec})
        pixels, _ = recovered(a_task(ipc=3), changed, teachers_of(task), [{ONE: 1.0}] * 3)
        assert torch.equal(pixels, stored(images, task.space("normalised"), codec))


def begun(init, *, ipc=2, network=ONE, names=(ONE,), votes=None, **changes):
    """What images of 2 IPC indices begin as (steps too small to see), [IPC, classes, ...], and the task."""
    task = a_task(ipc, network=network)
    hyper = hyper_of("sre2l", init=init, iterations=1, recover_lr=1e-12, codec="float", **PATCHES, **changes)
    teachers = teachers_of(task, names)
    images, _ = recovered(task, hyper, teachers, votes or [{names[0]: 1.0}] * ipc)
    return images.unflatten(0, (ipc, 10)), task, teachers, hyper


@pytest.mark.parametrize("block", [100, 4])
def test_noise_is_normal_and_clamped(block):
    images, task, _, _ = begun("noise", block=block)
    low, high = limits(task.space("normalised"))
    for j in range(2):
        draws = [rng(SEED, "synthesis", "recover-start", "noise", j, k) for k in range(-(-10 // block))]
        sizes = [min(block, 10 - first) for first in range(0, 10, block)]
        parts = [torch.randn(size, 1, 8, 8, generator=draw) for size, draw in zip(sizes, draws, strict=True)]
        torch.testing.assert_close(images[j], torch.cat(parts).clamp(low, high), rtol=0, atol=1e-6)


def test_real_images_are_random_ones_of_their_class():
    images, task, _, _ = begun("real", block=4)
    for c, places in enumerate(random_places(task, 2)):
        wanted = task.read(task.space("normalised"), places)
        torch.testing.assert_close(images[:, c], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("network", "names", "judge"), [(ONE, (ONE,), ONE), (TWO, (ONE, TWO), TWO), (THREE, (ONE, TWO), ONE)]
)
def test_patches_are_scored_by_the_distillation_network_or_the_first_member(network, names, judge):
    images, task, teachers, hyper = begun("patches", network=network, names=names)
    module = teachers[judge].module(task.device)
    wanted = patch_images(task, task.space("normalised"), module, hyper).unflatten(0, (10, 2)).transpose(0, 1)
    torch.testing.assert_close(images, wanted, rtol=0, atol=1e-5)


# how voters are computed


@pytest.mark.parametrize("name", ["sre2l", "cvdd", "infer"])
def test_voters_are_computed_as_the_recipe_asks(name, monkeypatch):
    seen = []
    real = measured_norm.Voter.__init__

    def watched(self, network, skip=(), execution=measured_norm.AS_IT_IS):
        seen.append(execution)
        real(self, network, skip, Execution(execution.precision))

    monkeypatch.setattr(measured_norm.Voter, "__init__", watched)
    plain = distil(name)
    assert set(seen) == {Execution()}
    seen.clear()
    fast = distil(name, recover_precision="bf16", recover_compiled=True)
    assert set(seen) == {Execution("bf16", compiled=True)} and fast.hash != plain.hash


# recovering, written out


def by_hand(task, hyper, start, labels, modules, votes, key, *, shared=False):
    """The images of one problem after the steps that hyper says; `shared`: one image that is added to all."""
    low, high = limits(task.space("normalised"))
    x = (torch.zeros_like(start[:1]) if shared else start.clone()).requires_grad_()
    adam = torch.optim.Adam([x], betas=(0.5, 0.9))
    problem = type("Keyed", (), {"key": key, "start": start})
    draws = Recovery(task, hyper, {}, None).draws(problem, 0)
    for t in range(hyper.iterations):
        adam.param_groups[0]["lr"] = hyper.recover_lr * (1 + math.cos(math.pi * t / hyper.iterations)) / 2
        seen, loss = view(start + x if shared else x, [draws.at(t)]), 0
        for name, weight in votes.items():
            logits, distance = logits_and_distance(modules[name], seen)
            loss = loss + weight * (F.cross_entropy(logits, labels) + hyper.r_bn * distance)
        adam.zero_grad()
        loss.backward()
        adam.step()
        if not shared:
            x.data.clamp_(low, high)
    return x.detach()


def near(found, wanted, start):
    way = (wanted - start).norm()
    return way > 0.05 * math.sqrt(wanted.numel()) and float((found - wanted).norm() / way) < 1e-3


@pytest.mark.parametrize("name", ["sre2l", "cda"])
def test_one_teacher_recovers_and_labels(name):
    task, hyper = a_task(), hyper_of(name, codec="float", block=6)
    synset = find_method(name).distill(task, hyper)
    teacher = teachers_of(a_task())[ONE]
    modules, images = {ONE: teacher.module(task.device)}, synset.images.unflatten(0, (2, 10))
    for j in range(2):
        for k, classes in enumerate((torch.arange(6), torch.arange(6, 10))):
            own = rng(SEED, "synthesis", "recover-start", "noise", j, k)
            start = torch.randn(len(classes), 1, 8, 8, generator=own)
            wanted = by_hand(a_task(), hyper, start, classes, modules, {ONE: 1.0}, (j, k))
            assert near(images[j, classes], wanted, start)
    assert synset.classes.tolist() == [*range(10)] * 2 and synset.space == teacher.space
    assert synset.targets.params == {"teachers": [{"hash": teacher.hash, "weight": 1.0}]}
    assert synset.student_recipe == hyper.student_of(task)
    assert task.teachers == {teacher.hash: {"label_weight": 1.0}}


def test_cda_is_sre2l_with_a_curriculum():
    plain = distil("sre2l")
    assert distil("cda", curriculum="none").hash == plain.hash != distil("cda").hash
    assert distil("cda").hash == distil("sre2l", curriculum="cosine").hash
    assert hyper_of("cda").curriculum == "cosine" and hyper_of("cda").milestone == 1


def test_sre2lpp_is_sre2l_with_medium_patches_and_labels_by_batch():
    made = distil("sre2l++")
    assert made.targets.params["bn"] == "batch" and distil("sre2l").targets.params.keys() == {"teachers"}
    own = {"init": "patches", "difficulty": "medium", "label_bn": "batch", **PATCHES}
    assert distil("sre2l", **own).hash == made.hash
    assert distil("sre2l++", difficulty="easy").hash != made.hash


# committee voting


def test_weights_are_a_softmax_of_percent_points():
    assert weights([60.0, 40.0], 5.0) == pytest.approx([0.982, 0.018], abs=5e-4)
    for priors, temperature in (([63, 65.3], 5.0), ([64, 60.6, 51.6, 59.4, 56.4], 10.0)):
        shares = [math.exp(p / temperature) for p in priors]
        assert weights(priors, temperature) == pytest.approx([share / sum(shares) for share in shares])


FIVE = ["resnet18", "resnet50", "shufflenetv2", "mobilenetv2", "densenet121"]


def committee_of(**changes):
    return hyper_of("cvdd", committee=FIVE, prior=None, **changes)


def test_pairs_in_turn_are_the_sheets():
    task, hyper = a_task(), committee_of(pairing="cycle")
    found = [voters_of(task, hyper, FIVE, j) for j in range(12)]
    r18, r50, sv2, mb2, d121 = FIVE
    wanted = [(r18, r50), (r18, sv2), (r18, mb2), (r18, d121), (r50, sv2), (r50, mb2), (r50, d121)]
    wanted += [(sv2, mb2), (sv2, d121), (mb2, d121)]
    assert found == wanted + wanted[:2]


def test_random_pairs_follow_from_seed_and_index():
    task, hyper = a_task(), committee_of(pairing="random")
    found = [voters_of(task, hyper, FIVE, j) for j in range(300)]
    assert found == [voters_of(a_task(ipc=50), hyper, FIVE, j) for j in range(300)]
    assert found != [voters_of(a_task(seed=6), hyper, FIVE, j) for j in range(300)]
    assert [voters_of(task, hyper, FIVE, 7), voters_of(task, hyper, FIVE, 3)] == [found[7], found[3]]
    counts = [found.count(pair) for pair in set(found)]
    assert len(counts) == 10 and min(counts) > 12  # of 30
    assert all(len(pair) == 2 and FIVE.index(pair[0]) < FIVE.index(pair[1]) for pair in found)
    three = committee_of(voters=3)
    assert {len(set(voters_of(task, three, FIVE, j))) for j in range(20)} == {3}


def test_first_voters_vote_on_every_index():
    names = [ONE, "convnet-d2-bn", TWO]
    hyper = hyper_of("cvdd", committee=[ONE, "convnet-bn", TWO], first_voters=["convnet-bn", ONE])
    assert [voters_of(a_task(), hyper, names, j) for j in range(3)] == [(ONE, "convnet-d2-bn")] * 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"first_voters": [ONE, "resnet18"]}, "resnet18 are not all members"),
        ({"first_voters": [ONE, ONE]}, "first_voters"),
        ({"committee": [ONE, ONE, TWO]}, "twice"),
        ({"committee": ["convnet-bn", "convnet-d2-bn", TWO]}, "twice"),
        ({"committee": [ONE, "convnet-d1-w4", TWO]}, "batch norm"),
    ],
)
def test_a_committee_that_cannot_vote_is_a_line(changes, words):
    with refused(words):
        distil("cvdd", **changes)


@pytest.mark.parametrize(
    ("name", "network", "changes", "words"),
    [
        ("sre2l", "convnet-d1-w4", {}, "batch norm"),
        ("infer", ONE, {"committee": [ONE, "convnet-d1-w4"]}, "batch norm"),
        ("cvdd", ONE, {"first_voters": ["resnet18"]}, "not all members"),
        ("sre2l++", ONE, {"factor": 3}, "factor 3 does not divide"),
        ("rded", ONE, {"pool": 1}, "2 patches of class"),
        ("sre2l", ONE, {"labels": "replay"}, "labels of 4 steps would take"),
        ("rded", ONE, {"labels": "replay"}, "labels of 4 steps would take"),
        ("infer", ONE, {"committee": [ONE], "labels": "replay", "label_kind": "dynamic"}, "steps would take"),
    ],
)
def test_what_cannot_end_well_does_not_begin(name, network, changes, words, monkeypatch):
    monkeypatch.setattr(recording, "MAX_BYTES", 100)
    task = a_task(network=network)
    monkeypatch.setattr(task, "open_cache", lambda *_: pytest.fail("a teacher was asked for"))
    with pytest.raises(UsageError, match=words):
        find_method(name).distill(task, hyper_of(name, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prior": [60.0, 50.0]}, "2 values for 3 members"),
        ({"voters": 4}, "4 voters of 3 members"),
        ({"committee": [ONE], "prior": [60.0], "voters": 1}, "at least 2"),
        ({"first_voters": []}, "at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        hyper_of("cvdd", **changes)


def test_pairs_recover_and_the_whole_committee_labels():
    task, hyper, names = a_task(ipc=2), hyper_of("cvdd", codec="float"), [ONE, TWO, THREE]
    synset = find_method("cvdd").distill(task, hyper)
    teachers = teachers_of(a_task(), names)
    modules = {name: teacher.module(task.device) for name, teacher in teachers.items()}
    space = space_of(teachers)
    starts = patch_images(a_task(ipc=2), space, modules[ONE], hyper).unflatten(0, (10, 2))
    ballots = [{ONE: math.exp(60 / 5), TWO: math.exp(55 / 5)}, {ONE: math.exp(60 / 5), THREE: math.exp(40 / 5)}]
    for j, ballot in enumerate(ballots):
        votes = {name: share / sum(ballot.values()) for name, share in ballot.items()}
        wanted = by_hand(a_task(), hyper, starts[:, j], torch.arange(10), modules, votes, (j, 0))
        assert near(synset.images.unflatten(0, (2, 10))[j], wanted, starts[:, j])
    shares = [math.exp(p / 10) for p in (60, 55, 40)]
    named = synset.targets.params["teachers"]
    assert [entry["hash"] for entry in named] == [teachers[name].hash for name in names]
    assert [entry["weight"] for entry in named] == pytest.approx([share / sum(shares) for share in shares])
    assert synset.targets.params["bn"] == "batch"
    assert {key: facts["label_weight"] for key, facts in task.teachers.items()} == {
        entry["hash"]: entry["weight"] for entry in named
    }


# priors


def secret_test():
    """Digits whose test images nobody may read."""

    def refuse(indices):
        raise AssertionError("the test split was read")

    data = digits()
    return replace(data, test=Split(data.test.labels, data.test.hash, True, refuse))


MEASURED = {"committee": [ONE, TWO], "prior": None, "prior_fraction": 0.2, "student_epochs": 30, "student_batch": 20}


def test_priors_are_measured_on_a_holdout_once_and_without_the_test_split():
    watch = Watch()
    task = a_task(data=secret_test(), reporter=watch)
    synset = distil("cvdd", task, **MEASURED)
    assert (task.ipc, task.seed, task.budget) == (2, SEED, Budget(2))
    assert len(task.dataset.labels) == 121  # about a fifth of 150 is held out, and teaches nobody
    steps = [watch.steps[f"measuring the prior of {name}"] for name in (ONE, TWO)]
    assert steps == [30, 30]  # 30 epochs of 20 images
    other = Watch()
    again = distil("cvdd", a_task(seed=6, data=secret_test(), reporter=other), **MEASURED)
    assert not [label for label in other.steps if "prior" in label]  # all synthesis seeds share them
    assert again.targets.params == synset.targets.params and again.hash != synset.hash
    folders = list((cache_dir() / "stages" / "prior").iterdir())
    assert len(folders) == 2 and all(folder.glob("*.safetensors") for folder in folders)


def test_priors_are_measured_with_the_label_batches_that_a_budget_keeps():
    """A student of a prior sees those batches alone: of any other there are no labels."""
    few = {"labels": "replay", "label_ratio": 4.0, "student_epochs": 8, "prior_ipc": 1}
    for keep in ("first", "random"):
        distil("cvdd", a_task(ipc=2), **{**MEASURED, **few, "label_keep": keep})


def test_a_prior_is_the_accuracy_of_a_student_of_one_member_alone():
    """Written out, with the stage seed, 0: images of the member, its labels, a student of the distillation network."""
    synset, hyper = distil("cvdd", a_task(ipc=3), **MEASURED, prior_ipc=2), hyper_of("cvdd", **MEASURED)
    task = a_task(ipc=2, seed=0)
    held = task.holdout(0.2)
    teachers, priors = squeeze(task, hyper, [ONE, TWO]), []
    for name, teacher in teachers.items():
        images, classes = recovered(task, hyper, {name: teacher}, [{name: 1.0}] * 2)
        alone = relabeled(task, hyper, teacher.space, [(teacher, 1.0)], classes=classes, images=images)
        student, (shown, labels) = task.create_network("prior", name), task.training_images(alone)
        train(student, shown, labels, hyper.student_of(task), seed=0, labeller=task.labeller(alone))
        found = predict(student, held.images(teacher.space)).argmax(1)
        priors.append(100 * float((found == held.labels).double().mean()))
    shares = [math.exp(p / 10) for p in priors]
    assert priors[0] != priors[1]
    found = [entry["weight"] for entry in synset.targets.params["teachers"]]
    assert found == pytest.approx([share / sum(shares) for share in shares], rel=1e-5)


@pytest.mark.parametrize(
    ("label", "step"),
    [("recovering images", 3), (f"measuring the prior of {ONE}", 12), (f"measuring the prior of {TWO}", 3)],
)
def test_priors_that_were_stopped_go_on_in_the_middle(tmp_path, monkeypatch, label, step):
    whole, full = distil("cvdd", a_task(reporter=(every := Watch())), **MEASURED), every.steps[label]
    monkeypatch.setattr(Checkpoint.__init__, "__defaults__", (0.0,))  # saved after every step
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    with pytest.raises(Stopped):
        distil("cvdd", a_task(reporter=Watch(label, step)), **MEASURED)
    watch = Watch()
    assert distil("cvdd", a_task(reporter=watch), **MEASURED).hash == whole.hash
    assert watch.steps[label] <= full - step + 1  # at most the step that was under way is made again
    if TWO in label:
        assert [name for name in watch.steps if "prior" in name] == [label]  # the first member's is there
    assert not list((cache_dir() / "stages" / "prior").rglob("*.checkpoint"))


# compensators


def test_the_natural_images_of_a_class_are_the_sheets():
    assert [natural_images(ipc, 4, 100) for ipc in (10, 50, 100)] == [9, 48, 96]
    assert [natural_images(ipc, 4, 10) for ipc in (10, 50)] == [7, 35]
    assert [natural_images(ipc, 3, 1000) for ipc in (10, 50)] == [9, 49]
    for ipc, members, classes in product(range(2, 60), range(1, 6), (10, 100, 1000)):
        count = natural_images(ipc, members, classes)
        assert count * (classes + members) <= ipc * classes < (count + 1) * (classes + members)


def test_a_budget_without_room_is_not_defined_and_trains_nothing():
    with pytest.raises(NotDefined, match="IPC 1 leaves no room") as error:
        distil("infer", a_task(ipc=1))
    assert "\n" not in str(error.value) and not (cache_dir() / "stages").exists()


def test_compensators_are_learned_for_each_network_and_slot():
    task, hyper = a_task(ipc=3), hyper_of("infer")
    synset = find_method("infer").distill(task, hyper)
    teachers, places = teachers_of(a_task(), (ONE, TWO)), torch.stack(random_places(a_task(), 2), dim=1)
    assert torch.equal(synset.indices, places.flatten()) and synset.per_class() == [2] * 10  # 3 * 10 // 12
    assert synset.images is None and torch.equal(synset.classes, torch.arange(10).repeat(2))
    learned, space = synset.views.tensors["compensators"], space_of(teachers)
    assert learned.shape == (2, 2, 1, 8, 8)
    for m, (name, teacher) in enumerate(teachers.items()):
        for k in range(2):
            images = task.read(space, places[k])
            modules = {name: teacher.module(task.device)}
            wanted = by_hand(a_task(), hyper, images, torch.arange(10), modules, {name: 1.0}, (name, k), shared=True)
            assert near(learned[m, k], wanted[0], torch.zeros(1, 8, 8))


@pytest.mark.parametrize("codec", ["jpeg75", "float"])
def test_composed_images_are_clamped_and_rounded(codec):
    task = a_task(ipc=3)
    synset = distil("infer", task, codec=codec)
    images, classes = task.training_images(synset)
    assert len(images) == 3 * 20 and torch.equal(classes, torch.arange(10).repeat(6))
    space, places = task.space("normalised"), torch.stack(random_places(a_task(), 2), dim=1)
    (mean,), (std,) = space.mean, space.std
    natural = task.read(space, places.flatten())
    torch.testing.assert_close(images[:20], natural)
    for m in range(2):
        for k in range(2):
            u = synset.views.tensors["compensators"][m, k]
            pixels = ((natural[10 * k : 10 * k + 10] + u) * std + mean).clamp(0, 1)
            first = 20 * (m + 1) + 10 * k
            found = images[first : first + 10] * std + mean
            wanted = pixels if codec == "float" else (pixels * 255).round() / 255
            assert (found - wanted).abs().max() < 1e-6 + (codec != "float") / 255  # a tie may fall to either side
            assert (found - wanted).abs().mean() < 1e-4
            assert ((found * 255).round() / 255 - found).abs().max() < 1e-5 or codec == "float"


def test_what_a_student_needs_is_counted():
    synset = distil("infer", a_task(ipc=3))
    counted = bytes_of(synset, digits(), find_protocol("shipped-v1"))
    assert counted["images"] == 20 * 64  # named by indices, counted as 8-bit pixels
    assert counted["extra"] == 4 * 64 * 4 + 20 * 8  # four compensators in float32, and the slots
    assert counted["targets"] == 60 * 10 * 4 and "external" not in counted
    assert 20 + 4 <= 3 * 10  # tensors in the budget
    dynamic = bytes_of(distil("infer", a_task(ipc=3), label_kind="dynamic"), digits(), find_protocol("shipped-v1"))
    external = sum(teacher.bytes() for teacher in teachers_of(a_task(), (ONE, TWO)).values())
    assert dynamic["external"] == external and "targets" not in dynamic


def test_static_labels_are_the_mean_of_logits_of_whole_images_and_mixed_as_logits():
    task = a_task(ipc=3)
    synset = distil("infer", task)
    images, _ = task.training_images(synset)
    modules = [teacher.module(task.device) for teacher in teachers_of(a_task(), (ONE, TWO)).values()]
    wanted = sum(module(images) for module in modules) / 2
    assert synset.targets.kind == "soft" and synset.targets.params == {"form": "logits", "mixed": "logits"}
    torch.testing.assert_close(synset.targets.tensors["labels"], wanted, rtol=1e-4, atol=1e-5)
    batch = next(views_of(images, synset.student_recipe, BatchSchedule(0)))
    own = wanted[batch.index]
    blended = batch.weight * own + (1 - batch.weight) * own[batch.permutation]
    torch.testing.assert_close(task.labeller(synset)(batch), blended, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValidationError, match="labels = replay"):
        hyper_of("infer", labels="replay")


def test_dynamic_labels_are_the_committees_for_every_view():
    task = a_task(ipc=3)
    synset = distil("infer", task, label_kind="dynamic")
    teachers = teachers_of(a_task(), (ONE, TWO))
    assert synset.targets.params == {"teachers": [{"hash": t.hash, "weight": 0.5} for t in teachers.values()]}
    batch = next(views_of(task.training_images(synset)[0], synset.student_recipe, BatchSchedule(0)))
    wanted = sum(teacher.module(task.device)(batch.images) for teacher in teachers.values()) / 2
    torch.testing.assert_close(task.labeller(synset)(batch), wanted)
    assert distil("infer", a_task(ipc=3), label_kind="dynamic", labels="replay").targets.kind == "replay"


def test_of_efficientnet_the_second_norm_is_left_out():
    assert _skipped("efficientnet-b0", hyper_of("infer")) == _skipped("torchvision:efficientnet_b0", hyper_of("infer"))
    assert _skipped("efficientnet-b0", hyper_of("infer")) == (1,) and _skipped("resnet18", hyper_of("infer")) == ()
    assert _skipped("efficientnet-b0", hyper_of("infer", skip_second_norm=False)) == ()


# patches alone


@pytest.mark.parametrize("changes", [{}, {"factor": 2, "pool": 12, "shuffle": 2}])
def test_rded_stores_patches_and_its_teacher_labels(changes):
    task, hyper = a_task(), hyper_of("rded", **changes)
    synset, teacher = find_method("rded").distill(task, hyper), teachers_of(a_task())[ONE]
    patches = patch_images(a_task(), teacher.space, teacher.module(task.device), hyper)
    assert torch.equal(synset.images, stored(patches, teacher.space, "jpeg75")) and synset.codec == "jpeg75"
    assert synset.classes.tolist() == [c for c in range(10) for _ in range(2)]
    assert synset.targets.params == {"teachers": [{"hash": teacher.hash, "weight": 1.0}]}
    assert synset.student_recipe == hyper.student_of(task)


# jobs


def a_job(name, seed=0, **changes):
    return small_tasks.a_job(name, network=ONE, seed=seed, **fields_of(name, **changes))


TRAINED = {"weights": "trained", "teacher_epochs": 1}


@pytest.mark.parametrize("name", ["sre2l", "rded"])
def test_a_job_names_its_teachers_with_accuracy_and_weight(name):
    job = a_job(name, **TRAINED)
    synset = distill_job(job)
    ((key, facts),) = synset.provenance.teachers.items()
    accuracy, network = facts.pop("accuracy"), recall(key).module(torch.device("cpu"))
    named = {"role": "teacher", "name": f"teacher {ONE}", "weights": "trained", "network": ONE, "label_weight": 1.0}
    assert facts == named
    data = load_dataset("digits")
    test = transform_for(synset.space, data).encode(data.test.read().float() / 255)
    assert accuracy == pytest.approx(float((network(test).argmax(1) == data.test.labels).double().mean()))
    assert synset.targets.params["teachers"][0]["hash"] == key and synset.per_class() == [2] * 10


@pytest.mark.parametrize("last", [1, 3, 4, 6])
@pytest.mark.parametrize("name", ["sre2l", "cvdd", "infer"])
def test_a_stopped_job_goes_on_to_the_same_bits(name, last, tmp_path, monkeypatch):
    """Of cvdd two stacks, of infer two as well, of 4 steps each."""
    whole = distill_job(a_job(name))
    total = {"sre2l": 4, "cvdd": 8, "infer": 8}[name]
    watch = Watch("recovering images", last := min(last, total))
    stopped_elsewhere(monkeypatch, tmp_path / "another", lambda: distill_job(a_job(name), watch))
    watch = Watch()
    assert distill_job(a_job(name), watch).hash == whole.hash
    assert watch.steps.get("recovering images", 0) == total - last


@every_method
def test_the_shipped_student_trains(name):
    synset = distil(name)
    record = shipped_record(synset)
    assert record.runs[0].status == "ok" and record.runs[0].top1 > 0
