"""Choices and rules of the trajectory methods against loops: images and labels to begin with, windows, factors."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from ddbench.methods import ast, datm
from ddbench.methods.engines.trajectory.flat import FlatNetwork, flatten

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.dataset import memory_split
from ddbench.data.registry import load_dataset
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task
from ddbench.errors import JobFailed, UsageError
from ddbench.randomness import rng

SEED = 5
COMMON = {
    "syn_steps": 4,
    "expert_epochs": 2,
    "max_start_epoch": 3,
    "lr_img": 1.0,
    "lr_lr": 1e-6,
    "lr_teacher": 0.02,
    "space": "normalised",
}
AST = {"weight_perturb": True, "balance_loss": True, "match_middle": True, "init": "representative"}


def a_task(ipc=1, seed=SEED):
    whole = load_dataset("digits")
    data = replace(whole, train=memory_split(whole.train.read()[:150], whole.train.labels[:150]))
    return Task(data, Budget(ipc), "convnet-d1-w4", seed, torch.device("cpu"))


def datm_of(**fields):
    return find_method("datm").hyper.model_validate({**COMMON, "lr_y": 0.5, "final_epoch": 6, "experts": 2, **fields})


def numbers(experts):
    """What stands for their weights."""
    return [*torch.arange(float(experts))[:, None]]


# datm


@pytest.mark.parametrize(
    ("low", "first", "last", "end", "iterations"),
    [(0, 1, 4, 7, 9), (2, 10, 20, 13, 20), (0, 3, 3, 5, 6), (1, 2, 9, 1, 3)],
)
def test_datms_window_grows_by_the_formula(low, first, last, end, iterations):
    growth = {"current_max_start_epoch": first, "expansion_end_epoch": end}
    hyper = datm_of(min_start_epoch=low, max_start_epoch=last, **growth)
    for iteration in range(iterations):
        exact = first + Fraction((last - first) * iteration, end)
        assert datm.window_end(hyper, iteration) == min(last, math.floor(exact))
    assert datm.window_end(hyper, 0) == first and datm.window_end(hyper, end) == last
    fixed = datm_of(min_start_epoch=low, max_start_epoch=last)
    assert {datm.window_end(fixed, iteration) for iteration in range(iterations)} == {last}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"min_start_epoch": 3}, "min_start_epoch must be below"),
        ({"min_start_epoch": 1, "current_max_start_epoch": 1, "expansion_end_epoch": 5}, "min_start_epoch must be"),
        ({"current_max_start_epoch": 2}, "give both"),
        ({"expansion_end_epoch": 2}, "give both"),
    ],
)
def test_a_window_without_epochs_is_refused(fields, words):
    overrides = {**COMMON, "lr_y": 1.0, **fields}
    with pytest.raises(UsageError, match=words):
        resolve(find_method("datm"), load_dataset("digits"), Budget(1), recipe="generic", overrides=overrides)


class Table:
    """Experts whose final logits for the real images of a task are looked up: table [experts, n, K]."""

    def __init__(self, task, table, final):
        self.images, self.table, self.final = task.tensors(task.space("normalised"))[0].flatten(1), table, final
        assert len(self.images.unique(dim=0)) == len(self.images)

    def at(self, expert, epoch):
        assert epoch == self.final
        return torch.tensor([float(expert)])

    def network(self, vector, images):
        places = (images.flatten(1)[:, None] == self.images).all(2).int().argmax(1)
        return self.table[int(vector)][places]


def a_table(task, experts, right, seed):
    """Logits that are right for a given share of images."""
    g, labels = torch.Generator().manual_seed(seed), task.dataset.labels
    table = torch.randn(experts, len(labels), 10, generator=g)
    for expert in range(experts):
        for place, label in enumerate(labels.tolist()):
            if torch.rand((), generator=g) < right:
                table[expert, place, label] += 10
    return table


def right_by_loops(task, table, ipc, *, reset=False):
    """Places; `reset`: what they would be if every class began with expert 0."""
    reference, chosen = 0, []
    for label in range(10):
        reference = 0 if reset else reference
        places = [place for place, own in enumerate(task.dataset.labels.tolist()) if own == label]
        order = torch.randperm(len(places), generator=rng(task.seed, "synthesis", "right", label)).tolist()
        mine = []
        while True:
            for place in (places[i] for i in order):
                if (
                    len(mine) < ipc
                    and place not in mine
                    and max(range(10), key=lambda k: table[reference, place, k]) == label
                ):
                    mine.append(place)
            if len(mine) == ipc:
                break
            reference = (reference + 1) % len(table)
        chosen += mine
    return chosen


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_datm_begins_with_images_that_experts_classify_rightly(seed):
    task = a_task(ipc=5, seed=seed)
    table = a_table(task, 4, 0.3, seed)
    found = datm.rightly_classified(task, datm_of(experts=4), Table(task, table, 6), numbers(4))
    wanted = right_by_loops(task, table, 5)
    assert found.tolist() == wanted and len(set(wanted)) == 50
    assert task.dataset.labels[found].tolist() == [label for label in range(10) for _ in range(5)]
    assert wanted != right_by_loops(task, table, 5, reset=True)


def test_datms_next_expert_goes_on_where_one_did_not_find_enough_and_stays_for_later_classes():
    task = a_task(ipc=2)
    labels = task.dataset.labels
    table = torch.zeros(2, len(labels), 10)
    pools = task.class_indices()
    for expert in (0, 1):  # everything right but for class 3, of which each expert knows one image
        table[expert, torch.arange(len(labels)), labels] = 1.0
        table[expert, pools[3]] = torch.eye(10)[0]
        table[expert, pools[3][expert], 3] = 2.0
    later = pools[4][: len(pools[4]) // 2]
    table[0, later] = torch.eye(10)[0]  # expert 0 would not take these
    found = datm.rightly_classified(task, datm_of(), Table(task, table, 6), numbers(2))
    assert found[6:8].tolist() == pools[3][:2].tolist()
    order = pools[4][torch.randperm(len(pools[4]), generator=rng(SEED, "synthesis", "right", 4))]
    assert found[8:10].tolist() == order[:2].tolist()
    assert set(order[:2].tolist()) & set(later.tolist())  # else this tested nothing
    table[1, pools[3]] = torch.eye(10)[0]
    with pytest.raises(JobFailed, match=r"only 1 images of class 3 rightly, 2 are needed.*final_epoch") as error:
        datm.rightly_classified(task, datm_of(), Table(task, table, 6), numbers(2))
    assert "\n" not in str(error.value)


def test_datms_labels_are_the_mean_logits_of_the_experts_that_are_right():
    task = a_task(ipc=3)
    table = a_table(task, 4, 0.5, 7)
    hyper = datm_of(experts=4, init="correct")
    learned = datm.begin(task, hyper, Table(task, table, 6))
    places = datm.rightly_classified(task, hyper, Table(task, table, 6), numbers(4))
    assert torch.equal(learned.images, task.read(task.space("normalised"), places))
    assert learned.logits and learned.syn_lr == 0.02 and learned.iteration == 0
    counts = set()
    for row, place in enumerate(places.tolist()):
        label = int(task.dataset.labels[place])
        right = [table[e, place] for e in range(4) if int(table[e, place].argmax()) == label]
        counts.add(len(right))
        torch.testing.assert_close(learned.labels[row], sum(right) / len(right))
    assert {1, 2, 3} <= counts


def test_datms_real_init_takes_one_experts_logits_right_or_wrong():
    task = a_task(ipc=2)
    table = a_table(task, 3, 0.3, 1)
    learned = datm.begin(task, datm_of(experts=3, init="real"), Table(task, table, 6))
    one = int(torch.randint(3, (), generator=rng(SEED, "synthesis", "label-expert")))
    assert torch.equal(learned.labels, Table(task, table, 6).network(torch.tensor([one]), learned.images))
    assert not torch.equal(learned.labels.argmax(1), torch.arange(10).repeat_interleave(2))
    first = torch.randperm(len(task.class_indices()[0]), generator=rng(SEED, "synthesis", "random", 0))[:2]
    places = task.class_indices()[0][first]  # as the baseline `random` draws
    assert torch.equal(learned.images[:2], task.read(task.space("normalised"), places))


# ast


def test_middle_targets_need_a_step_each():
    overrides = {**COMMON, **AST, "student_epochs": 9, "syn_steps": 2, "expert_epochs": 3}
    with pytest.raises(UsageError, match="match_middle needs syn_steps"):
        resolve(find_method("ast"), load_dataset("digits"), Budget(1), recipe="generic", overrides=overrides)


@pytest.mark.parametrize(
    ("t", "last", "inside", "power"),
    [(0, 1, 8, 1), (2, 5, 8, 1), (10, 20, 8, 1), (19, 20, 17, 1), (0, 20, 18, -1), (9, 20, 9, -1)],
)
def test_the_balance_factor(t, last, inside, power):
    """Times log_5(t - T // 2 + 8) from T // 2 on, before it divided by log_5(T // 2 - t + 8)."""
    assert ast.balance(t, last) == pytest.approx((math.log(inside) / math.log(5)) ** power)


def test_the_perturbation_is_of_kernels_alone_and_of_frobenius_norm_one():
    network = networks.create("convnet-d2-w4", channels=1, side=8, classes=10)
    flat, vector = FlatNetwork(network), flatten(network).add(2)  # away from 0
    kept = vector.clone()
    moved = ast.perturbed(vector, flat.kernels(), rng(0, "x"))
    assert torch.equal(vector, kept)
    kinds = set()
    for before, after in zip(flat.unflatten(vector).values(), flat.unflatten(moved).values(), strict=True):
        kinds.add(before.dim())
        if before.dim() == 4:
            assert (after / before - 1).norm().item() == pytest.approx(1, rel=1e-4)
        else:
            assert torch.equal(before, after)
    assert kinds == {1, 2, 4}
    assert not torch.equal(moved, ast.perturbed(vector, flat.kernels(), rng(1, "x")))


def blobs(sizes, spread=0.05):
    """Points around centres far apart, and the blob of each, in mixed order."""
    g = torch.Generator().manual_seed(len(sizes))
    own = torch.cat([torch.full((size,), blob) for blob, size in enumerate(sizes)])
    own = own[torch.randperm(len(own), generator=g)]
    centres = 10 * torch.eye(len(sizes), len(sizes))
    return centres[own] + spread * torch.randn(len(own), len(sizes), generator=g), own


@pytest.mark.parametrize("count", [5, 6, 8, 10, 14, 25])
def test_the_nearest_to_every_centre_are_chosen_and_larger_clusters_give_what_is_left(count):
    sizes = [6, 7, 8, 9, 10]
    points, own = blobs(sizes)
    found = ast.near_centres(points, count, 5)
    assert len(found) == len(set(found.tolist())) == count
    by_size = sorted(range(5), key=lambda blob: -sizes[blob])
    wanted = set()
    for blob in range(5):
        places = (own == blob).nonzero()[:, 0].tolist()
        centre = points[places].double().mean(0)
        places.sort(key=lambda p: float((points[p].double() - centre).square().sum()))
        wanted |= set(places[: count // 5 + (blob in by_size[: count % 5])])
    assert set(found.tolist()) == wanted


@pytest.mark.parametrize("count", range(1, 13))
def test_every_count_gives_that_many_distinct_points(count):
    points, own = blobs([1, 1, 2, 4, 4])  # clusters of fewer points than their share
    found = ast.near_centres(points, count, 5)
    assert found.dtype == torch.int64 and len(found) == len(set(found.tolist())) == count
    assert set(own[found].tolist()) == {*range(5)} or count < 5
    if count == 1:
        assert found.item() == int((points - points.mean(0)).square().sum(1).argmin())


def test_ast_begins_near_the_centres_of_a_random_experts_logits():
    task = a_task(ipc=4)
    table = a_table(task, 3, 0.5, 2)
    fields = {**COMMON, **AST, "student_epochs": 9, "experts": 3, "final_epoch": 9, "clusters": 3}
    hyper = find_method("ast").hyper.model_validate(fields)
    found = ast.representative_images(task, hyper, Table(task, table, 9))
    one = int(torch.randint(3, (), generator=rng(SEED, "synthesis", "cluster-expert")))
    wanted = [pool[ast.near_centres(table[one][pool], 4, 3)] for pool in task.class_indices()]
    assert torch.equal(found, task.read(task.space("normalised"), torch.cat(wanted)))
