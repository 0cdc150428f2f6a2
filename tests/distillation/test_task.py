"""Task: all that a method is given."""

from dataclasses import replace

import pytest
import torch

from ddbench import networks
from ddbench.budget import Budget
from ddbench.data.dataset import memory_split
from ddbench.data.registry import load_dataset
from ddbench.data.spaces import transform_for
from ddbench.distillation.method import find_method
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task, stratified
from ddbench.errors import JobFailed, UsageError
from ddbench.jobs.job import DataName, DistillJob, distill_job
from ddbench.synset import teachers
from ddbench.training.checkpoints import Checkpoint
from ddbench.training.compute import Compute

CPU = torch.device("cpu")


def a_task(seed=0, **changes):
    return Task(replace(load_dataset("digits"), **changes), Budget(ipc=2), "convnet-d1-w8", seed, CPU)


def pixels(space, indices):
    digits = load_dataset("digits")
    return transform_for(space, digits).encode(digits.train.read(indices).float() / 255)


@pytest.mark.parametrize("kind", ["pixel", "normalised", "zca"])
def test_tensors_are_the_training_split_in_the_space(kind):
    task, digits = a_task(), load_dataset("digits")
    space = task.space(kind)
    images, labels = task.tensors(space)
    assert torch.allclose(images, pixels(space, None), atol=1e-5) and images.dtype == torch.float32
    assert torch.equal(labels, digits.train.labels)
    assert task.tensors(space)[0] is images  # encoded once
    places = torch.tensor([7, 3, 1400])
    assert torch.equal(task.read(space, places), images[places])
    for places, label in zip(task.class_indices(), range(10), strict=True):
        assert places.tolist() == [i for i, value in enumerate(labels.tolist()) if value == label]


def test_a_split_that_does_not_fit_is_read_as_it_is_shown():
    digits = load_dataset("digits")
    task = a_task(train=replace(digits.train, resident=False))
    space = task.space("pixel")
    with pytest.raises(UsageError, match="does not fit in memory"):
        task.tensors(space)
    images, places = task.images(space), torch.tensor([7, 3, 1400])
    assert len(images) == 1438 and torch.equal(images[places], a_task().tensors(space)[0][places])


def test_a_task_knows_no_test_split():
    task, digits = a_task(), load_dataset("digits")
    for name in vars(task.dataset):
        assert getattr(task.dataset, name) is not digits.test
    assert not hasattr(task.dataset, "test")


def test_the_holdout_is_stratified_fixed_and_apart():
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 5)
    kept, held = stratified(labels, 0.2, "split")
    assert sorted(torch.cat([kept, held]).tolist()) == list(range(35))
    assert torch.bincount(labels[held]).tolist() == [2, 4, 1]
    assert torch.equal(stratified(labels, 0.2, "split")[1], held)
    assert not torch.equal(stratified(labels, 0.2, "other")[1], held)
    assert kept.tolist() == sorted(kept.tolist()) and held.tolist() == sorted(held.tolist())
    for fraction in (0.0, 1.0, 0.05, -1.0):
        with pytest.raises(UsageError, match="holdout"):
            stratified(labels, fraction, "split")


def test_a_run_that_asks_for_a_holdout_works_without_it():
    task, other, digits = a_task(seed=0), a_task(seed=5), load_dataset("digits")
    held, again = task.holdout(0.1), other.holdout(0.1)
    assert torch.equal(held.labels, again.labels)  # the same for every synthesis seed
    kept_places, held_places = stratified(digits.train.labels, 0.1, digits.train.hash)
    space = task.space("normalised")
    assert torch.equal(held.images(space), pixels(space, held_places))
    assert torch.equal(held.labels, digits.train.labels[held_places])
    images, labels = task.tensors(space)
    assert torch.equal(images, pixels(space, kept_places)) and torch.equal(labels, digits.train.labels[kept_places])
    assert torch.equal(task.dataset.labels, labels) and len(labels) + len(held.labels) == 1438
    assert torch.equal(task.read(space, torch.tensor([5, 2])), images[[5, 2]])
    assert sum(map(len, task.class_indices())) == len(labels)
    places = torch.tensor([0, 11, 700])
    synset = task.synset(space=space, indices=places, classes=labels[places])
    assert torch.equal(synset.indices, kept_places[places])
    assert torch.equal(synset.pixels(digits), images[places])  # what the method saw is what the student sees


def test_a_holdout_comes_first_and_once():
    task = a_task()
    task.tensors(task.space("pixel"))
    with pytest.raises(UsageError, match="before"):
        task.holdout(0.1)
    task = a_task()
    task.holdout(0.1)
    task.tensors(task.space("pixel"))
    task.holdout(0.1)
    with pytest.raises(UsageError, match="once"):
        task.holdout(0.2)


def test_stages_are_shared_by_seeds_and_split_by_what_makes_them():
    calls = []

    def build():
        calls.append(1)
        return {"x": torch.zeros(1)}, {}

    a_task(seed=0).cached("part", {"k": 1}, build)
    a_task(seed=9).cached("part", {"k": 1}, build)
    assert len(calls) == 1
    reserved = a_task()
    reserved.holdout(0.1)
    other_data = a_task(train=memory_split(*map(torch.clone, (load_dataset("digits").train.read(), torch.zeros(1438)))))
    other_seed = Task(load_dataset("digits"), Budget(ipc=2), "mlp", 0, CPU, stage_seed=1)
    for task, key in ((a_task(), {"k": 2}), (reserved, {"k": 1}), (other_data, {"k": 1}), (other_seed, {"k": 1})):
        task.cached("part", key, build)
    assert len(calls) == 5


def test_networks_by_key():
    task = a_task()
    one, same, other = (task.create_network("net", k) for k in (0, 0, 1))
    named = task.create_network("net", 0, name="mlp")
    assert torch.equal(one.head.weight, same.head.weight) and not torch.equal(one.head.weight, other.head.weight)
    assert one.training and type(named) is type(networks.create("mlp", channels=1, side=8, classes=10))
    assert not torch.equal(a_task(seed=1).create_network("net", 0).head.weight, one.head.weight)


def test_networks_are_credited_by_name_and_made_later():
    task, asked = a_task(), []
    for epoch in (1, 2):
        task.log_teacher("expert 0", lambda: asked.append(1), role="expert", epoch=epoch)
    task.log_teacher("prior", lambda: asked.append(1), role="prior")
    assert list(task.logged_teachers) == ["expert 0", "prior"] and asked == []
    assert task.logged_teachers["expert 0"].facts == {"role": "expert", "name": "expert 0", "epoch": 2}


def test_a_teacher_is_kept_under_its_hash():
    task, digits = a_task(), load_dataset("digits")
    state = task.create_network("teacher", name="mlp").state_dict()
    teacher = task.teacher("mlp", task.space("normalised"), "0" * 64, state)
    assert (teacher.dataset, teacher.split_hash, teacher.side) == ("digits", digits.train.hash, 8)
    assert task.recall_teacher(teacher.hash) is None
    assert task.keep_teacher(teacher) == task.keep_teacher(teacher) == teacher.hash
    found = a_task(seed=5).recall_teacher(teacher.hash)
    assert found.hash == teacher.hash and teachers.require(teacher.hash).network == "mlp"


def test_a_set_comes_off_the_graph_and_a_diverged_one_is_a_failed_job():
    task = a_task()
    images = torch.zeros(10, 1, 8, 8, requires_grad=True)
    made = task.synset(space=task.space("pixel"), images=images * 2, classes=torch.arange(10))
    assert not made.images.requires_grad and made.dataset == "digits"
    images = images.detach()
    images[3, 0, 1, 1] = torch.nan
    with pytest.raises(JobFailed, match="diverged"):
        task.synset(space=task.space("pixel"), images=images, classes=torch.arange(10))


def test_the_loop_counts_and_reports():
    seen = []

    class Spy:
        def advance(self, label, done, total):
            seen.append((label, done, total))

        def metrics(self, step, values):
            seen.append((step, values))

    task = Task(load_dataset("digits"), Budget(ipc=1), "mlp", 0, CPU, reporter=Spy())
    for step in task.loop(2, 4, "matching"):
        task.report(step, loss=0.5)
    assert seen == [(2, {"loss": 0.5}), ("matching", 3, 4), (3, {"loss": 0.5}), ("matching", 4, 4)]


def job(seed=0, **overrides):
    recipe = resolve(find_method("toy"), load_dataset("digits"), Budget(ipc=1), recipe="generic", overrides=overrides)
    return DistillJob.of(DataName("digits"), recipe, seed, Compute())


def test_a_stopped_distillation_goes_on_with_the_same_bits(toys, tmp_path, monkeypatch):
    whole = distill_job(job(steps=8, fail="marked"))
    assert toys.count("step") == 8
    monkeypatch.setenv("DDBENCH_CACHE", str(tmp_path / "another"))
    (tmp_path / "toy.mark").touch()
    for _ in range(2):  # fails after step 4, then after step 5
        with pytest.raises(RuntimeError):
            distill_job(job(steps=8, fail="marked"))
    assert toys.count("step") == 8 + 6
    (tmp_path / "toy.mark").unlink()
    resumed = distill_job(job(steps=8, fail="marked"))
    assert toys.count("step") == 8 + 8 and toys.count("stage") == 2
    assert resumed.hash == whole.hash and resumed.provenance.recipe_hash == whole.provenance.recipe_hash
    assert list((tmp_path / "another" / "checkpoints").glob("*.safetensors")) == []  # done is done
    assert distill_job(job(steps=8, fail="marked")).hash == whole.hash and toys.count("distill") == 4


def test_resume_gives_what_was_saved(tmp_path):
    kept = Checkpoint(tmp_path / "c", interval=0.0)
    task = Task(load_dataset("digits"), Budget(ipc=1), "mlp", 0, CPU, checkpoint=kept)
    assert task.resume() is None and a_task().resume() is None
    task.checkpoint(lambda: {"step": 3, "nested": {"x": [torch.ones(2)]}})
    assert torch.equal(task.resume()["nested"]["x"][0], torch.ones(2)) and task.resume()["step"] == 3
