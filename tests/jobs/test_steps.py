"""Costs of steps: counts against what methods really do, sums against hand calculations, timings kept and reused."""

import time
from dataclasses import replace

import pytest
import torch
from ddbench.methods.engines.decoupled import recover
from ddbench.methods.engines.trajectory import experts

from ddbench import plugins
from ddbench.budget import Budget
from ddbench.data.registry import describe, load_dataset
from ddbench.distillation.method import find_method, method_names
from ddbench.distillation.recipes import resolve
from ddbench.distillation.task import Task
from ddbench.errors import NotDefined, UsageError
from ddbench.jobs import estimate
from ddbench.jobs import steps as costs
from ddbench.jobs.estimate import Estimator, cached_stages, stand_in
from ddbench.jobs.job import DataName, DistillJob
from ddbench.jobs.steps import StepCost, Steps, StepTimer, as_text, cost_of, student_steps
from ddbench.report.papers import OWN, find
from ddbench.settings import cache_dir
from ddbench.synset.views import training_count
from ddbench.training.compute import Compute
from ddbench.training.recipe import StudentRecipe

CPU = torch.device("cpu")


def toy_recipe(name, ipc=1, **changes):
    method = find_method(name)
    return resolve(method, load_dataset("digits"), Budget(ipc), recipe="generic", overrides={**method.toy, **changes})


def cost(name, ipc=1, **changes):
    return cost_of(toy_recipe(name, ipc, **changes), load_dataset("digits"), CPU)


def run(name, ipc=1, **changes):
    recipe = toy_recipe(name, ipc, **changes)
    task = Task(load_dataset("digits"), recipe.budget, recipe.network, 0, CPU)
    return task, recipe.method.distill(task, recipe.hyper)


def test_every_method_with_figures_of_its_own_says_its_cost():
    own = {figure.method for figure in find(protocol=OWN) if not figure.outside}
    assert own <= set(plugins.names(costs.GROUP)) <= set(method_names())


def test_a_students_steps():
    recipe = StudentRecipe(
        network="mlp", optimizer={"name": "sgd", "lr": 0.1}, augmentations=[{"name": "flip"}], epochs=7, batch=8
    )
    training, asked = student_steps(recipe, "mlp", 20, ["lenet"])
    assert (training.kind, training.count, training.images, training.network) == ("train", 7 * 20 // 8, 8, "mlp")
    assert training.augmentations == ('{"name":"flip"}',)
    assert (asked.kind, asked.count, asked.images, asked.network) == ("forward", 17, 8, "lenet")


@pytest.mark.parametrize(("name", "passes"), [("mtt", 1), ("tesla", 1), ("ftd", 2)])
def test_trajectories_take_the_steps_that_are_foreseen(name, passes, monkeypatch):
    more = {"ftd": {"gsam_alpha": 0.1, "ema_decay": 0.9}}.get(name, {})
    calls, gradients = [], experts.step.__globals__["gradients"]
    monkeypatch.setitem(experts.step.__globals__, "gradients", lambda *args: calls.append(1) or gradients(*args))
    expert, inner, second, *_ = cost(name, experts=2, expert_epochs=2, **more).steps
    _, synset = run(name, experts=2, expert_epochs=2, **more)
    assert len(calls) == expert.count and expert.images == 256
    assert inner.count == second.count == 5 * 4 and inner.images == 10
    assert expert.count == passes * 2 * 2 * -(-len(load_dataset("digits").train) // 256)
    assert len(list(cache_dir().glob("stages/experts/*/*.safetensors"))) >= expert.entries - 2
    found = cost(name, experts=2, expert_epochs=2, **more)
    assert found.student.steps(found.images) == synset.student_recipe.steps(10)


@pytest.mark.parametrize("name", ["sre2l", "cda"])
def test_recovery_takes_the_steps_that_are_foreseen(name, monkeypatch):
    monkeypatch.setattr(recover, "CPU_PIXELS", 20 * 64)  # two problems in a stack
    monkeypatch.setattr("ddbench.methods.costs.CPU_PIXELS", 20 * 64)
    calls, step = [], recover.BlockStack.step
    monkeypatch.setattr(recover.BlockStack, "step", lambda self, t: calls.append(len(self.values)) or step(self, t))
    small = {"iterations": 6, "teacher_epochs": 2}
    found = cost(name, 4, **small)
    teacher, work = found.steps
    _, synset = run(name, 4, **small)
    assert (len(calls), calls[0]) == (work.count, work.images) == (2 * 6, 20)
    train = len(load_dataset("digits").train)
    assert teacher.count == 2 * train // teacher.images and teacher.stage == "squeeze"
    assert found.student == synset.student_recipe and found.images == len(synset)
    assert found.labellers == (teacher.network,)


def test_a_committee_shares_the_recovery_and_all_of_it_labels():
    found = cost("cvdd", 4, voters=1, iterations=8)
    recovering = [each for each in found.steps if each.kind == "image"]
    assert len(recovering) == 2 and sum(each.count * each.images for each in recovering) == 8 * 4 * 10
    assert len(found.labellers) == 2


def test_compensators_show_a_student_more_images():
    found = cost("infer", 2)
    _, synset = run("infer", 2, iterations=2, teacher_epochs=1)
    assert found.images == training_count(synset) and found.student == synset.student_recipe


def test_matching_sees_real_and_synthetic_images():
    parts = {each.label: each for each in cost("dm", 3).steps}
    train = load_dataset("digits").train.labels.bincount()
    real = sum(min(32, int(count)) for count in train)
    assert parts["features of real images"].count * parts["features of real images"].images == pytest.approx(40 * real)
    assert parts["gradient"].count * parts["gradient"].images == pytest.approx(40 * 30)
    assert parts["new networks"].count == 40


def test_sums_are_those_of_lines(monkeypatch):
    timer = StepTimer(Compute(), channels=1, side=8, classes=10)
    lines = {"train": StepCost(0.1, 0.01, kept=1000.0, weights=50.0), "forward": StepCost(0.0, 0.002, 1000.0, 50.0)}
    monkeypatch.setattr(timer, "network", lambda kind, name: lines[kind])
    monkeypatch.setattr(timer, "augmentation", lambda part: StepCost(0.001, 0.0001))
    steps = Steps("x", "train", 7, 20, "mlp", as_text({"name": "flip"}, None))
    assert timer.seconds(steps) == pytest.approx(7 * (0.1 + 0.01 * 20 + 0.001 + 0.0001 * 20))
    assert timer.seconds(replace(steps, kind="augment", count=3, images=10)) == pytest.approx(3 * 0.002)
    assert timer.memory(steps) == 20 * (1000 + 2 * 4 * 64) + 4 * 50
    assert timer.memory(replace(steps, kind="forward")) == 20 * 2 * 4 * 64 + 4 * 50


@pytest.mark.parametrize(("a", "b"), [(0.02, 0.003), (1.0, 0.5)])  # of a slow step fewer images are timed
def test_the_line_goes_through_both_timings(a, b, monkeypatch):
    monkeypatch.setattr(costs, "seconds_of", lambda call, compute: call())
    line = costs.line_through(lambda count: a + b * count, Compute())
    assert (line.a, line.b) == (pytest.approx(a), pytest.approx(b))
    assert costs.line_through(lambda count: 0.1 / count, Compute()).b == 0.0


def test_a_call_is_timed_in_seconds_of_a_thread():
    def spin():
        started = time.process_time()
        while time.process_time() < started + 0.02:
            pass

    assert costs.seconds_of(spin, Compute()) == pytest.approx(0.02, rel=0.3)
    assert costs.seconds_of(spin, Compute(threads=2)) == pytest.approx(0.01, rel=0.3)


def test_timings_are_kept_per_machine(monkeypatch):
    told = []
    steps = Steps("x", "second", 2, 4, "convnet-d1-w8", as_text({"name": "flip", "p": 0.5}))
    first = StepTimer(Compute(), 1, 8, 10, told.append).seconds(steps)
    assert first > 0 and len(told) == 2
    monkeypatch.setattr(costs, "seconds_of", lambda call, compute: pytest.fail("timed again"))
    assert StepTimer(Compute(), 1, 8, 10, told.append).seconds(steps) == first and len(told) == 2
    monkeypatch.setattr(costs, "seconds_of", lambda call, compute: 1.0)
    assert StepTimer(Compute(threads=2), 1, 8, 10, told.append).seconds(steps) != first


def test_a_stand_in_has_sizes_and_no_pixels():
    card = describe("tiny-imagenet")
    found = stand_in(card, Budget(50))
    assert (len(found.class_names), len(found.train), len(found.test), found.side) == (200, 100_000, 10_000, 64)
    assert found.train.labels.bincount().tolist() == [500] * 200
    with pytest.raises(UsageError, match="not on this machine"):
        found.train.read(torch.tensor([0]))


def test_estimates_are_sums_of_steps_without_what_is_cached(monkeypatch):
    monkeypatch.setattr(StepTimer, "seconds", lambda self, steps: steps.count * steps.images)
    monkeypatch.setattr(StepTimer, "memory", lambda self, steps: steps.images)
    recipe, digits, estimator = toy_recipe("sre2l", 2), load_dataset("digits"), Estimator(Compute())
    teacher, recovering = cost("sre2l", 2).steps
    whole = estimator.of_set(recipe, digits)
    assert whole.seconds == teacher.count * teacher.images + recovering.count * recovering.images
    rest = estimator.of_set(recipe, digits, cached={"squeeze": [1]})
    assert rest.seconds == recovering.count * recovering.images
    student = cost("sre2l", 2).student.steps(20) * 10
    own = estimator.of_student(recipe, digits, "shipped-v1")
    assert own.seconds == pytest.approx(2 * student + len(digits.test))  # its labels cost as many images
    for each in (recipe, toy_recipe("random", 2)):
        hard = estimator.of_student(each, digits, "hard-v1", "mlp")
        assert hard.seconds == pytest.approx(300 * 20 + len(digits.test))
    assert estimator.of_set(toy_recipe("random", 2), digits).seconds is None


def test_an_entry_of_a_stage_is_counted_whole_or_not():
    parts = [Steps(f"run {n}", kind, 8, 1, stage="runs") for n in range(3) for kind in ("train", "forward")]
    left = [each.count for each in estimate._not_cached([*parts, Steps("rest", "train", 5, 1)], {"runs": [1, 0]})]
    assert left == [0, 0, 8, 8, 8, 8, 5]


def test_a_cell_without_definition_is_excluded():
    with pytest.raises(NotDefined):
        cost("infer", 1)
    recipe, digits, estimator = toy_recipe("infer", 1), load_dataset("digits"), Estimator(Compute())
    for found in (estimator.of_set(recipe, digits), estimator.of_student(recipe, digits, "shipped-v1")):
        assert found.excluded and found.seconds is None and "no room" in found.basis


def test_cached_entries_of_stages_are_counted():
    job = DistillJob.of(DataName("digits"), toy_recipe("mtt"), 0, Compute())
    assert cached_stages(job) == {"experts": [0]}
    run("mtt")
    (entries,) = cached_stages(job)["experts"]
    assert entries >= 2  # the beginning and the first epoch
