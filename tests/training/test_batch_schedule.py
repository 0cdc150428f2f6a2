"""Schedules: each step's batch by its number, in any order."""

import pytest
import torch

from ddbench.augment import build_augmentation, build_mixing
from ddbench.errors import UsageError
from ddbench.randomness import rng
from ddbench.training.batch_schedule import BatchSchedule
from ddbench.training.batches import Batches, Order, views_of
from ddbench.training.recipe import StudentRecipe

SHAPES = [(30, 12), (24, 12), (7, 3), (5, 12), (12, 12), (1, 4), (100, 7), (7, 5)]
AUGMENTATIONS = [{"name": "pad-crop", "pad": 2}, {"name": "shuffle-patches", "factor": 2}]


def recipe(**changes):
    fields = {"network": "mlp", "optimizer": {"name": "sgd", "lr": 0.1}, "epochs": 4, "batch": 12}
    return StudentRecipe.model_validate({**fields, **changes})


def pictures(count=30):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def one_after_another(count, batch, steps, seed):
    """The definition: permutations in a row, cut into batches."""
    size, epoch, pool, batches = min(batch, count), 0, torch.empty(0, dtype=torch.int64), []
    for _ in range(steps):
        while len(pool) < size:
            pool = torch.cat([pool, torch.randperm(count, generator=rng(seed, "epoch", epoch))])
            epoch += 1
        batches.append(pool[:size])
        pool = pool[size:]
    return batches


@pytest.mark.parametrize(("count", "batch"), SHAPES)
def test_steps_can_be_asked_for_in_any_order(count, batch):
    wanted = one_after_another(count, batch, 40, 3)
    order = Order(count, batch, 3)
    for step in [*range(40), *reversed(range(40)), 17, 0, 39, 3]:
        assert torch.equal(order.at(step), wanted[step])
    assert torch.equal(Order(count, batch, 3).at(39), wanted[39])


def test_a_late_step_costs_what_an_early_one_does(monkeypatch):
    drawn = []
    real = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *args, **more: drawn.append(args) or real(*args, **more))
    order = Order(100, 30, 0)
    order.at(10**9)
    assert len(drawn) <= 2
    drawn.clear()
    for step in range(1000):
        order.at(step)
    assert len(drawn) == 300  # each epoch once


@pytest.mark.parametrize("mix", [None, {"name": "cutmix"}, {"name": "mixup"}])
def test_a_batch_is_made_by_the_draws_of_its_view(mix):
    images, plan = pictures(), recipe(augmentations=AUGMENTATIONS, mix=mix)
    batches = Batches(images, plan, BatchSchedule(5, (2, 3, 11)))
    for step, view in ((0, 2), (1, 3), (2, 11), (3, 2), (7, 3)):
        batch, generator = batches.at(step), rng(5, "augment", view)
        wanted = images[one_after_another(30, 12, 12, 5)[view]]
        for spec in AUGMENTATIONS:
            wanted = build_augmentation(spec)(wanted, generator)
        permutation, weight = None, 1.0
        if mix:
            wanted, permutation, weight = build_mixing(mix)(wanted, generator)
            assert torch.equal(batch.permutation, permutation)
        assert torch.equal(batch.images, wanted) and (batch.step, batch.seed, batch.weight) == (view, 5, weight)
        assert (batch.permutation is None) == (mix is None)


def test_views_are_those_of_all_steps_or_of_some():
    images, plan = pictures(), recipe(augmentations=AUGMENTATIONS)
    every = list(views_of(images, plan, BatchSchedule(1)))
    assert [batch.step for batch in every] == list(range(10))
    some = list(views_of(images, plan, BatchSchedule(1), [7, 2]))
    assert [batch.step for batch in some] == [7, 2]
    assert torch.equal(some[0].images, every[7].images) and torch.equal(some[1].index, every[2].index)
    assert [batch.step for batch in views_of(images, plan, BatchSchedule(1, (4, 6)))] == [4, 6] * 5


@pytest.mark.parametrize("steps", [(), (3, -1)])
def test_steps_of_a_schedule_are_checked(steps):
    with pytest.raises(UsageError, match="at least one step"):
        BatchSchedule(0, steps)
