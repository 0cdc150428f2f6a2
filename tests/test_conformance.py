"""What every installed method must do, on digits with its declared toy settings; a third party's as ours."""

import pytest
import torch

from ddbench.budget import Budget
from ddbench.data import load_dataset
from ddbench.evaluation import Setting, evaluate_once
from ddbench.jobs import DataName, DistillJob, distill_job
from ddbench.method import find_method, method_names
from ddbench.protocol import find_protocol
from ddbench.recipes import published, resolve
from ddbench.synset import load

pytestmark = pytest.mark.parametrize("name", method_names())


def job(name, seed=0):
    """The cheapest cell of the method: digits at its smallest IPC (or all of it), generic recipe with its toy settings."""
    method = find_method(name)
    budget = Budget() if method.budgets == ("all",) else Budget(ipc=method.toy_ipc)
    fields = {**published(method).generic, **method.toy}
    recipe = resolve(method, load_dataset("digits"), budget, recipe="generic", overrides=fields)
    return DistillJob.of(DataName("digits"), recipe, seed, Setting())


def test_the_set_is_whole_and_says_where_it_comes_from(name):
    dataset, before = load_dataset("digits"), load_dataset("digits").train.read().clone()
    made = job(name)
    synset = distill_job(made)
    assert synset.dataset == "digits" and synset.split_hash == dataset.train.hash
    assert synset.class_names == dataset.class_names and synset.classes.dtype == torch.int64
    if find_method(name).balanced:
        assert synset.per_class() == [1] * 10
    images = synset.pixels(dataset)
    assert images.dtype == torch.float32 and images.shape == (len(synset), 1, 8, 8) and torch.isfinite(images).all()
    assert synset.provenance.method == name and synset.provenance.recipe == made.resolved().to_json()
    assert torch.equal(dataset.train.read(), before), "the training images were written to"
    assert load(made.path).hash == synset.hash


def test_equal_seeds_give_equal_bits(name, tmp_path, monkeypatch):
    first = distill_job(job(name))
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    torch.manual_seed(99)  # what a global stream holds must not matter
    assert distill_job(job(name)).hash == first.hash


def test_another_seed_gives_another_set_or_the_method_draws_nothing(name):
    one, other = distill_job(job(name, 0)), distill_job(job(name, 1))
    draws_nothing = name in ("whole", "kcenter", "herding", "prune")  # easiest first: scores are a stage's, not drawn
    assert (one.hash == other.hash) == draws_nothing


def test_students_are_better_than_chance(name):
    record = evaluate_once(
        distill_job(job(name)), load_dataset("digits"), find_protocol("hard-v1"), seed=0, setting=Setting()
    )
    assert record.runs[0].top1 > 0.3
