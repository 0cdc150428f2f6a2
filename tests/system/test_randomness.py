"""Randomness by key: equal keys, equal draws; nothing else is touched."""

import hashlib
import json

import pytest
import torch

from ddbench.randomness import forked, rng, seed_of


def draw(*key):
    return torch.rand(8, generator=rng(*key))


def test_equal_keys_give_equal_draws_and_others_do_not():
    assert torch.equal(draw(3, "dsa", 7), draw(3, "dsa", 7))
    keys = [
        (3, "dsa", 7),
        (4, "dsa", 7),
        (3, "dsa", 8),
        (3, "epoch", 7),
        (3, "dsa"),
        (3,),
        (3, "dsa", "7"),
        (3, "dsa7"),
    ]
    draws = {tuple(draw(*key).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_the_seed_is_the_head_of_a_hash():
    text = json.dumps([5, "a", 2], separators=(",", ":"))
    head = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert seed_of(5, "a", 2) == int(head, 16) // 2 < 2**63


def test_a_generator_leaves_the_global_one_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    draw(0, "x")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_forked_seeds_the_global_generator_and_restores_it():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    with forked(0, "init"):
        first = torch.rand(4)
    torch.rand(100)
    with forked(0, "init"):
        second = torch.rand(4)
    with forked(0, "other"):
        third = torch.rand(4)
    torch.random.set_rng_state(before)
    with forked(0, "init"):
        pass
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_forked_restores_after_an_error():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="inside"), forked(0, "x"):
        torch.rand(3)
        raise RuntimeError("inside")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_task_draws_do_not_meet_a_students():
    """The same number may be a synthesis and an evaluation seed: a network `student` of a method is not the student."""
    from ddbench import networks
    from ddbench.budget import Budget
    from ddbench.data.registry import load_dataset
    from ddbench.distillation.task import Task

    task = Task(load_dataset("digits"), Budget(ipc=1), "convnet-d1-w8", 0, torch.device("cpu"))
    students = networks.create("convnet-d1-w8", channels=1, side=8, classes=10, seed=0, key=("student",))
    methods = task.create_network("student")
    same = [torch.equal(a, b) for a, b in zip(students.parameters(), methods.parameters(), strict=True) if a.ndim > 1]
    assert not any(same)
    assert not torch.equal(torch.rand(4, generator=task.rng("epoch", 0)), draw(0, "epoch", 0)[:4])
