"""`nrr-dd`: crops by brute force, refinement against a plain loop, labels, and what stops and goes on."""

import math

import pytest
import small_tasks
import torch
import torch.nn.functional as F
from ddbench.methods.engines.decoupled.cam import ActivationMaps
from ddbench.methods.engines.decoupled.measured_norm import Voter
from ddbench.methods.engines.decoupled.recover import ImageBlock, RecoverFields, Recovery, Refinement
from ddbench.methods.engines.decoupled.squeeze import squeeze
from small_tasks import (
    crop_flip_roll,
    crops_by_hand,
    digits,
    logits_and_distance,
    refused,
    shipped_record,
    stopped_elsewhere,
    toy_task,
    with_statistics,
)
from watching import StopAt, Stopped

from ddbench import networks
from ddbench.distillation.method import find_method
from ddbench.errors import JobFailed
from ddbench.jobs.job import distill_job
from ddbench.randomness import rng
from ddbench.synset.matched_recipe import match_recipe
from ddbench.synset.targets import recording, targets_of
from ddbench.training.batches import views_of
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.losses import distances

SEED, F64 = 5, torch.float64
NETWORK = "convnet-d1-w4-bn"
QUICK = {
    "weights": "random",
    "pool": 8,
    "crops": 3,
    "patch_low": 0.3,
    "iterations": 6,
    "recover_lr": 20.0,
    "r_bn": 0.05,
    "epsilon": 0.6,
    "cam_every": 4,
    "codec": "float",
    "student_batch": 8,
    "student_epochs": 2,
}


def a_task(ipc=2, *, network=NETWORK):
    return small_tasks.a_task(ipc, network=network)


def hyper_of(**changes):
    return small_tasks.hyper_of("nrr-dd", **{**QUICK, **changes})


def distil(task=None, **changes):
    return find_method("nrr-dd").distill(task or a_task(), hyper_of(**changes))


def teacher_of(task):
    return squeeze(task, hyper_of(), [NETWORK])[NETWORK]


def class_map(network, images, labels, side):
    """C by its definition: autograd by a block's output, one image at a time."""
    maps = []
    for image, label in zip(images, labels.tolist(), strict=True):
        features = network.features(image[None]).detach().requires_grad_()
        network.head(features.flatten(1))[0, label].backward()
        found = (features * features.grad).sum(1).detach().clamp(min=0)
        found = found / found.max() if found.max() > 0 else found
        maps.append(F.interpolate(found[None], (side, side), mode="bilinear", align_corners=False)[0, 0])
    return torch.stack(maps)


# CIDD


def chosen_by_hand(label, wanted, *, top=None, mean=False):
    """(confidence, window, crop enlarged) of the crops of a class that are chosen, every crop of every image looked at."""
    network, best = teacher_of(a_task()).module(torch.device("cpu")), []
    for image, crops in crops_by_hand(a_task(), label, pool=8, crops=3, patch_low=0.3):
        (heat,) = class_map(network, image, torch.tensor([label]), 8).double()
        tried = []
        for (y, x, h, w), window, seen in crops:
            inside = float(heat[y : y + h, x : x + w].sum())
            ratio = inside / (h * w) if mean else inside / float(heat.sum()) if heat.sum() > 0 else 0.0
            tried.append((ratio, float(network(seen).softmax(1)[0, label]), window, seen))
        best.append(max(tried, key=lambda crop: crop[0]))
    best.sort(key=lambda crop: -crop[0])
    kept = best[: top or max(wanted, len(best) // 2)]
    return [crop[1:] for crop in sorted(kept, key=lambda crop: crop[1])[:wanted]]


@pytest.mark.parametrize("changes", [{}, {"top": 8}, {"top": 2}, {"cam_ratio": "mean"}])
def test_crops_are_critical_and_the_hardest_of_those(changes):
    synset = distil(iterations=0, **changes)
    images, mean = synset.images.unflatten(0, (2, 10)), changes.get("cam_ratio") == "mean"
    assert synset.classes.tolist() == [*range(10)] * 2
    for label in range(10):
        crops = chosen_by_hand(label, 2, top=changes.get("top"), mean=mean)
        assert crops[0][0] <= crops[1][0]
        wanted = torch.cat([seen for _, _, seen in crops])
        torch.testing.assert_close(images[:, label], wanted, rtol=0, atol=1e-5)


def test_crops_are_tiled_row_by_row():
    images = distil(a_task(1), iterations=0, factor=2, top=6).images
    for label in range(10):
        small = [
            F.interpolate(window, (4, 4), mode="bilinear", align_corners=False, antialias=True)[0]
            for _, window, _ in chosen_by_hand(label, 4, top=6)
        ]
        wanted = torch.cat([torch.cat(small[:2], 2), torch.cat(small[2:], 2)], 1)
        torch.testing.assert_close(images[label], wanted, rtol=0, atol=1e-5)


def test_images_may_begin_as_those_of_the_other_methods():
    shared = {key: value for key, value in QUICK.items() if key in find_method("rded").hyper.model_fields}
    theirs = small_tasks.distilled("rded", a_task(), **shared).images.unflatten(0, (10, 2))
    ours = distil(init="patches", iterations=0).images.unflatten(0, (2, 10))
    assert torch.equal(ours.transpose(0, 1), theirs)
    begun = {kind: distil(init=kind, iterations=0).hash for kind in ("critical", "patches", "real", "noise")}
    assert len(set(begun.values())) == 4


# NRR


def engine_network(dtype=F64):
    network = with_statistics(networks.create("convnet-d2-w4-bn", channels=3, side=8, classes=6, seed=0))
    return network.to(dtype).requires_grad_(False)


def engine_fields(**changes):
    plain = {"iterations": 5, "recover_lr": 3.0, "r_bn": 0.1, "crop": False, "roll": (0, 0)}
    return RecoverFields.model_validate({**plain, **changes})


def a_problem(k, images=3, dtype=F64):
    start = torch.randn(images, 3, 8, 8, generator=rng(0, "start", k), dtype=F64).to(dtype).clamp(-2, 2)
    return ImageBlock((0, k), (torch.arange(images) + k) % 6, start, {"one": 1.0})


EPSILON = 0.6


def refinement(dtype=F64, **changes):
    maps = ActivationMaps(engine_network(dtype))
    return Refinement(lambda images, labels: (EPSILON - maps(images, labels)).clamp_min(0), **changes)


def refined(problems, fields, how, *, task=None, dtype=F64, **options):
    limit = torch.full((3, 1, 1), 2.0, dtype=dtype)
    voters = {"one": Voter(engine_network(dtype))}
    engine = Recovery(task or toy_task(), fields, voters, (-limit, limit), refine=how, **options)
    return engine.run(problems)


def objective(network, images, labels, r_bn):
    """CE + r_bn BN."""
    logits, distance = logits_and_distance(network, images)
    return F.cross_entropy(logits, labels) + r_bn * distance


def by_hand(problem, fields, *, every=1, step="plain", schedule="constant"):
    """x <- x - M eta grad, M = max(0, eps - C), one problem alone; and the maps that were looked up."""
    network, draws_of = engine_network(), Recovery(toy_task(), fields, {}, None)
    x, looked_up = problem.start.clone(), []
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for t in range(fields.iterations):
        if t % every == 0:
            looked_up.append(class_map(network, x, problem.labels, 8))
            mask = (EPSILON - looked_up[-1]).clamp(min=0)[:, None]
        leaf = x.clone().requires_grad_()
        seen = crop_flip_roll(leaf, draws_of.draws(problem, 0).at(t))
        (gradient,) = torch.autograd.grad(objective(network, seen, problem.labels, fields.r_bn), leaf)
        eta = fields.recover_lr
        if schedule == "cosine":
            eta *= (1 + math.cos(math.pi * t / fields.iterations)) / 2
        if step == "adam":
            first, second = 0.5 * first + 0.5 * gradient, 0.9 * second + 0.1 * gradient**2
            root = (second / (1 - 0.9 ** (t + 1))).sqrt() + 1e-8
            gradient = first / (1 - 0.5 ** (t + 1)) / root
        x = (x - mask * eta * gradient).clamp(-2, 2)
    return x, looked_up


@pytest.mark.parametrize(
    ("how", "changes"),
    [
        ({}, {}),
        ({"every": 2}, {"r_bn": 0.5}),
        ({"schedule": "cosine", "every": 3}, {}),
        ({"step": "adam"}, {"recover_lr": 0.25}),
        ({"step": "adam", "schedule": "cosine"}, {"recover_lr": 0.25}),
        ({}, {"crop": True, "roll": (0, 2)}),
    ],
    ids=str,
)
def test_refinement_is_the_loop_written_out(how, changes):
    problems, fields = [a_problem(0), a_problem(1)], engine_fields(**changes)
    found = refined(problems, fields, refinement(**how))
    for problem, images in zip(problems, found, strict=True):
        wanted, _ = by_hand(problem, fields, **how)
        way = (wanted - problem.start).norm()
        assert way > 0.1 and float((images - wanted).norm() / way) < 1e-9


def test_pixels_of_a_high_map_stay_to_the_bit_and_others_move():
    problem, fields = a_problem(0, images=6), engine_fields()
    (found,) = refined([problem], fields, refinement(every=5))
    _, (heat,) = by_hand(problem, fields, every=5)
    still = (heat >= EPSILON)[:, None].expand_as(found)
    assert 0.05 < still.double().mean() < 0.95
    assert torch.equal(found[still], problem.start[still])
    assert ((found != problem.start)[~still]).double().mean() > 0.9


def test_a_whole_share_of_adams_cosine_is_the_engine_itself():
    problems, fields = [a_problem(0), a_problem(1)], engine_fields(iterations=12, recover_lr=0.1, crop=True)
    ones = Refinement(lambda images, labels: torch.ones_like(images[:, 0]), step="adam", schedule="cosine")
    for one, two in zip(refined(problems, fields, ones), refined(problems, fields, None), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("step", ["plain", "adam"])
@pytest.mark.parametrize("last", [2, 3, 6, 9, 17])
def test_a_stopped_refinement_goes_on_to_the_same_bits(step, last, tmp_path):
    """Three stacks of 6 steps, maps that hold for 3: stopped within, at a look-up, at the end of a stack."""
    problems = [a_problem(k, dtype=torch.float32) for k in range(5)]
    fields = engine_fields(iterations=6, recover_lr=0.2 if step == "adam" else 3.0)
    options = {"at_once": 2, "dtype": torch.float32}
    how = refinement(torch.float32, every=3, step=step)
    whole = refined(problems, fields, how, **options)
    path = tmp_path / "state.safetensors"
    stopped = toy_task(checkpoint=Checkpoint(path, interval=0), reporter=StopAt(last))
    with pytest.raises(Stopped):
        refined(problems, fields, how, task=stopped, **options)
    steps = StopAt()
    again = refined(problems, fields, how, task=toy_task(checkpoint=Checkpoint(path), reporter=steps), **options)
    assert all(torch.equal(one, two) for one, two in zip(whole, again, strict=True))
    assert steps.seen == [*range(last + 1, 19)]


def test_what_diverges_is_a_line():
    with pytest.raises(JobFailed, match="diverged"):
        how = Refinement(lambda images, labels: torch.full_like(images[:, 0], math.nan))
        refined([a_problem(0)], engine_fields(), how)


def test_the_method_refines_its_crops_with_one_map_a_few_steps():
    """The whole method against the formula in float32, from the crops that it begins with."""
    synset, begun = distil(), distil(iterations=0)
    task, hyper = a_task(), hyper_of()
    network, space = teacher_of(task).module(task.device), task.space("normalised")
    low, high = -space.mean[0] / space.std[0], (1 - space.mean[0]) / space.std[0]
    labels = torch.arange(10)
    for j in range(2):
        start = begun.images.unflatten(0, (2, 10))[j]
        x = start.clone()
        for t in range(6):
            if t % 4 == 0:
                mask = (0.6 - class_map(network, x, labels, 8)).clamp(min=0)[:, None]
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(network, leaf, labels, hyper.r_bn), leaf)
            x = (x - mask * 20.0 * gradient).clamp(low, high)
        way = (x - start).norm()
        assert way > 0.5
        assert float((synset.images.unflatten(0, (2, 10))[j] - x).norm() / way) < 1e-3


def test_no_gradient_reaches_the_teacher():
    task = a_task()
    before = teacher_of(task).hash
    distil(task)
    assert teacher_of(a_task()).hash == before


# labels


def test_students_learn_logits_online_replayed_or_distances():
    online, stored, dbr = (distil(labels=labels) for labels in ("online", "replay", "distances"))
    assert [made.targets.kind for made in (online, stored, dbr)] == ["teachers", "replay", "distances"]
    assert torch.equal(online.images, stored.images) and torch.equal(online.images, dbr.images)
    assert online.student_recipe == stored.student_recipe
    assert dbr.student_recipe == online.student_recipe.model_copy(
        update={"loss": {"name": "dbr", "alpha": 1.0, "difference": "squared"}}
    )
    other = distil(labels="distances", alpha_dbr=0.3, dbr_difference="absolute").student_recipe.loss
    assert other == {"name": "dbr", "alpha": 0.3, "difference": "absolute"}


def test_distances_are_of_the_teachers_logits_for_the_seeds_stream():
    task = a_task()
    synset, online = distil(task, labels="distances"), distil()
    kind, targets = targets_of(synset)
    assert targets.params["seed"] == SEED and targets.params["made_by"] == online.targets.params
    assert kind.bytes(synset) == {"targets": 5 * (8 * 2 * 2 + 8)}
    ask = task.labeller(online)
    views = [*views_of(task.training_images(synset)[0], synset.student_recipe, kind.schedule(synset))]
    assert len(views) == 5
    for view, found in zip(views, targets.tensors["distances"], strict=True):
        assert torch.equal(distances(ask(view), synset.classes[view.index], view.permutation).half(), found)


@pytest.mark.parametrize("labels", ["online", "replay", "distances"])
def test_the_shipped_student_trains_and_random_borrows_its_labels(labels):
    synset = distil(labels=labels)
    random = small_tasks.distilled("random", a_task())
    lent = match_recipe(random, synset, digits())
    assert lent.student_recipe == synset.student_recipe and lent.targets.kind == synset.targets.kind
    assert (lent.targets.params == synset.targets.params) and torch.equal(lent.indices, random.indices)
    for made in (synset, lent):
        run = shipped_record(made).runs[0]
        assert run.status == "ok" and run.top1 > 0


# what cannot be, and what is kept


@pytest.mark.parametrize(
    ("network", "changes", "words"),
    [
        ("convnet-d1-w4", {}, "batch norm"),
        ("mlp", {}, "no feature maps"),
        (NETWORK, {"top": 1}, "top 1"),
        (NETWORK, {"pool": 1}, "2 patches of class"),
        (NETWORK, {"factor": 3}, "factor 3 does not divide"),
        (NETWORK, {"shuffle": 3}, "shuffle 3 does not divide"),
        (NETWORK, {"labels": "replay"}, "labels of 5 steps would take"),
        (NETWORK, {"labels": "distances"}, "labels of 5 steps would take"),
    ],
)
def test_what_cannot_end_well_does_not_begin(network, changes, words, monkeypatch):
    monkeypatch.setattr(recording, "MAX_BYTES", 100)
    task = a_task(network=network)
    monkeypatch.setattr(task, "open_cache", lambda *_: pytest.fail("a teacher was asked for"))
    with refused(words):
        distil(task, **changes)


def test_without_refinement_no_norms_are_needed():
    assert distil(a_task(network="convnet-d1-w4"), iterations=0).per_class() == [2] * 10


def a_job(seed=0, **changes):
    return small_tasks.a_job("nrr-dd", network=NETWORK, seed=seed, **{**QUICK, "labels": "distances", **changes})


@pytest.mark.parametrize("last", [1, 4, 5, 6])
def test_a_stopped_job_goes_on_to_the_same_bits(last, tmp_path, monkeypatch):
    whole = distill_job(a_job())
    stop = StopAt(last, "recovering images")
    stopped_elsewhere(monkeypatch, tmp_path / "another", lambda: distill_job(a_job(), stop))
    watch = StopAt(watched="recovering images")
    assert distill_job(a_job(), watch).hash == whole.hash
    assert watch.seen == [*range(last + 1, 7)]
